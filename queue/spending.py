"""What pools' meters saw, hour by hour: all of it, and what no chunk is charged for.

    metered = charged to chunks (the ledger) + idle + waste + others

Where a worker died, `metered` is the larger side: what it had not yet reported is missing on the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, select, update
from sqlalchemy.dialects.postgresql import insert

from batchsched.queue.hot import Hot
from batchsched.queue.rows import Row, every
from batchsched.queue.tables import batches, spending, workers
from batchsched.queue.tenancy import Tenant, owned
from batchsched.units import start_of_hour
from batchsched.wire import Spent, SpentPart

_NEW: dict[str, Any] = {column.name: bindparam(f"new_{column.name}") for column in spending.c}
_FIRST = insert(spending).values(_NEW)  # SQLite writes it in the same words
_ADD = Hot(
    _FIRST.on_conflict_do_update(
        index_elements=list(spending.primary_key.columns),
        set_={name: spending.c[name] + _FIRST.excluded[name] for name in ("seconds", "energy_j", "beside_s")},
    )
)
_NUMBERED = Hot(
    update(workers)
    .where(workers.c.id == bindparam("worker"), workers.c.spent_number < bindparam("number"))
    .values(spent_number=bindparam("new_number"))
    .returning(workers.c.pool)
)


def add(connection: Connection, worker_id: str, said: Sequence[Spent]) -> list[tuple[str, Spent]]:
    """Enter what a worker said, each of its messages once: those that are new, with its pool. Nothing is entered for a worker
    that is not known."""
    news: list[tuple[str, Spent]] = []
    for spent in said:
        known = _NUMBERED.first(connection, {"worker": worker_id, "number": spent.number, "new_number": spent.number})
        if known is None:
            continue
        news.append((known["pool"], spent))
        if spent.parts:
            _ADD.changed(connection, [_row(known["pool"], part) for part in spent.parts])
    return news


def _row(pool: str, part: SpentPart) -> dict[str, object]:
    values = {
        "pool": pool,
        "hour": start_of_hour(part.started_at),
        "kind": part.kind,
        "batch_id": part.batch_id,
        "energy_source": part.energy_source,
        "seconds": max(0.0, part.seconds),
        "energy_j": max(0.0, part.energy_j),
        "beside_pool": part.beside_pool,
        "beside_s": max(0.0, part.beside_s),
    }
    return {f"new_{name}": value for name, value in values.items()}


def of_pools(connection: Connection, start: datetime, end: datetime) -> list[Row]:
    """The hours that begin in [start, end), in time order."""
    query = select(spending).where(spending.c.hour >= start, spending.c.hour < end)
    return every(connection, query.order_by(spending.c.hour, spending.c.pool))


def of_batch(connection: Connection, batch_id: str) -> list[Row]:
    """What was wasted on a batch."""
    return every(connection, select(spending).where(spending.c.batch_id == batch_id).order_by(spending.c.hour))


def wasted(connection: Connection, tenant: Tenant, start: datetime, end: datetime, batch_id: str | None = None) -> list[Row]:
    """What was wasted on a tenant's batches, or on one of them, in the hours that begin in [start, end); with its `tenant`."""
    query = select(spending, batches.c.tenant).join(batches, batches.c.id == spending.c.batch_id)
    query = query.where(owned(batches, tenant), spending.c.hour >= start, spending.c.hour < end)
    query = query if batch_id is None else query.where(spending.c.batch_id == batch_id)
    return every(connection, query.order_by(spending.c.hour))
