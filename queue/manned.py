"""Tables of those that work and of those that start them: see tables.py."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import JSON, BigInteger, CheckConstraint, Column, Index, text
from sqlmodel import Field, SQLModel

_AT_WORK = text("state = 'active'")


class WorkerRow(SQLModel, table=True):
    """A worker that presented itself."""

    __tablename__ = "workers"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (
        CheckConstraint("state IN ('active', 'gone')", name="state_known"),
        Index("workers_at_work", "pool", sqlite_where=_AT_WORK, postgresql_where=_AT_WORK),
    )

    id: str = Field(primary_key=True)
    pool: str
    host: str
    pid: int
    state: str = "active"
    registered_at: datetime
    seen_at: datetime
    ready_models: list[str] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    protocol: int = 1
    version: str = ""
    spent_number: int = Field(default=0, sa_type=BigInteger)
    idle_w: float | None = None
    """Watts of the replica before a model was loaded; None where nothing measured it."""
    logs_bytes: int | None = Field(default=None, sa_type=BigInteger)
    renames: bool | None = None
    """Whether it can serve requests with another model than they name; None before its first claim."""
    replica: str = ""
    """The name by which a launcher started it; empty: nobody did."""
    finished: int = 0
    """Chunks that it finished with an answer in them."""
    failed: int = 0
    """Chunks under which its engine failed."""
    ills: list[str] | None = Field(default=None, sa_column=Column(JSON, nullable=True))
    """What its GPUs suffer from, in words; None where it sees none."""
    spare_server: str | None = None
    """The server of online users that it has work for; None: none."""
    spare_desk: str | None = None
    """With whom it keeps one budget there."""
    ill_at: datetime | None = None
    """When it last said that they do."""
    broken: dict[str, int] | None = Field(default=None, sa_column=Column(JSON, nullable=True))
    """GPUs that nothing should be begun on, by name: their memory's uncorrected errors, -1 where one answers no more."""
    pardoned: dict[str, int] | None = Field(default=None, sa_column=Column(JSON, nullable=True))
    """Those that an operator let go on all the same, as they were then."""
    preparing: str | None = None
    """The model that the answer to its last claim told it to get ready."""
    preparing_at: datetime | None = None
    """Since when it has been told so, without having it ready in between."""
    preparing_for: str | None = None
    """The batch of which a chunk waited for that; None: it is for what the plan begins next."""
    lacking: list[str] | None = Field(default=None, sa_column=Column(JSON, nullable=True))
    """Models that its engine turned out not to have, as it said with its last claim."""
    adapters: bool | None = None
    """Whether it starts engines with adapters; None: registered before that was kept."""
    modes: list[str] | None = Field(default=None, sa_column=Column(JSON, nullable=True))
    """Ways to serve that it can start engines for, beside the plain one; None: registered before that was kept."""
    spare_part: int | None = None
    """Of the ceiling of that server, what it was last told that its desk may use; None: all, or it is at none."""
    failing_since: datetime | None = None
    """Since when each try to have its engine failed; None: it was ready, or was not tried."""
    failing_times: int = 0
    """How often in a row."""
    failing_why: str = ""
    """Why the last time, in words."""


class LauncherRow(SQLModel, table=True):
    """What a launcher can run of a pool, as it said last."""

    __tablename__ = "launchers"  # pyright: ignore[reportAssignmentType]

    name: str = Field(primary_key=True)
    pool: str = Field(primary_key=True)
    replicas: int
    trouble: str = ""
    failing: int = 0
    """Places where workers die again and again."""
    share: int = 0
    """Of what is wanted of the pool, what it was last told to run."""
    seen_at: datetime
