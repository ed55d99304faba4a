"""Rows of published plans: what every server goes by, and kept, so that a decision can be looked at again.

A plan with its problem and its forecasts is large (a thousand open batches: about a megabyte of JSON), so it is kept packed.
"""

from __future__ import annotations

import zlib
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, delete, func, insert, select

from batchsched.queue.hot import Hot
from batchsched.queue.rows import Row, first
from batchsched.queue.tables import leadership, plans

PRUNED_AT_ONCE = 50
"""The rows are large: a step that takes many of them would keep writers waiting."""
_LEVEL = 1
_NEWEST = select(func.max(plans.c.id).label("newest"))
_NUMBER = Hot(_NEWEST)


def add(connection: Connection, made_at: datetime, body: dict[str, Any], epoch: int = 0) -> int | None:
    """Publish a plan; its number, which grows with each. None, and nothing is published, where another server leads by now."""
    held = connection.scalar(select(leadership.c.epoch).where(leadership.c.id == 1).with_for_update(read=True))
    if held is not None and held != epoch:
        return None
    packed = zlib.compress(msgspec.json.encode(body), _LEVEL)
    done = connection.execute(insert(plans).values(made_at=made_at, epoch=epoch, body={}, packed=packed))
    key = done.inserted_primary_key
    return int(key[0]) if key else None


def newest(connection: Connection) -> int:
    """The number of the plan in force; 0 before the first. Cheap: asked at every claim."""
    return int(_NUMBER.rows(connection, {})[0]["newest"] or 0)


def latest(connection: Connection, by: datetime | None = None) -> Row | None:
    """The newest plan, or the one that held at `by`: id, made_at, epoch, body."""
    query = select(plans).order_by(plans.c.id.desc()).limit(1)
    if by is not None:
        query = query.where(plans.c.made_at <= by)
    return _unpacked(first(connection, query))


def _unpacked(row: Row | None) -> Row | None:
    if row is not None and (packed := row.pop("packed")) is not None:
        row["body"] = msgspec.json.decode(zlib.decompress(packed))
    return row


def get(connection: Connection, number: int) -> Row | None:
    """The plan of that number, as `latest` gives it; None where it is not kept."""
    return _unpacked(first(connection, select(plans).where(plans.c.id == number)))


def prune(connection: Connection, before: datetime) -> int:
    """Delete some of the plans made before an instant, but never the newest; how many."""
    old = select(plans.c.id).where(plans.c.made_at < before, plans.c.id < _NEWEST.scalar_subquery()).limit(PRUNED_AT_ONCE)
    return connection.execute(delete(plans).where(plans.c.id.in_(old))).rowcount
