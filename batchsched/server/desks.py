"""Which part of a spare pool's ceiling falls to the workers of each machine that share one of its servers (wire.Sharing)."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Connection

from batchsched.fleet import Pool
from batchsched.queue import chunks, tallies, workers
from batchsched.queue.rows import Row
from batchsched.spare import part_of
from batchsched.wire import Sharing

NOWHERE: Row = {"spare_server": None, "spare_desk": None, "spare_part": None}
"""What is kept of a worker without work for a shared server: it leaves its part to others."""


def seated(
    connection: Connection, worker: Row, pool: Pool | None, sharing: Sharing | None, now: datetime, silent_s: float
) -> tuple[int | None, Row]:
    """What a worker's desk may use of its pool's ceiling, None where there is none; and the columns of the worker's row that
    others learn it from. `silent_s`: who was not heard of for so long is not there."""
    if sharing is None:
        return None, NOWHERE
    part = None if pool is None or pool.ceiling is None else _part(connection, pool, sharing, now - timedelta(seconds=silent_s))
    if not sharing.wants and not _has_just_got_work(connection, worker):
        return part, NOWHERE
    return part, {"spare_server": sharing.server, "spare_desk": sharing.desk, "spare_part": part}


def _part(connection: Connection, pool: Pool, sharing: Sharing, since: datetime) -> int:
    """Equal parts; but until the others have heard that theirs are smaller now, only what they leave, and at least one."""
    tallies.take_turns(connection, f"server {sharing.server}")
    told = workers.desks(connection, sharing.server, since)
    told.pop(sharing.desk, None)
    mine = part_of(pool.most_in_flight, sharing.desk, told.keys() | {sharing.desk})
    return max(1, min(mine, pool.most_in_flight - sum(told.values())))


def _has_just_got_work(connection: Connection, worker: Row) -> bool:
    """Its message may have been on its way meanwhile."""
    return worker["spare_server"] is not None and bool(chunks.holders(connection, [worker["id"]]))
