"""What launchers can run of each pool, as each said last, and how they share what is wanted of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, select, update
from sqlalchemy.dialects.postgresql import insert

from batchsched.queue.rows import Row, every
from batchsched.queue.tables import launchers
from batchsched.queue.workers import rests
from batchsched.wire import Able, launcher_mark

SILENT = timedelta(seconds=60)
"""A launcher that was not heard of for so long can start nothing."""
KEPT = timedelta(days=7)
"""After so long it is forgotten."""
_FIRST = insert(launchers)  # SQLite writes it in the same words
_PUT = _FIRST.on_conflict_do_update(
    index_elements=[launchers.c.name, launchers.c.pool],
    set_={name: getattr(_FIRST.excluded, name) for name in ("replicas", "trouble", "failing", "seen_at")},
)


def said(connection: Connection, name: str, pools: Mapping[str, Able], now: datetime) -> bool:
    """A launcher says what it can run, by pool; what it does not name it does not run. Is it news?"""
    mine = select(launchers.c.pool, launchers.c.replicas).where(launchers.c.name == name)
    before = {row["pool"]: row["replicas"] for row in every(connection, mine)}
    connection.execute(delete(launchers).where(launchers.c.name == name, launchers.c.pool.not_in(list(pools))))
    late = launchers.c.name == name, launchers.c.seen_at < now - SILENT
    connection.execute(update(launchers).where(*late).values(share=0))  # others were told to run it meanwhile
    for pool, able in pools.items():
        values = {"replicas": able.replicas, "trouble": able.trouble, "failing": able.failing, "seen_at": now}
        connection.execute(_PUT, {"name": name, "pool": pool, "share": 0, **values})
    return before != {pool: able.replicas for pool, able in pools.items()}


def told(connection: Connection, name: str, shares: Mapping[str, int]) -> None:
    """A launcher hears how many replicas it is to run, by pool."""
    for pool, share in shares.items():
        mine = launchers.c.name == name, launchers.c.pool == pool
        connection.execute(update(launchers).where(*mine).values(share=share))


def active(connection: Connection, since: datetime) -> list[Row]:
    """What those can run that were heard of since then: by pool, then by name."""
    query = select(launchers).where(launchers.c.seen_at >= since).order_by(launchers.c.pool, launchers.c.name)
    return every(connection, query)


def forget(connection: Connection, before: datetime) -> None:
    """Take those off the list that were not heard of for long."""
    connection.execute(delete(launchers).where(launchers.c.seen_at < before))


def in_service(count: int, alive: Sequence[Row], able: Sequence[Row], pool: str) -> int:
    """Replicas of a pool that work can count on, `count` at most: those that launchers can start count as those that they did;
    workers that none of them started come on top; those that rest do not count. `alive`: live workers; `able`: of `active`."""
    there = [one for one in able if one["pool"] == pool]
    mine = [worker for worker in alive if worker["pool"] == pool]
    running, untended = _running(mine, there)
    tended: int = sum(max(one["replicas"], running[one["name"]]) for one in there)
    return min(count, untended + tended - sum(map(rests, mine)))


def share_of(name: str, wanted: int, alive: Sequence[Row], able: Sequence[Row]) -> int:
    """How many of the replicas that are wanted of a pool a launcher is to run. `alive`: its live workers; `able`: of `active`,
    those of the pool.

    Workers that none of these launchers started come first: nobody would let them go. Then each launcher keeps what it was told
    to run, or runs, so that no work moves while nothing changes; of what is lacking the first by name gets what it can start.
    """
    running, untended = _running(alive, able)
    left, shares = max(0, wanted - untended), Counter[str]()
    for one in able:
        shares[one["name"]] = min(left, one["replicas"], max(one["share"], running[one["name"]]))
        left -= shares[one["name"]]
    for one in able:
        more = min(left, one["replicas"] - shares[one["name"]])
        shares[one["name"]] += more
        left -= more
    return shares[name]


def _running(alive: Sequence[Row], able: Sequence[Row]) -> tuple[Counter[str], int]:
    """Live workers by the launcher that started them, and those that none of these started: by hand, or one that is silent."""
    names = {launcher_mark(one["name"]): one["name"] for one in able}
    marks = Counter(names.get(worker["replica"].partition("#")[0], "") for worker in alive)
    return marks, marks.pop("", 0)
