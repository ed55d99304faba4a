"""The end of a batch: chunk results become one output file and one error file, and the batch takes its last state.

Every step can be repeated: a crash anywhere before the commit leaves a batch that is merged again, to two files with new names,
and files that no row knows, to be swept. So whoever merges late, or twice, never writes to a file that was handed out.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from datetime import datetime
from typing import Any, BinaryIO

import msgspec

from batchsched.clock import IdSource
from batchsched.errors import Conflict
from batchsched.lines import unanswered
from batchsched.queue import batches, chunks, files
from batchsched.queue.database import Database
from batchsched.queue.results import unfinished
from batchsched.queue.rows import Row
from batchsched.queue.store import Record, Store
from batchsched.settings import Retention

UNDONE = {
    "expired": ("batch_expired", "This request could not be executed before the completion window expired."),
    "cancelled": ("batch_cancelled", "This request was not executed because the batch was cancelled."),
}
CHUNKS_A_READ = 500


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


def merge(database: Database, store: Store, ids: IdSource, kept: Retention, batch: Row, target: str, now: datetime) -> None:
    """Merge a batch's results and enter `target` (completed, expired or cancelled). Raises StorageFull; then try again later."""
    with contextlib.ExitStack() as stack:
        merged = [_open(stack, store, ids) for _ in ("output", "error")]
        for chunk, records in store.each(_chunks(database, batch["id"])):
            for record in _all(store, ids, chunk, records, batch["input_file_id"], target):
                merged[0 if record.ok else 1].write(record.output)
    try:
        _commit(database, store, kept, batch, merged, target, now)
    except Conflict:  # somebody else ended the batch, with files of their own
        for part in merged:
            store.remove(part.id)
        raise
    store.discard_results(batch["id"], batch["round"])


def _open(stack: contextlib.ExitStack, store: Store, ids: IdSource) -> Merged:
    file_id = ids.new("file").replace("_", "-")
    handle: BinaryIO = stack.enter_context(store.create(file_id))
    return Merged(file_id, handle)


def _chunks(database: Database, batch_id: str) -> Iterator[Row]:
    """A batch's chunks in the order of its file, read a page at a time: none of them changes any more."""
    after = -1
    while True:
        with database.read() as connection:
            page = chunks.of_batch(connection, batch_id, after=after, limit=CHUNKS_A_READ)
        if not page:
            return
        yield from page
        after = page[-1]["position"]


def _all(store: Store, ids: IdSource, chunk: Row, records: Iterator[Record], input_file_id: str, target: str) -> Iterator[Record]:
    done: set[int] = set()
    for record in records:
        done.add(record.line)
        yield record
    if len(done) < chunk["lines"]:
        code, message = UNDONE[target]
        for line, custom_id in unfinished(store, chunk, done, input_file_id):
            yield Record(line, False, unanswered(ids.new("batch_req"), custom_id, code, message))


def _commit(
    database: Database, store: Store, kept: Retention, batch: Row, merged: list[Merged], target: str, now: datetime
) -> None:
    output, errors = merged
    life = kept.output_life(batch["options"].get("output_expires_after_s"))
    with database.write() as connection:
        for part, kind in ((output, "output"), (errors, "error")):
            if part.lines:
                files.add(
                    connection,
                    tenant=batch["tenant"],
                    id=part.id,
                    purpose="batch_output",
                    filename=f"{batch['id']}_{kind}.jsonl",
                    bytes=part.size,
                    sha256=part.digest.hexdigest(),
                    status="processed",
                    created_at=now,
                    expires_at=now + life if life else None,
                )
        batches.move(
            connection,
            batch["id"],
            target,
            now,
            within=batch["round"],
            completed=output.lines,
            failed=errors.lines,
            output_file_id=output.id if output.lines else None,
            error_file_id=errors.id if errors.lines else None,
        )
    for part in merged:
        if not part.lines:
            store.remove(part.id)
