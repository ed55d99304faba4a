"""Recording finished requests: the one path by which a result becomes permanent.

A group of results is checked against the lease, appended to the chunk's result file, synced, counted and committed, in this order
and under the write lock. The answer to the worker comes after the commit: what was acknowledged survives any crash, and a crash
before that leaves only a tail in the file that the next append cuts off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from sqlalchemy import Connection

from batchsched.clock import IdSource
from batchsched.errors import InvalidRequest
from batchsched.lines import LineError, iter_lines, parse, unanswered
from batchsched.queue import batches, chunks, ledger
from batchsched.queue.rows import Row
from batchsched.queue.store import Record, Store
from batchsched.wire import Meter, Result


class Recorded(NamedTuple):
    """What became of a group of results."""

    new: int
    duplicates: int
    batch_id: str
    chunk_done: bool


class Recorder:
    """Writes results. Remembers which lines each leased chunk has already, and reads that back from the file after a restart."""

    def __init__(self, store: Store, ids: IdSource) -> None:
        self._store = store
        self._ids = ids
        self._known: dict[str, tuple[int, set[int]]] = {}

    def done(self, chunk: Row) -> set[int]:
        """The lines of a chunk that are recorded; rebuilt from its file unless what is remembered ends at the same byte."""
        length, lines = self._known.get(chunk["id"], (-1, set[int]()))
        if length != chunk["result_bytes"]:
            records = self._store.records(chunk["batch_id"], chunk["position"], chunk["result_bytes"])
            lines = {record.line for record in records}
            self._known[chunk["id"]] = (chunk["result_bytes"], lines)
        return lines

    def record(self, connection: Connection, chunk_id: str, token: int, results: Sequence[Result]) -> Recorded:
        """Record a group; lines recorded before are left as they are. Raises StaleLease, InvalidRequest, StorageFull."""
        chunk = chunks.held(connection, chunk_id, token)
        known = self.done(chunk)
        _check_lines(chunk, results)
        fresh = {result.line: result for result in results if result.line not in known}
        new = list(fresh.values())
        completed = sum(result.ok for result in new)
        length, done = chunk["result_bytes"], False
        if new:
            rows = [Record(result.line, result.ok, bytes(result.output)) for result in new]
            length = self._store.append(chunk["batch_id"], chunk["position"], length, rows)
            failed = len(new) - completed
            done = chunks.record(connection, chunk_id, token, completed=completed, failed=failed, result_bytes=length)
            batches.count(
                connection,
                chunk["batch_id"],
                completed=completed,
                failed=failed,
                input_tokens=sum(result.input_tokens for result in new),
                cached_tokens=sum(result.cached_tokens for result in new),
                output_tokens=sum(result.output_tokens for result in new),
            )
        # Remembered only with its length: if this transaction rolls back, the length will not match and the file is read again.
        if done:
            self._known.pop(chunk_id, None)
        else:
            self._known[chunk_id] = (length, known | set(fresh))
        return Recorded(len(new), len(results) - len(new), chunk["batch_id"], done)

    def give_up(self, connection: Connection, chunk: Row, code: str, message: str) -> None:
        """Record an error line for every unfinished request of a chunk that is leased."""
        missing = [
            Result(line, False, 0, 0, 0, msgspec.Raw(unanswered(self._ids.new("batch_req"), custom_id, code, message)))
            for line, custom_id in unfinished(self._store, chunk, self.done(chunk), _input_of(connection, chunk))
        ]
        self.record(connection, chunk["id"], chunk["token"], missing)

    def charge(self, connection: Connection, chunk: Row, model: str, meter: Meter | None, results: Sequence[Result]) -> None:
        """Enter what a chunk took into the ledger: all of it, also where the results were duplicates, for it was spent."""
        if meter is None:
            return
        ledger.add(
            connection,
            batch_id=chunk["batch_id"],
            chunk_id=chunk["id"],
            pool=chunk["pool"],
            model=model,
            started_at=meter.started_at,
            ended_at=max(meter.started_at, meter.ended_at),
            busy_s=max(0.0, meter.busy_s),
            energy_j=max(0.0, meter.energy_j),
            energy_source=meter.energy_source,
            startup_s=max(0.0, meter.startup_s),
            requests=len(results),
            input_tokens=sum(result.input_tokens for result in results),
            cached_tokens=sum(result.cached_tokens for result in results),
            output_tokens=sum(result.output_tokens for result in results),
        )


def unfinished(store: Store, chunk: Row, done: set[int], input_file_id: str) -> list[tuple[int, str]]:
    """`(line, custom_id)` of a chunk's requests that have no result yet, read from the input file."""
    missing: list[tuple[int, str]] = []
    found = iter_lines(store.blocks(input_file_id, chunk["byte_start"], chunk["byte_end"]))
    for line, text in enumerate(found, chunk["first_line"]):
        if line not in done:
            request = parse(text.data, line)
            missing.append((line, "" if isinstance(request, LineError) else request.custom_id))
    return missing


def _input_of(connection: Connection, chunk: Row) -> str:
    return str(batches.get(connection, chunk["batch_id"])["input_file_id"])


def _check_lines(chunk: Row, results: Sequence[Result]) -> None:
    first, count = chunk["first_line"], chunk["lines"]
    for result in results:
        if not first <= result.line < first + count:
            raise InvalidRequest(f"Line {result.line} is not in chunk {chunk['id']} (lines {first} to {first + count - 1}).")
        if b"\n" in bytes(result.output):
            raise InvalidRequest(f"The result of line {result.line} spans several lines.")
