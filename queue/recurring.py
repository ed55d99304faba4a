"""Tables of jobs that recur, and of what came of each time: see tables.py."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, CheckConstraint, Column, Index
from sqlmodel import Field, SQLModel


class ScheduleRow(SQLModel, table=True):
    """A job that recurs: which files become batches when, and how."""

    __tablename__ = "schedules"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (CheckConstraint("missed IN ('all', 'once', 'skip')", name="missed_known"),)

    tenant: str = Field(primary_key=True)
    name: str = Field(primary_key=True)
    cron: str
    timezone: str
    file: str
    """A path below the folder of inputs, with `{date}` and `{time}` or wildcards in it, or a folder."""
    endpoint: str
    options: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    """As a batch has them; the deadline is a duration."""
    missed: str
    overlap: bool = False
    created_at: datetime
    paused_at: datetime | None = None
    looked_at: datetime
    """What was due until then has been seen to."""
    made_by: str | None = None
    """Who made or resumed it, as the audit log names them: where that is a key which is over, it stops."""


class ReleaseRow(SQLModel, table=True):
    """What came of one file at one time that a schedule was due, or of the time as a whole."""

    __tablename__ = "releases"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (
        CheckConstraint("state IN ('failed', 'skipped', 'submitted')", name="release_state_known"),
        CheckConstraint("(state = 'submitted') = (batch_id IS NOT NULL)", name="submitted_has_batch"),
        Index("releases_by_schedule", "tenant", "schedule", "id"),
        Index("releases_by_age", "state", "at"),
    )

    id: int | None = Field(default=None, primary_key=True)
    tenant: str
    schedule: str
    due_at: datetime
    at: datetime
    state: str
    file: str = ""
    mark: str = ""
    """The file as it was, by which a folder's new files are told from those that were taken."""
    batch_id: str | None = None
    note: str = ""
