"""Rows of the ledger, and the counters that outlive a restart."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, select, update

from batchsched.queue.rows import Row, every
from batchsched.queue.tables import counters, ledger


def add(connection: Connection, **values: Any) -> None:
    """One span of work on one chunk. The same span again (a message repeated, since its answer was lost) changes nothing."""
    keys = ("chunk_id", "pool", "started_at", "ended_at")
    same = select(ledger.c.id).where(*(ledger.c[key] == values[key] for key in keys)).limit(1)
    if connection.execute(same).first() is None:
        connection.execute(insert(ledger).values(**values))


def of_batch(connection: Connection, batch_id: str) -> list[Row]:
    """A batch's entries in time order."""
    query = select(ledger).where(ledger.c.batch_id == batch_id).order_by(ledger.c.started_at, ledger.c.id)
    return every(connection, query)


def recent(connection: Connection, limit: int = 2000) -> list[Row]:
    """The newest entries over all batches, oldest first: what profiles learn from."""
    rows = every(connection, select(ledger).order_by(ledger.c.id.desc()).limit(limit))
    return list(reversed(rows))


def bump(connection: Connection, name: str, by: int = 1) -> None:
    """Add to a lasting counter."""
    if connection.execute(update(counters).where(counters.c.name == name).values(value=counters.c.value + by)).rowcount == 0:
        connection.execute(insert(counters).values(name=name, value=by))


def counted(connection: Connection) -> dict[str, int]:
    """Every lasting counter."""
    return {row["name"]: row["value"] for row in every(connection, select(counters))}


def since(connection: Connection, at: datetime, batch_id: str) -> list[Row]:
    """A batch's entries that ended after `at`: for the speed shown while it runs."""
    query = select(ledger).where(ledger.c.batch_id == batch_id, ledger.c.ended_at >= at)
    return every(connection, query)
