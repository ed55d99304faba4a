"""What is removed, and when: files whose time is over, batches that ended long ago, the content of a batch on request.

Everything goes in bounded steps. The bytes go after the commit: a crash between the two leaves files that no row knows, for the
sweep.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, func, select, update

from batchsched.errors import Conflict, NotFound
from batchsched.queue import batches, files, forgotten
from batchsched.queue.rows import Row, every
from batchsched.queue.states import OPEN, TERMINAL
from batchsched.queue.tables import batches as table
from batchsched.queue.tables import books, chunks, deliveries, idempotency, ledger, postings, tallies, tombstones
from batchsched.queue.tables import files as file_table

_ended_at = func.coalesce(table.c.completed_at, table.c.failed_at, table.c.expired_at, table.c.cancelled_at)


def erase(connection: Connection, batch: Row, now: datetime) -> list[str]:
    """Take the content of an ended batch away: results, errors, metadata, its input where no other batch has it.

    The files whose bytes are to be removed. What it cost stays: the ledger holds no content. Raises Conflict while it runs.
    """
    ended = (table.c.id == batch["id"], table.c.state.in_(sorted(TERMINAL)))
    bare: dict[str, Any] = {"output_file_id": None, "error_file_id": None, "errors": None, "meta": {}}
    if connection.execute(update(table).where(*ended).values(erased_at=now, **bare)).rowcount != 1:
        state = batches.get(connection, batch["id"], batch["tenant"])["state"]
        raise Conflict(f"A batch with status '{state}' cannot be deleted.", hint="Cancel it first, and wait for its end.")
    gone = list(connection.scalars(select(file_table.c.id).where(files.results_of(batch))))
    if _own_input(connection, batch):
        gone.append(batch["input_file_id"])
    for file_id in gone:
        files.remove(connection, file_id, now)
    return gone


def _own_input(connection: Connection, batch: Row) -> bool:
    """Is the input there, the tenant's (a batch may name any id, and fail), a batch's, and no other batch's?"""
    try:
        file = files.get(connection, batch["input_file_id"], batch["tenant"], lock=True)
    except NotFound:
        return False
    others = (table.c.input_file_id == file["id"], table.c.id != batch["id"], table.c.erased_at.is_(None))
    return file["purpose"] == "batch" and connection.scalar(select(table.c.id).where(*others).limit(1)) is None


def over(connection: Connection, before: datetime, limit: int) -> list[str]:
    """Batches that ended before an instant, the oldest first."""
    old = (table.c.created_at < before, table.c.state.in_(sorted(TERMINAL)), _ended_at < before)
    return list(connection.scalars(select(table.c.id).where(*old).order_by(table.c.created_at).limit(limit)))


def forget(connection: Connection, batch_id: str) -> None:
    """Remove an ended batch and everything that points to it; nothing of one that was retried meanwhile. Its files have a time of
    their own, and what it took stays as part of a sum."""
    ended = select(table.c.input_file_id).where(table.c.id == batch_id, table.c.state.in_(sorted(TERMINAL)))
    input_id = connection.scalar(ended.with_for_update())
    if input_id is None:
        return
    forgotten.add(connection, batch_id)
    for each in (chunks, ledger, postings, books, tallies, deliveries, idempotency, tombstones):
        connection.execute(delete(each).where(each.c.batch_id == batch_id))
    connection.execute(delete(table).where(table.c.id == batch_id))
    others = select(table.c.id).where(table.c.input_file_id == input_id).exists()
    connection.execute(delete(tombstones).where(tombstones.c.id == input_id, ~others))


def expired(connection: Connection, now: datetime, limit: int, *, lock: bool = False) -> list[str]:
    """Files whose time is over and that no open batch needs; with `lock`, to be removed in this transaction."""
    needed = select(table.c.id).where(table.c.input_file_id == file_table.c.id, table.c.state.in_(sorted(OPEN))).exists()
    over = select(file_table.c.id).where(file_table.c.expires_at <= now, ~needed)
    query = over.order_by(file_table.c.expires_at).limit(limit)
    if lock:
        query = query.with_for_update(skip_locked=True)
    # Asked again once they are locked: a batch may have come meanwhile.
    return [row["id"] for row in every(connection, query) if not batches.uses_file(connection, row["id"])]
