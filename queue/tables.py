"""Every table, declared with SQLModel. Hot paths use the `Table` objects below with Core statements, never ORM sessions.

SQLModel does not validate table classes, so the schema itself does: CHECK constraints, NOT NULL and foreign keys.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, cast

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    String,
    Table,
    UniqueConstraint,
    false,
    text,
)  # fmt: skip
from sqlmodel import Field, SQLModel

from batchsched.queue.decided import OverrideRow, WindowRow
from batchsched.queue.manned import LauncherRow, WorkerRow
from batchsched.queue.observed import SpareHourRow, SpendingBesideRow, SpendingRow
from batchsched.queue.recurring import ReleaseRow, ScheduleRow
from batchsched.queue.states import BATCH_TRANSITIONS, CHUNK_TRANSITIONS


def _one_of(column: str, values: Any) -> CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in sorted(values))
    return CheckConstraint(f"{column} IN ({listed})", name=f"{column}_known")


_ANSWERED = text("requests > 0")
_PENDING = text("state = 'pending'")
_RESTING = text("not_before IS NOT NULL")


class FileRow(SQLModel, table=True):
    """An uploaded or produced file; its bytes lie in the store under its id."""

    __tablename__ = "files"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (
        _one_of("status", ("uploaded", "processed", "error")),
        CheckConstraint("bytes >= 0", name="bytes_positive"),
        Index("files_by_tenant", "tenant", "created_at", "id"),
        Index("files_by_expiry", "expires_at"),
        Index("files_by_name", "tenant", "filename"),
    )

    id: str = Field(primary_key=True)
    tenant: str = "default"
    purpose: str
    filename: str
    bytes: int = Field(sa_type=BigInteger)
    sha256: str
    status: str = "processed"
    status_details: str | None = None
    created_at: datetime = Field(index=True)
    expires_at: datetime | None = None
    facts: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON))


class TombstoneRow(SQLModel, table=True):
    """A file of a batch that was deleted: until then it was kept, and that cost something. It holds nothing of the content."""

    __tablename__ = "tombstones"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (Index("tombstones_by_batch", "batch_id"),)

    id: str = Field(primary_key=True)
    tenant: str
    batch_id: str
    """Of what a batch put out; empty for an upload, which several batches may name."""
    bytes: int = Field(sa_type=BigInteger)
    created_at: datetime
    deleted_at: datetime


class BatchRow(SQLModel, table=True):
    """A batch: one input file, one model, one endpoint, a deadline."""

    __tablename__ = "batches"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (
        _one_of("state", BATCH_TRANSITIONS),
        CheckConstraint("total >= 0 AND completed >= 0 AND failed >= 0", name="counts_positive"),
        CheckConstraint("completed + failed <= total", name="counts_within_total"),
        Index("batches_by_state", "state", "deadline_at"),
        CheckConstraint("round >= 0", name="round_positive"),
        Index("batches_by_age", "created_at", "id"),
        Index("batches_by_input", "input_file_id"),
        Index("batches_by_tenant", "tenant", "created_at", "id"),
    )

    id: str = Field(primary_key=True)
    tenant: str = "default"
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
    priority: int = 0
    paused_at: datetime | None = None
    round: int = 0
    reopen: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True)))
    """While a retry takes over what was answered before: the output file that holds it."""
    erased_at: datetime | None = None
    risk: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True)))
    """Where its promised deadline has come into doubt: since when, how probable it is, and what would mend it."""
    started: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True)))
    """Where it was told to start now: since when, and when by the plan of that moment it would have started."""


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
        # What claims look through: without it a claim may read past every chunk of the batch that is done.
        Index("chunks_pending", "batch_id", "position", sqlite_where=_PENDING, postgresql_where=_PENDING),
        Index("chunks_resting", "not_before", sqlite_where=_RESTING, postgresql_where=_RESTING),
        # Without lease_until: a heartbeat then changes no index.
        Index("chunks_leased", "worker_id", sqlite_where=text("state = 'leased'"), postgresql_where=text("state = 'leased'")),
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
    erring: list[int] = Field(default_factory=list, sa_column=Column(JSON, nullable=False, server_default="[]"))
    """Of the suspects those that met errors only; an engine may have died of the others."""
    round: int = 0
    parts: list[Any] = Field(default_factory=list, sa_column=Column(JSON, nullable=False, server_default="[]"))
    model: str | None = None
    """Which model its last lease was served with; None: the one that its requests name."""
    plain: bool = Field(default=False, sa_column=Column(Boolean, nullable=False, server_default=false()))
    """A request of it was found to have a field that engines refuse where they make drafts."""


class LedgerRow(SQLModel, table=True):
    """What one chunk took on one pool over one short span. Grams are computed from it, never stored in it."""

    __tablename__ = "ledger"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (
        CheckConstraint("energy_j >= 0 AND busy_s >= 0", name="amounts_positive"),
        CheckConstraint("host_j >= 0", name="host_positive"),
        CheckConstraint("beside_s >= 0", name="beside_positive"),
        CheckConstraint("ended_at >= started_at", name="span_forward"),
        Index("ledger_by_batch", "batch_id", "started_at"),
        Index("ledger_by_pool", "pool", "ended_at"),
        Index("ledger_by_chunk", "chunk_id", "started_at"),
        Index("ledger_by_tenant", "tenant", "started_at"),
        # What is learnt goes by the newest of each kind, however much others were at work since.
        Index("ledger_speeds", "model", "pool", "id"),
        Index("ledger_answers", "model", "endpoint", "id", sqlite_where=_ANSWERED, postgresql_where=_ANSWERED),
        Index("ledger_own_answers", "tenant", "model", "endpoint", "id", sqlite_where=_ANSWERED, postgresql_where=_ANSWERED),
    )

    id: int | None = Field(default=None, primary_key=True)
    tenant: str = "default"
    endpoint: str = ""
    batch_id: str = Field(sa_column=Column(String, ForeignKey("batches.id"), nullable=False))
    chunk_id: str
    pool: str
    model: str
    started_at: datetime
    ended_at: datetime
    busy_s: float
    energy_j: float
    energy_source: str
    host_j: float = 0.0
    """Of the host beside the GPUs, with a source of its own; not in `energy_j`."""
    host_source: str = "unmeasured"
    mark: str = ""
    """wire.EnergyMark: what `energy_j` must be read with."""
    startup_s: float = 0.0
    requests: int
    input_tokens: int = Field(sa_type=BigInteger)
    cached_tokens: int = Field(sa_type=BigInteger)
    output_tokens: int = Field(sa_type=BigInteger)
    drafts: float = 0.0
    draft_tokens: float = 0.0
    accepted_tokens: float = 0.0
    """Of drafts, where the engine was served by such: how many, their tokens, and those that stayed."""
    beside_pool: str | None = None
    """Of which other pool a replica was there for it, for `beside_s` seconds; empty: of none. None: nobody told."""
    beside_s: float = 0.0
    lengths: dict[str, int] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True)))
    """How many answers were of which length: requests by class (units.length_class). None where nothing was answered."""


class ForgottenRow(SQLModel, table=True):
    """What batches that are no longer kept took in one hour, by pool and model. `unknown_j`: joules of which `grams` has none."""

    __tablename__ = "forgotten"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (CheckConstraint("energy_j >= 0 AND busy_s >= 0", name="amounts_positive"),)

    pool: str = Field(primary_key=True)
    model: str = Field(primary_key=True)
    hour: datetime = Field(primary_key=True)
    energy_source: str = Field(primary_key=True)
    busy_s: float = 0.0
    energy_j: float = 0.0
    grams: float = 0.0
    unknown_j: float = 0.0


class BookRow(SQLModel, table=True):
    """How far the books of an ended batch are. `number` counts its entries; no `due_at`: no correction is awaited any more."""

    __tablename__ = "books"  # pyright: ignore[reportAssignmentType]

    batch_id: str = Field(sa_column=Column(String, ForeignKey("batches.id"), primary_key=True))
    number: int = 0
    due_at: datetime | None = Field(default=None, index=True)


class PostingRow(SQLModel, table=True):
    """An entry in a batch's books: what is added to or taken from one pool's hour. Rows are only ever added; their sum holds."""

    __tablename__ = "postings"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (_one_of("kind", ("work", "waste")),)

    batch_id: str = Field(sa_column=Column(String, ForeignKey("batches.id"), primary_key=True))
    number: int = Field(primary_key=True)
    posted_at: datetime
    kind: str
    pool: str
    site: str
    zone: str
    hour: datetime
    energy_source: str
    energy_j: float
    pue: float
    intensity_g_per_kwh: float | None = None
    intensity_source: str
    signal: str
    grams: float | None = None
    why: str


class TrialRow(SQLModel, table=True):
    """One timed run of a profile, whole in `body` (wire.Trial); `qps` is NULL at full load, `energy_j` is GPUs and host."""

    __tablename__ = "trials"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (
        CheckConstraint("energy_j >= 0 AND busy_s > 0", name="amounts_positive"),
        Index("trials_by_age", "ended_at", "id"),
    )

    id: str = Field(primary_key=True)
    pool: str
    model: str
    ended_at: datetime
    qps: float | None = None
    busy_s: float
    startup_s: float = 0.0
    energy_j: float
    energy_source: str
    input_tokens: int = Field(sa_type=BigInteger)
    output_tokens: int = Field(sa_type=BigInteger)
    drafts: float = 0.0
    draft_tokens: float = 0.0
    accepted_tokens: float = 0.0
    sent_bytes: float = 0.0
    sent_tokens: float = 0.0
    """Of a mode of two pools: what went between them."""
    link_bytes_per_s: float | None = None
    body: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))


class PlanRow(SQLModel, table=True):
    """A published plan with the forecasts that it was made from, so that the decision can be replayed. `packed` holds it all, as
    compressed JSON; `body` did in plans of earlier versions."""

    __tablename__ = "plans"  # pyright: ignore[reportAssignmentType]

    id: int | None = Field(default=None, primary_key=True)
    made_at: datetime = Field(index=True)
    epoch: int = Field(default=0, sa_type=BigInteger)
    body: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    packed: bytes | None = None


class CounterRow(SQLModel, table=True):
    """A number that only grows, kept over restarts: refused stale writes, released chunks, wasted requests."""

    __tablename__ = "counters"  # pyright: ignore[reportAssignmentType]

    name: str = Field(primary_key=True)
    value: int = Field(default=0, sa_type=BigInteger)


class LeadershipRow(SQLModel, table=True):
    """Which server plans and keeps house. One row; the epoch grows with each change of the lead."""

    __tablename__ = "leadership"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)

    id: int = Field(default=1, primary_key=True)
    epoch: int = Field(default=0, sa_type=BigInteger)
    server_id: str = ""
    since: datetime
    inputs: bool | None = None
    """Has it a folder of recurring jobs' files? None: one of an older version leads."""


