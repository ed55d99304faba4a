"""What shared servers had for offline work, by hour of the week: samples of quarters of an hour, bounded in number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import Connection, bindparam, delete, select, update
from sqlalchemy.dialects.postgresql import insert

from batchsched.queue.hot import Hot
from batchsched.queue.rows import Row
from batchsched.queue.tables import spare_hours
from batchsched.wire import SpareSeen

QUARTER_S = 900
MOST_SAMPLES = 48
"""Of an hour of the week: its quarters of twelve weeks."""
LEAST_S = 60.0
"""A quarter that was seen for less is no sample."""
FORGOTTEN_AFTER = timedelta(weeks=10)
_LONGEST_NAME = 200
_NEW: dict[str, Any] = {column.name: bindparam(f"new_{column.name}") for column in spare_hours.c}
_MINE = [spare_hours.c[name] == bindparam(f"its_{name}") for name in ("pool", "server", "hour_of_week")]
_FIRST = Hot(insert(spare_hours).values(_NEW).on_conflict_do_nothing())  # SQLite writes it in the same words
_ONE = Hot(select(spare_hours).where(*_MINE).with_for_update())
_SUMS = Hot(update(spare_hours).where(*_MINE).values({name: _NEW[name] for name in ("seconds", "tokens")}))
_QUARTER = Hot(
    update(spare_hours)
    .where(*_MINE)
    .values({name: _NEW[name] for name in ("samples", "sampled_at", "began_at", "seconds", "tokens")})
)
_REMEMBERED = Hot(select(spare_hours).where(spare_hours.c.began_at >= bindparam("since")))


class SpareHour(msgspec.Struct, frozen=True):
    """Offline tokens a second that a server had in quarters of one hour of the week, the latest last. `last_at`: when that one
    began; None where nobody knows any more."""

    pool: str
    server: str
    hour_of_week: int
    samples: list[float]
    last_at: datetime | None = None


def hour_of_week(at: datetime) -> int:
    """0 is Monday 00:00 UTC, 167 the last of Sunday; `at` is in UTC."""
    return at.weekday() * 24 + at.hour


def add(connection: Connection, pool: str, seen: SpareSeen, now: datetime) -> None:
    """Enter what was seen until now. What several workers see of one server is averaged over the time that each looked."""
    if not (0 < seen.seconds <= QUARTER_S and 0 <= seen.tokens_per_s < float("inf")):
        return
    began_at = now - timedelta(seconds=now.timestamp() % QUARTER_S)
    key = {"pool": pool, "server": seen.server[:_LONGEST_NAME], "hour_of_week": hour_of_week(now)}
    mine = {f"its_{name}": value for name, value in key.items()}
    if _FIRST.changed(
        connection, [_told({**key, "samples": [], "sampled_at": None, "began_at": began_at, "seconds": 0.0, "tokens": 0.0})]
    ):
        stale = delete(spare_hours).where(spare_hours.c.pool == pool, spare_hours.c.began_at < now - FORGOTTEN_AFTER)
        connection.execute(stale)
    row = _ONE.first(connection, mine)
    assert row is not None
    more = {"seconds": seen.seconds, "tokens": seen.seconds * seen.tokens_per_s}
    if row["began_at"] == began_at:
        _SUMS.changed(connection, [mine | _told({name: row[name] + value for name, value in more.items()})])
    else:
        samples = _with_open(row["samples"], row["seconds"], row["tokens"])[-MOST_SAMPLES:]
        news = {"samples": samples, "sampled_at": _last_at(row), "began_at": began_at, **more}
        _QUARTER.changed(connection, [mine | _told(news)])


def _told(values: Mapping[str, Any]) -> dict[str, Any]:
    return {f"new_{name}": value for name, value in values.items()}


def restore(connection: Connection, seen: Iterable[SpareHour], now: datetime) -> None:
    """Enter what was seen of servers before this database was there. Hours of theirs that it knows already stay as they are."""
    began_at = now - timedelta(seconds=now.timestamp() % QUARTER_S + QUARTER_S)
    rows = [
        {
            "pool": row.pool,
            "server": row.server[:_LONGEST_NAME],
            "hour_of_week": row.hour_of_week,
            "samples": row.samples[-MOST_SAMPLES:],
            "sampled_at": None,
            "began_at": began_at,
            "seconds": 0.0,
            "tokens": 0.0,
        }
        for row in seen
        if row.samples
    ]
    if rows:
        _FIRST.changed(connection, [_told(row) for row in rows])


def hours(connection: Connection, now: datetime) -> list[SpareHour]:
    """All that is remembered, the quarter that is being summed included once it was seen for a minute."""
    rows = _REMEMBERED.rows(connection, {"since": now - FORGOTTEN_AFTER})
    return [
        SpareHour(
            row["pool"],
            row["server"],
            row["hour_of_week"],
            _with_open(row["samples"], row["seconds"], row["tokens"]),
            _last_at(row),
        )
        for row in rows
    ]


def _last_at(row: Row) -> datetime | None:
    """When the last of its samples began, with the quarter that is being summed once that is one."""
    began_at: datetime | None = row["began_at"] if row["seconds"] >= LEAST_S else row["sampled_at"]
    return began_at


def _with_open(samples: list[float], seconds: float, tokens: float) -> list[float]:
    return [*samples, tokens / seconds] if seconds >= LEAST_S else samples
