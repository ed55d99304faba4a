"""What pools' meters saw, hour by hour: all of it, and what no chunk is charged for.

    metered = charged to chunks (the ledger) + idle + waste + others

Where a worker died, `metered` is the larger side: what it had not yet reported is missing on the other.

In modes of two pools, for how long the other pool's replica was there (`beside_s`, of `beside_pool`) has a table of its own, as
servers of a version before know `spending` by its key. Here both are rows of one kind: what the one table lacks is 0 in its rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, Table, bindparam, literal, select, union_all, update
from sqlalchemy.dialects.postgresql import insert

from batchsched.queue.hot import Hot
from batchsched.queue.rows import Row, every
from batchsched.queue.tables import batches, spending, spending_beside, workers
from batchsched.queue.tenancy import Tenant, owned
from batchsched.units import start_of_hour
from batchsched.wire import Spent, SpentPart


def _adding(table: Table) -> Hot:
    """Enter a row, or add to the amounts of the one with its key."""
    new: dict[str, Any] = {column.name: bindparam(f"new_{column.name}") for column in table.c}
    first = insert(table).values(new)  # SQLite writes it in the same words
    more = {column.name: column + first.excluded[column.name] for column in table.c if not column.primary_key}
    return Hot(first.on_conflict_do_update(index_elements=list(table.primary_key.columns), set_=more))


_ADD, _ADD_BESIDE = _adding(spending), _adding(spending_beside)
_NUMBERED = Hot(
    update(workers)
    .where(workers.c.id == bindparam("worker"), workers.c.spent_number < bindparam("number"))
    .values(spent_number=bindparam("new_number"))
    .returning(workers.c.pool)
)


def _rows(table: Table) -> Select[Any]:
    """All of either table, with nothing where it lacks a column of the other."""
    nothing: dict[str, Any] = {"seconds": 0.0, "energy_j": 0.0, "beside_pool": "", "beside_s": 0.0}
    amounts = (table.c[name] if name in table.c else literal(value).label(name) for name, value in nothing.items())
    return select(*(table.c[column.name] for column in spending.primary_key), *amounts)


_SPENT = union_all(_rows(spending), _rows(spending_beside)).subquery("spent")


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
            _ADD.changed(connection, [_row(spending, known["pool"], part) for part in spent.parts])
        if beside := [_row(spending_beside, known["pool"], part) for part in spent.parts if part.beside_s > 0]:
            _ADD_BESIDE.changed(connection, beside)
    return news


def _row(table: Table, pool: str, part: SpentPart) -> dict[str, object]:
    values = {
        "pool": pool,
        "hour": start_of_hour(part.started_at),
        "kind": part.kind,
        "batch_id": part.batch_id,
        "energy_source": part.energy_source,
        "seconds": max(0.0, part.seconds),
        "energy_j": max(0.0, part.energy_j),
        "beside_pool": part.beside_pool,
        "beside_s": part.beside_s,
    }
    return {f"new_{column.name}": values[column.name] for column in table.c}


def of_pools(connection: Connection, start: datetime, end: datetime) -> list[Row]:
    """The hours that begin in [start, end), in time order."""
    query = select(_SPENT).where(_SPENT.c.hour >= start, _SPENT.c.hour < end)
    return every(connection, query.order_by(_SPENT.c.hour, _SPENT.c.pool))


def of_batch(connection: Connection, batch_id: str) -> list[Row]:
    """What was wasted on a batch."""
    return every(connection, select(_SPENT).where(_SPENT.c.batch_id == batch_id).order_by(_SPENT.c.hour))


def wasted(connection: Connection, tenant: Tenant, start: datetime, end: datetime, batch_id: str | None = None) -> list[Row]:
    """What was wasted on a tenant's batches, or on one of them, in the hours that begin in [start, end); with its `tenant`."""
    query = select(_SPENT, batches.c.tenant).join(batches, batches.c.id == _SPENT.c.batch_id)
    query = query.where(owned(batches, tenant), _SPENT.c.hour >= start, _SPENT.c.hour < end)
    query = query if batch_id is None else query.where(_SPENT.c.batch_id == batch_id)
    return every(connection, query.order_by(_SPENT.c.hour))
