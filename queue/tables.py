"""Every table, declared with SQLModel. Hot paths use the `Table` objects below with Core statements, never ORM sessions.

SQLModel does not validate table classes, so the schema itself does: CHECK constraints, NOT NULL and foreign keys.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, cast

from sqlalchemy import JSON, BigInteger, CheckConstraint, Column, ForeignKey, Index, String, Table, UniqueConstraint
from sqlmodel import Field, SQLModel

from batchsched.queue.states import BATCH_TRANSITIONS, CHUNK_TRANSITIONS


def _one_of(column: str, values: Any) -> CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in sorted(values))
    return CheckConstraint(f"{column} IN ({listed})", name=f"{column}_known")


class FileRow(SQLModel, table=True):
    """An uploaded or produced file; its bytes lie in the store under its id."""

    __tablename__ = "files"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (_one_of("status", ("uploaded", "processed", "error")), CheckConstraint("bytes >= 0", name="bytes_positive"))

    id: str = Field(primary_key=True)
    purpose: str
    filename: str
    bytes: int = Field(sa_type=BigInteger)
    sha256: str
    status: str = "processed"
    status_details: str | None = None
    created_at: datetime = Field(index=True)
    expires_at: datetime | None = None


class BatchRow(SQLModel, table=True):
    """A batch: one input file, one model, one endpoint, a deadline."""

    __tablename__ = "batches"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (
        _one_of("state", BATCH_TRANSITIONS),
        CheckConstraint("total >= 0 AND completed >= 0 AND failed >= 0", name="counts_positive"),
        CheckConstraint("completed + failed <= total", name="counts_within_total"),
        Index("batches_by_state", "state", "deadline_at"),
        Index("batches_by_age", "created_at", "id"),
    )

    id: str = Field(primary_key=True)
    endpoint: str
    input_file_id: str
    completion_window: str
    state: str
    model: str | None = None
    created_at: datetime
    deadline_at: datetime
    in_progress_at: datetime | None = None
    finalizing_at: datetime | None = None
    completed_at: datetime | None = None
    failed_at: datetime | None = None
    expired_at: datetime | None = None
    cancelling_at: datetime | None = None
    cancelled_at: datetime | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    meta: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    options: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    errors: list[Any] | None = Field(default=None, sa_column=Column(JSON))
    verdict: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON))
    total: int = 0
    completed: int = 0
    failed: int = 0
    input_bytes: int = Field(default=0, sa_type=BigInteger)
    max_tokens_total: int | None = Field(default=None, sa_type=BigInteger)
    input_tokens: int = Field(default=0, sa_type=BigInteger)
    cached_tokens: int = Field(default=0, sa_type=BigInteger)
    output_tokens: int = Field(default=0, sa_type=BigInteger)


class ChunkRow(SQLModel, table=True):
    """A run of consecutive requests: the unit of leasing. `token` only ever grows; every write of a lease must match it."""

    __tablename__ = "chunks"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (
        _one_of("state", CHUNK_TRANSITIONS),
        CheckConstraint("(state = 'leased') = (lease_until IS NOT NULL)", name="lease_has_end"),
        CheckConstraint("completed >= 0 AND failed >= 0 AND completed + failed <= lines", name="counts_within_lines"),
        CheckConstraint("state <> 'done' OR completed + failed = lines", name="done_is_whole"),
        UniqueConstraint("batch_id", "position", name="chunk_once"),
        Index("chunks_by_state", "batch_id", "state", "position"),
        Index("chunks_leased", "state", "lease_until"),
    )

    id: str = Field(primary_key=True)
    batch_id: str = Field(sa_column=Column(String, ForeignKey("batches.id"), nullable=False))
    position: int
    first_line: int
    lines: int
    byte_start: int = Field(sa_type=BigInteger)
    byte_end: int = Field(sa_type=BigInteger)
    state: str = "pending"
    token: int = Field(default=0, sa_type=BigInteger)
    worker_id: str | None = None
    pool: str | None = None
    lease_until: datetime | None = None
    not_before: datetime | None = None
    attempts: int = 0
    completed: int = 0
    failed: int = 0
    result_bytes: int = Field(default=0, sa_type=BigInteger)
    suspects: list[int] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))


class WorkerRow(SQLModel, table=True):
    """A worker that presented itself."""

    __tablename__ = "workers"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (_one_of("state", ("active", "gone")),)

    id: str = Field(primary_key=True)
    pool: str
    host: str
    pid: int
    state: str = "active"
    registered_at: datetime
    seen_at: datetime
    ready_models: list[str] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))


class LedgerRow(SQLModel, table=True):
    """What one chunk took on one pool over one short span. Grams are computed from it, never stored in it."""

    __tablename__ = "ledger"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (
        CheckConstraint("energy_j >= 0 AND busy_s >= 0", name="amounts_positive"),
        CheckConstraint("ended_at >= started_at", name="span_forward"),
        Index("ledger_by_batch", "batch_id", "started_at"),
        Index("ledger_by_pool", "pool", "ended_at"),
        Index("ledger_by_chunk", "chunk_id", "started_at"),
    )

    id: int | None = Field(default=None, primary_key=True)
    batch_id: str = Field(sa_column=Column(String, ForeignKey("batches.id"), nullable=False))
    chunk_id: str
    pool: str
    model: str
    started_at: datetime
    ended_at: datetime
    busy_s: float
    energy_j: float
    energy_source: str
    startup_s: float = 0.0
    requests: int
    input_tokens: int = Field(sa_type=BigInteger)
    cached_tokens: int = Field(sa_type=BigInteger)
    output_tokens: int = Field(sa_type=BigInteger)


class PlanRow(SQLModel, table=True):
    """A published plan with the forecasts that it was made from, so that the decision can be replayed."""

    __tablename__ = "plans"  # pyright: ignore[reportAssignmentType]

    id: int | None = Field(default=None, primary_key=True)
    made_at: datetime = Field(index=True)
    body: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))


class CounterRow(SQLModel, table=True):
    """A number that only grows, kept over restarts: refused stale writes, released chunks, wasted requests."""

    __tablename__ = "counters"  # pyright: ignore[reportAssignmentType]

    name: str = Field(primary_key=True)
    value: int = Field(default=0, sa_type=BigInteger)


def _table(row: type[SQLModel]) -> Table:
    return cast("Table", row.__table__)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


files = _table(FileRow)
batches = _table(BatchRow)
chunks = _table(ChunkRow)
workers = _table(WorkerRow)
ledger = _table(LedgerRow)
plans = _table(PlanRow)
counters = _table(CounterRow)