class KeyRow(SQLModel, table=True):
    """An API key: its hash, whose it is, and what it may do. The key itself is shown once and kept nowhere."""

    __tablename__ = "keys"  # pyright: ignore[reportAssignmentType]

    id: str = Field(primary_key=True)
    tenant: str
    name: str = ""
    digest: str
    scopes: list[str] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    created_at: datetime
    expires_at: datetime | None = None
    last_used_at: datetime | None = None
    revoked_at: datetime | None = None


class IdempotencyRow(SQLModel, table=True):
    """A create request that was answered, by the key that its sender gave it."""

    __tablename__ = "idempotency"  # pyright: ignore[reportAssignmentType]

    tenant: str = Field(primary_key=True)
    key: str = Field(primary_key=True)
    digest: str
    batch_id: str
    created_at: datetime = Field(index=True)


class DeliveryRow(SQLModel, table=True):
    """One event to be told to one webhook: durable work, tried again until it is delivered or given up."""

    __tablename__ = "deliveries"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (
        _one_of("state", ("pending", "delivered", "given_up")),
        Index("deliveries_due", "state", "due_at"),
        Index("deliveries_by_batch", "batch_id"),
    )

    id: str = Field(primary_key=True)
    tenant: str
    hook: str
    batch_id: str
    type: str
    state: str = "pending"
    attempts: int = 0
    created_at: datetime
    due_at: datetime
    ended_at: datetime | None = None
    last_error: str | None = None
    data: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True)))
    """What the event says beside the batch's id."""


