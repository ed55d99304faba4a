"""What batches did and left behind, read in one statement each for however many batches a report is about."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import BigInteger, Connection, Select, cast, func, select

from batchsched.queue.ledger import DAY_S
from batchsched.queue.rows import Row, every, step_of
from batchsched.queue.tables import batches, chunks, ledger
from batchsched.queue.tenancy import Tenant, owned

Ids = Select[tuple[str]] | Sequence[str]
"""Of batches: a few by name, or the query that finds them."""
_FACTS = (
    *("id", "tenant", "input_file_id", "output_file_id", "error_file_id", "completed", "failed", "erased_at", "in_progress_at"),
    *("completed_at", "failed_at", "expired_at", "cancelled_at"),
)


def working(tenant: Tenant, start: datetime, end: datetime) -> Select[tuple[str]]:
    """Which of a tenant's batches did work that began in [start, end)."""
    began = (ledger.c.started_at >= start, ledger.c.started_at < end)
    return select(ledger.c.batch_id).where(owned(ledger, tenant), *began)


def since(connection: Connection, tenant: Tenant, start: datetime, end: datetime, most: int) -> datetime | None:
    """From when on about `most` batches worked, the last to begin before `end`; None where no more worked since `start`."""
    first = func.min(ledger.c.started_at)
    query = working(tenant, start, end).with_only_columns(first).group_by(ledger.c.batch_id).order_by(first.desc())
    found = connection.scalars(query.offset(most - 1).limit(2)).all()
    return found[0] if len(found) > 1 else None


def facts(connection: Connection, ids: Ids) -> list[Row]:
    """What batches name and when they ended."""
    return every(connection, select(*(batches.c[name] for name in _FACTS)).where(batches.c.id.in_(ids)))


def worked(connection: Connection, ids: Ids) -> list[Row]:
    """What chunks did on each pool: `batch_id`, `chunk_id`, `pool`, `busy_s`, number of `entries`, `started_at`, `ended_at`.

    With the chunk's `bytes`, requests and results, and the `last_pool` that had it: null where the chunk is there no more.
    """
    each = (ledger.c.batch_id, ledger.c.chunk_id, ledger.c.pool)
    query = (
        select(
            *each,
            func.sum(ledger.c.busy_s).label("busy_s"),
            func.count().label("entries"),
            func.min(ledger.c.started_at).label("started_at"),
            func.max(ledger.c.ended_at).label("ended_at"),
            func.max(chunks.c.byte_end - chunks.c.byte_start + chunks.c.result_bytes).label("bytes"),
            func.max(chunks.c.pool).label("last_pool"),
        )
        .select_from(ledger.outerjoin(chunks, chunks.c.id == ledger.c.chunk_id))
        .where(ledger.c.batch_id.in_(ids))
    )
    return every(connection, query.group_by(*each).order_by(*each))


def days(connection: Connection, ids: Ids) -> list[Row]:
    """The work of batches by model, pool and day, in time order: `busy_s`, `started_at` and `ended_at`."""
    began = func.min(ledger.c.started_at)
    each = (ledger.c.batch_id, ledger.c.model, ledger.c.pool)
    query = select(
        *each, func.sum(ledger.c.busy_s).label("busy_s"), began.label("started_at"), func.max(ledger.c.ended_at).label("ended_at")
    )
    query = query.where(ledger.c.batch_id.in_(ids)).group_by(*each, step_of(ledger.c.started_at, DAY_S))
    return every(connection, query.order_by(began, func.min(ledger.c.id)))


def sizes(connection: Connection, ids: Ids) -> list[Row]:
    """Of batches' chunks by the `pool` that had them last, None where none had: `bytes` of requests and results together, and
    `result_bytes` alone."""
    each, results = (chunks.c.batch_id, chunks.c.pool), func.sum(chunks.c.result_bytes)
    both = func.sum(chunks.c.byte_end - chunks.c.byte_start + chunks.c.result_bytes)
    query = select(*each, cast(both, BigInteger).label("bytes"), cast(results, BigInteger).label("result_bytes"))
    return every(connection, query.where(chunks.c.batch_id.in_(ids)).group_by(*each))
