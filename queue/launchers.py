"""What launchers can run of each pool, as each said last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, select
from sqlalchemy.dialects.postgresql import insert

from batchsched.queue.rows import Row, every
from batchsched.queue.tables import launchers

SILENT = timedelta(seconds=60)
"""A launcher that was not heard of for so long can start nothing."""
_FIRST = insert(launchers)  # SQLite writes it in the same words
_PUT = _FIRST.on_conflict_do_update(
    index_elements=[launchers.c.name, launchers.c.pool],
    set_={name: getattr(_FIRST.excluded, name) for name in ("replicas", "trouble", "seen_at")},
)


def said(connection: Connection, name: str, pools: Mapping[str, tuple[int, str]], now: datetime) -> bool:
    """A launcher says what it can run: replicas and troubles, by pool; what it does not name it does not run. Is it news?"""
    mine = select(launchers.c.pool, launchers.c.replicas).where(launchers.c.name == name)
    before = {row["pool"]: row["replicas"] for row in every(connection, mine)}
    connection.execute(delete(launchers).where(launchers.c.name == name, launchers.c.pool.not_in(list(pools))))
    for pool, (replicas, trouble) in pools.items():
        values = {"name": name, "pool": pool, "replicas": replicas, "trouble": trouble, "seen_at": now}
        connection.execute(_PUT, values)
    return before != {pool: replicas for pool, (replicas, _) in pools.items()}


def active(connection: Connection, since: datetime) -> list[Row]:
    """What those can run that were heard of since then: by pool, then by name."""
    query = select(launchers).where(launchers.c.seen_at >= since).order_by(launchers.c.pool, launchers.c.name)
    return every(connection, query)


def forget(connection: Connection, before: datetime) -> None:
    """Take those off the list that were not heard of for long."""
    connection.execute(delete(launchers).where(launchers.c.seen_at < before))


def in_service(count: int, alive: Sequence[Row], able: Sequence[Row], pool: str) -> int:
    """Replicas of a pool that work can count on, `count` at most: those that launchers can start count as those that they did;
    workers that nobody launched come on top. `alive`: live workers; `able`: of `active`."""
    mine = [worker for worker in alive if worker["pool"] == pool]
    by_hand = sum(not worker["replica"] for worker in mine)
    startable: int = sum(one["replicas"] for one in able if one["pool"] == pool)
    return min(count, by_hand + max(startable, len(mine) - by_hand))
