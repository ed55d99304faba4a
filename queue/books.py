"""Rows of the books: entries that are only ever added, in the order of their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from batchsched.errors import Conflict
from batchsched.queue.hot import Hot
from batchsched.queue.rows import Row, every
from batchsched.queue.tables import books, postings

_FIRST = upsert(books).values(batch_id=bindparam("batch"), number=0, due_at=bindparam("at"))  # SQLite writes it in the same words
_OPEN = Hot(_FIRST.on_conflict_do_update(index_elements=["batch_id"], set_={"due_at": _FIRST.excluded.due_at}))


def open_at(connection: Connection, batch_id: str, now: datetime) -> None:
    """A batch has ended: its books are to be written."""
    _OPEN.changed(connection, [{"batch": batch_id, "at": now}])


def due(connection: Connection, now: datetime, limit: int) -> list[str]:
    """Batches whose books should be looked at again."""
    query = select(books.c.batch_id).where(books.c.due_at <= now).order_by(books.c.due_at)
    return list(connection.scalars(query.limit(limit)))


def of_batch(connection: Connection, batch_id: str) -> list[Row]:
    """Every entry, in order."""
    return every(connection, select(postings).where(postings.c.batch_id == batch_id).order_by(postings.c.number))


def add(
    connection: Connection, batch_id: str, seen: int, entries: Sequence[dict[str, Any]], now: datetime, due_at: datetime | None
) -> None:
    """Add entries to books of which `seen` were read. Raises Conflict where somebody else has added some meanwhile."""
    mine = (books.c.batch_id == batch_id, books.c.number == seen)
    values = {"number": seen + len(entries), "due_at": due_at}
    if connection.execute(update(books).where(*mine).values(**values)).rowcount != 1:
        raise Conflict(f"The books of batch '{batch_id}' were written by another server.")
    if entries:
        rows = [{"batch_id": batch_id, "number": seen + n, "posted_at": now, **entry} for n, entry in enumerate(entries, 1)]
        connection.execute(insert(postings), rows)