class AuditRow(SQLModel, table=True):
    """Who did what. Rows are only ever added; triggers refuse anything else."""

    __tablename__ = "audit"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (Index("audit_by_tenant", "tenant", "id"),)

    id: int | None = Field(default=None, primary_key=True)
    at: datetime
    actor: str
    tenant: str
    action: str
    object_id: str = ""
    detail: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))


class TallyRow(SQLModel, table=True):
    """Requests that a pool leased of a batch since the plan in force was made: what its next claim may still take."""

    __tablename__ = "tallies"  # pyright: ignore[reportAssignmentType]

    batch_id: str = Field(primary_key=True)
    pool: str = Field(primary_key=True)
    requests: float = 0.0


class ShareRow(SQLModel, table=True):
    """How much a tenant has been served, in seconds of engine time over its weight: the least is served next. `active`: it had
    work when the plan in force was made."""

    __tablename__ = "shares"  # pyright: ignore[reportAssignmentType]

    tenant: str = Field(primary_key=True)
    served_s: float = 0.0
    active: bool = False


class StoreRow(SQLModel, table=True):
    """The mark that the store of this database's files carries, so that neither is taken for another's. One row."""

    __tablename__ = "store"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (CheckConstraint("id = 1", name="one_store"),)

    id: int = Field(default=1, primary_key=True)
    mark: str
    placed: bool = False


def _table(row: type[SQLModel]) -> Table:
    return cast("Table", row.__table__)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


files = _table(FileRow)
tombstones = _table(TombstoneRow)
batches = _table(BatchRow)
chunks = _table(ChunkRow)
workers = _table(WorkerRow)
launchers = _table(LauncherRow)
ledger = _table(LedgerRow)
spending = _table(SpendingRow)
spending_beside = _table(SpendingBesideRow)
forgotten = _table(ForgottenRow)
books = _table(BookRow)
postings = _table(PostingRow)
trials = _table(TrialRow)
plans = _table(PlanRow)
overrides = _table(OverrideRow)
windows = _table(WindowRow)
schedules = _table(ScheduleRow)
releases = _table(ReleaseRow)
counters = _table(CounterRow)
leadership = _table(LeadershipRow)
keys = _table(KeyRow)
idempotency = _table(IdempotencyRow)
deliveries = _table(DeliveryRow)
audit = _table(AuditRow)
tallies = _table(TallyRow)
shares = _table(ShareRow)
store = _table(StoreRow)
spare_hours = _table(SpareHourRow)
