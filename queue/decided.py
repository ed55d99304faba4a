"""Tables of what operators decided: see tables.py."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import JSON, CheckConstraint, Column
from sqlmodel import Field, SQLModel


class OverrideRow(SQLModel, table=True):
    """What an operator decided: `plan` is `frozen`, or `pool:NAME` is `cordoned` or `drained`; until it is lifted or over."""

    __tablename__ = "overrides"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (CheckConstraint("how IN ('frozen', 'cordoned', 'drained')", name="override_known"),)

    what: str = Field(primary_key=True)
    how: str
    since: datetime
    until: datetime | None = None


class WindowRow(SQLModel, table=True):
    """A window of a pool, and what was decided on it; of one that the configuration declares only the latter."""

    __tablename__ = "windows"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (
        CheckConstraint(
            "(pool IS NULL) = (cron IS NULL) AND (pool IS NULL) = (duration IS NULL) AND (pool IS NULL) = (timezone IS NULL) "
            "AND (pool IS NULL) = (share IS NULL)",
            name="declared_whole",
        ),
        CheckConstraint("share > 0 AND share <= 1", name="share_is_a_part"),
        CheckConstraint("paused_until IS NULL OR paused_at IS NOT NULL", name="pause_has_a_start"),
    )

    name: str = Field(primary_key=True)
    pool: str | None = None
    """None, as all that it is declared by: the configuration declares it."""
    cron: str | None = None
    duration: str | None = None
    timezone: str | None = None
    share: float | None = None
    max_intensity_g_per_kwh: float | None = None
    only_if_below_forecast_percentile: float | None = None
    created_at: datetime
    paused_at: datetime | None = None
    paused_until: datetime | None = None
    """None: until it is resumed."""
    skipped: list[str] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    """The starts by its cron line, as instants, that open nothing."""
    extended: list[list[str]] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    """Stretches of time, as pairs of instants, in which it is open whatever its cron line says."""
