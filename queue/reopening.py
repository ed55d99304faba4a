"""A retry: a batch that ended goes on with what it left undone.

The request only marks the batch (`reopen`). Housekeeping then brings the answers that it has back from its merged output to its
chunks, and takes the mark away in the transaction that opens them. Until that commit nothing can be leased, and what was written
counts for nothing: a crash anywhere before it means that the same is done again.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection

from batchsched.errors import Conflict, NotFound
from batchsched.queue import batches, chunks, files
from batchsched.queue.database import Database
from batchsched.queue.results import unfinished
from batchsched.queue.rows import Row
from batchsched.queue.store import Record, Store, length_of

log = logging.getLogger(__name__)
RETRIABLE = ("completed", "expired", "cancelled")
_ENDED = ("finalizing_at", "completed_at", "expired_at", "cancelling_at", "cancelled_at")


def mark(connection: Connection, batch: Row, deadline_at: datetime, now: datetime) -> None:
    """Take a batch up again, until `deadline_at`. Raises Conflict, saying why that cannot be."""
    _check(connection, batch)
    batches.move(
        connection,
        batch["id"],
        "in_progress",
        now,
        origin=[batch["state"]],
        within=batch["round"],
        deadline_at=deadline_at,
        round=batch["round"] + 1,
        reopen={"output_file_id": batch["output_file_id"]},
        failed=0,
        verdict=None,
        risk=None,
        paused_at=None,
        started=None,
        output_file_id=None,
        error_file_id=None,
        **dict.fromkeys(_ENDED),
    )


def _check(connection: Connection, batch: Row) -> None:
    state = batch["state"]
    if state == "failed":
        raise Conflict("The input of this batch is not valid, so there is nothing to retry.", hint="Mend it and submit it anew.")
    if state not in RETRIABLE:
        raise Conflict(f"A batch with status '{state}' cannot be retried: it has not ended yet.")
    if batch["erased_at"]:
        raise Conflict("The content of this batch was deleted, so there is nothing to retry.", hint="Submit it anew.")
    if not batch["total"]:
        raise Conflict(
            "This batch was cancelled before it was validated, so it has no requests to retry.", hint="Submit it anew."
        )
    if not batch["failed"]:
        raise Conflict("Every request of this batch was answered; there is nothing to retry.")
    needed = {"requests": batch["input_file_id"], "answers so far": batch["output_file_id"]}
    for what, file_id in needed.items():
        try:
            if file_id:
                files.get(connection, file_id, batch["tenant"], lock=True)
        except NotFound:
            text = f"The file {file_id} with this batch's {what} is gone: it was deleted, or its time was over."
            raise Conflict(text, hint="Submit the requests as a new batch.") from None


def rebuild(database: Database, store: Store, batch: Row, verdict: dict[str, Any] | None) -> None:
    """Give a marked batch's chunks the answers that they had, open those with requests left, and take the mark away.

    Raises Conflict where somebody else did it meanwhile.
    """
    with database.read() as connection:
        rows = chunks.of_batch(connection, batch["id"])
    answers = Answers(store, batch["reopen"]["output_file_id"])
    taken = [_take(store, batch, chunk, answers) for chunk in rows]
    completed = sum(one["completed"] for one in taken)
    if completed != batch["completed"]:
        log.error("Batch %s had %d answers, and %d were found; the others run again.", batch["id"], batch["completed"], completed)
    with database.write() as connection:
        batches.reopened(connection, batch, completed=completed, verdict=verdict)
        chunks.reopen(connection, taken)


def _take(store: Store, batch: Row, chunk: Row, answers: Answers) -> dict[str, Any]:
    lines = {custom_id: line for line, custom_id in unfinished(store, chunk, set(), batch["input_file_id"])}
    records = [Record(lines[custom_id], True, output) for custom_id, output in answers.take(lines)]
    parts = store.append({**chunk, "round": batch["round"], "parts": []}, records) if records else []
    state = "done" if len(records) == chunk["lines"] else "pending"
    return {"id": chunk["id"], "state": state, "completed": len(records), "parts": parts, "result_bytes": length_of(parts)}


class _Named(msgspec.Struct):
    custom_id: str


class Answers:
    """The lines of a merged output, which stand in the order of the chunks: read once, from the front, as they are asked for."""

    def __init__(self, store: Store, file_id: str | None) -> None:
        self._lines = self._read(store, file_id) if file_id else iter(())
        self._next = next(self._lines, None)

    def take(self, custom_ids: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """The next lines, while they are among these requests."""
        while self._next and self._next[0] in custom_ids:
            yield self._next
            self._next = next(self._lines, None)

    @staticmethod
    def _read(store: Store, file_id: str) -> Iterator[tuple[str, bytes]]:
        decoder = msgspec.json.Decoder(_Named)
        try:
            rest = b""
            for block in store.blocks(file_id):
                *whole, rest = (rest + block).split(b"\n")
                for line in whole:
                    yield decoder.decode(line).custom_id, line
        except FileNotFoundError:  # behind our back: deleting it through us is refused meanwhile
            log.error("The file %s is gone; what it held runs again.", file_id)
