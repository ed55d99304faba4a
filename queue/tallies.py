"""What the plan in force has given away: requests leased by (batch, pool) since it was made, those leased before it included.

Changed by sums only, each in the transaction of the lease or of the plan that it counts: servers need not wait for one another,
and together they cannot hand out more than the plan's share by more than a chunk.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, String, bindparam, delete, func, select
from sqlalchemy.dialects.postgresql import insert

from batchsched.queue.hot import Hot
from batchsched.queue.tables import tallies

Tally = dict[tuple[str, str], float]

_NEW: dict[str, Any] = {column.name: bindparam(f"new_{column.name}") for column in tallies.c}
_FIRST = insert(tallies).values(_NEW)  # SQLite writes it in the same words
_ADD = Hot(
    _FIRST.on_conflict_do_update(
        index_elements=[tallies.c.batch_id, tallies.c.pool], set_={"requests": tallies.c.requests + _FIRST.excluded.requests}
    )
)
_OF_POOL = Hot(select(tallies.c.batch_id, tallies.c.requests).where(tallies.c.pool == bindparam("on_pool")))


def of_all(connection: Connection) -> Tally:
    """Every tally."""
    return {(row.batch_id, row.pool): row.requests for row in connection.execute(select(tallies))}


def of_pool(connection: Connection, pool: str) -> dict[str, float]:
    """A pool's tallies, by batch."""
    return {row["batch_id"]: row["requests"] for row in _OF_POOL.rows(connection, {"on_pool": pool})}


def add(connection: Connection, batch_id: str, pool: str, requests: float) -> None:
    """So many requests of a batch were leased by a pool."""
    _ADD.changed(connection, [_row(batch_id, pool, requests)])


def _row(batch_id: str, pool: str, requests: float) -> dict[str, object]:
    return {"new_batch_id": batch_id, "new_pool": pool, "new_requests": requests}


def rebase(connection: Connection, leased: Mapping[tuple[str, str], float], seen: Tally) -> None:
    """A new plan counts from the look it was made from: `leased` and `seen` (all tallies), both of one snapshot.

    What was leased after that look stays counted.
    """
    deltas = {key: leased.get(key, 0.0) - seen.get(key, 0.0) for key in sorted({*leased, *seen})}
    rows = [_row(batch_id, pool, delta) for (batch_id, pool), delta in deltas.items() if delta]
    if rows:
        _ADD.changed(connection, rows)
    connection.execute(delete(tallies).where(tallies.c.requests < 0.5))


_TURN = Hot(select(func.pg_advisory_xact_lock(0x636C6D, func.hashtext(bindparam("pool", type_=String)))))


def take_turns(connection: Connection, pool: str) -> bool:
    """Until this transaction ends, nobody else claims for this pool: between reading its tally and adding to it nothing comes.
    May others have claimed or planned until now, while this one waited?"""
    if connection.dialect.name != "postgresql":  # SQLite has one writer anyway
        return False
    _TURN.rows(connection, {"pool": pool})
    return True
