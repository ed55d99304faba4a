"""The end of a batch: chunk results become one output file and one error file, and the batch takes its last state.

Every step can be repeated: a crash anywhere before the commit leaves a batch that is merged again, to the same two files.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, BinaryIO

import msgspec

from batchsched.clock import IdSource
from batchsched.lines import unanswered
from batchsched.queue import batches, chunks, files
from batchsched.queue.database import Database, translated
from batchsched.queue.results import unfinished
from batchsched.queue.rows import Row
from batchsched.queue.store import Record, Store

UNDONE = {
    "expired": ("batch_expired", "This request could not be executed before the completion window expired."),
    "cancelled": ("batch_cancelled", "This request was not executed because the batch was cancelled."),
}
RESULT_FILE_LIFE = timedelta(days=30)


class Merged(msgspec.Struct):
    """One of the two files while it is written."""

    id: str
    handle: Any
    lines: int = 0
    size: int = 0
    digest: Any = msgspec.field(default_factory=hashlib.sha256)

    def write(self, output: bytes) -> None:
        """Add one line."""
        line = output + b"\n"
        self.handle.write(line)
        self.digest.update(line)
        self.lines += 1
        self.size += len(line)


def merge(database: Database, store: Store, ids: IdSource, batch: Row, target: str, now: datetime) -> None:
    """Merge a batch's results and enter `target` (completed, expired or cancelled). Raises StorageFull; then try again later."""
    with database.read() as connection:
        rows = chunks.of_batch(connection, batch["id"])
    with translated(), contextlib.ExitStack() as stack:
        merged = [_open(stack, store, kind, batch["id"]) for kind in ("output", "error")]
        for chunk in rows:
            for record in _records(store, ids, chunk, batch["input_file_id"], target):
                merged[0 if record.ok else 1].write(record.output)
    _commit(database, store, batch, merged, target, now)
    store.discard_results(batch["id"])


def _open(stack: contextlib.ExitStack, store: Store, kind: str, batch_id: str) -> Merged:
    file_id = f"file-{kind}-{batch_id.removeprefix('batch_')}"
    handle: BinaryIO = stack.enter_context(store.create(file_id))
    return Merged(file_id, handle)


def _records(store: Store, ids: IdSource, chunk: Row, input_file_id: str, target: str) -> Iterator[Record]:
    done: set[int] = set()
    for record in store.records(chunk["batch_id"], chunk["position"], chunk["result_bytes"]):
        done.add(record.line)
        yield record
    if len(done) < chunk["lines"]:
        code, message = UNDONE[target]
        for line, custom_id in unfinished(store, chunk, done, input_file_id):
            yield Record(line, False, unanswered(ids.new("batch_req"), custom_id, code, message))


def _commit(database: Database, store: Store, batch: Row, merged: list[Merged], target: str, now: datetime) -> None:
    output, errors = merged
    with database.write() as connection:
        for part, kind in ((output, "output"), (errors, "error")):
            files.remove(connection, part.id)
            if part.lines:
                files.add(
                    connection,
                    id=part.id,
                    purpose="batch_output",
                    filename=f"{batch['id']}_{kind}.jsonl",
                    bytes=part.size,
                    sha256=part.digest.hexdigest(),
                    status="processed",
                    created_at=now,
                    expires_at=_expiry(batch, now),
                )
        batches.move(
            connection,
            batch["id"],
            target,
            now,
            completed=output.lines,
            failed=errors.lines,
            output_file_id=output.id if output.lines else None,
            error_file_id=errors.id if errors.lines else None,
        )
    for part in merged:
        if not part.lines:
            store.remove(part.id)


def _expiry(batch: Row, now: datetime) -> datetime:
    seconds = batch["options"].get("output_expires_after_s")
    return now + (timedelta(seconds=seconds) if seconds else RESULT_FILE_LIFE)
