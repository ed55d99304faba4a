"""Recording finished requests: the one path by which a result becomes permanent.

A group of results is held against what the chunk has already, and stored durably; then one short transaction counts it and makes
the chunk's row name it, if the lease and the row are still as they were; then the worker is answered. What was acknowledged
survives any crash, and what was stored but never named is never read. Nothing slow happens under the database's locks.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from batchsched import exposed
from batchsched.clock import IdSource
from batchsched.errors import Conflict, InvalidRequest, NotFound, StaleLease
from batchsched.lines import LineError, iter_lines, parse, unanswered
from batchsched.queue import batches, chunks, ledger, shares
from batchsched.queue.database import Database
from batchsched.queue.rows import Row
from batchsched.queue.store import Record, Store, length_of
from batchsched.queue.tenancy import ANY
from batchsched.queue.together import Together
from batchsched.units import length_class
from batchsched.wire import Meter, Result

MAX_REMEMBERED_LINES = 200_000


class Recorded(NamedTuple):
    """What became of a group of results."""

    new: int
    duplicates: int
    batch_id: str
    chunk_done: bool


class Known(NamedTuple):
    """A leased chunk as its row was when we last saw it, and the lines that were recorded by then."""

    chunk: Row
    lines: set[int]


class Memory:
    """What is known of the chunks that are worked on: a cache, so it may forget anything. The least used goes first."""

    def __init__(self, max_lines: int = MAX_REMEMBERED_LINES) -> None:
        self._max_lines = max_lines
        self._chunks: OrderedDict[str, Known] = OrderedDict()
        self._lines = 0
        self._lock = threading.Lock()

    def get(self, chunk_id: str, token: int) -> Known | None:
        """What is known of a lease."""
        known = self._chunks.get(chunk_id)
        return known if known and known.chunk["token"] == token else None

    def put(self, known: Known) -> Known:
        """Remember it."""
        with self._lock:
            self._drop(known.chunk["id"])
            self._chunks[known.chunk["id"]] = known
            self._lines += known.chunk["lines"]
            while self._lines > self._max_lines and len(self._chunks) > 1:
                self._drop(next(iter(self._chunks)))
        return known

    def forget(self, chunk_id: str) -> None:
        """It ended, or somebody else changed it."""
        with self._lock:
            self._drop(chunk_id)

    def _drop(self, chunk_id: str) -> None:
        known = self._chunks.pop(chunk_id, None)
        if known:
            self._lines -= known.chunk["lines"]


class Group(NamedTuple):
    """A group of results on its way: stored, not yet counted. `new`: those of `results` that were not recorded before."""

    stored: chunks.Stored
    new: Sequence[Result]
    results: Sequence[Result]
    meter: Meter | None


class Recorder:
    """Writes results. Groups that come in at the same time are counted in one transaction."""

    def __init__(self, database: Database, store: Store, ids: IdSource, weights: Mapping[str, float] = {}) -> None:
        """`weights`: of tenants, where they are not 1."""
        self._weights = weights
        self._database = database
        self._store = store
        self._ids = ids
        self._memory = Memory()
        self._commits = Together[Group, Row](self._commit)

    def done(self, chunk: Row) -> set[int]:
        """The lines of a chunk that are recorded, read from the store as far as they are not remembered."""
        return self._known(chunk).lines

    def _known(self, chunk: Row) -> Known:
        known = self._memory.get(chunk["id"], chunk["token"])
        seen, lines = (known.chunk["result_bytes"], known.lines) if known else (0, set[int]())
        if known is None or seen != chunk["result_bytes"]:
            more = {record.line for record in self._store.records(chunk, seen)}
            known = self._memory.put(Known(chunk, lines | more))
        return known

    def record(self, chunk_id: str, token: int, results: Sequence[Result], meter: Meter | None = None) -> Recorded:
        """Record a group; lines recorded before are left as they are. `meter`: what the work took, duplicates included.

        Raises StaleLease, InvalidRequest, StorageFull, StorageUnavailable.
        """
        while True:
            known = self._memory.get(chunk_id, token) or self._look(chunk_id, token)
            try:
                return self._try(known, results, meter)
            except StaleLease:
                self._memory.forget(chunk_id)
                raise
            except Conflict:  # the same lease recorded something through another server, or in another message: look again
                self._memory.put(self._look(chunk_id, token))

    def _look(self, chunk_id: str, token: int) -> Known:
        with self._database.read() as connection:
            chunk = chunks.held(connection, chunk_id, token)
        return self._known(chunk)

    def _try(self, known: Known, results: Sequence[Result], meter: Meter | None) -> Recorded:
        chunk = known.chunk
        _check_lines(chunk, results)
        fresh = {result.line: result for result in results if result.line not in known.lines}
        new = [Record(line, result.ok, bytes(result.output)) for line, result in fresh.items()]
        if any(b"\n" in record.output for record in new):
            raise InvalidRequest(f"A result of chunk {chunk['id']} spans several lines.")
        completed = sum(record.ok for record in new)
        parts = self._store.append(chunk, new) if new else chunk["parts"]
        stored = chunks.Stored(chunk, completed, len(new) - completed, parts, length_of(parts) if new else chunk["result_bytes"])
        chunk = self._commits.do(Group(stored, list(fresh.values()), results, meter))
        # Remembered only now: a transaction that was rolled back has changed nothing.
        if done := chunk["state"] == "done":
            self._memory.forget(chunk["id"])
        else:
            self._memory.put(Known(chunk, known.lines | fresh.keys()))
        return Recorded(len(new), len(results) - len(new), chunk["batch_id"], done)

    def _commit(self, groups: Sequence[Group]) -> Sequence[Row | BaseException]:
        """One transaction for them all; where one of them cannot be counted, one for each."""
        try:
            with self._database.write() as connection:
                return self._count(connection, groups)
        except (StaleLease, NotFound, Conflict) as problem:
            if len(groups) == 1:
                return [problem]
        except IntegrityError as problem:  # a group of a lease that is over may overfill its batch before its chunk is looked at
            if len(groups) == 1:
                return [self._stale(groups[0]) or problem]
        return [outcome for group in groups for outcome in self._commit([group])]

    def _stale(self, group: Group) -> StaleLease | None:
        try:
            self._look(group.stored.chunk["id"], group.stored.chunk["token"])
        except StaleLease as problem:
            return problem
        return None

    def _count(self, connection: Connection, groups: Sequence[Group]) -> list[Row]:
        # A batch's row before those of its chunks, and all in one order: as everywhere, so that nobody waits in a circle.
        groups_of: dict[str, list[Group]] = {}
        for group in groups:
            groups_of.setdefault(group.stored.chunk["batch_id"], []).append(group)
        try:
            batches.count_all(connection, {batch_id: _sums(some) for batch_id, some in groups_of.items()})
        except IntegrityError:  # more results than the batch has requests: not all of these leases still hold
            raise Conflict("Some of these results were recorded already, or their batch has ended.") from None
        rows = chunks.record_all(connection, [group.stored for group in groups])
        for row, group in zip(rows, groups, strict=True):
            self.charge(connection, row, group.meter, group.results)
        if duplicates := sum(len(group.results) - len(group.new) for group in groups):
            ledger.bump(connection, exposed.DUPLICATE_RESULTS, by=duplicates)
        if cut := sum(result.cut for group in groups for result in group.new):
            ledger.bump(connection, exposed.ANSWERS_CUT, by=cut)
        return rows

    def give_up(self, chunk: Row, code: str, message: str) -> None:
        """Record an error line for every unfinished request of a chunk that is leased. Raises as `record` does."""
        with self._database.read() as connection:
            input_file_id = batches.get(connection, chunk["batch_id"], ANY)["input_file_id"]
        missing = [
            Result(line, False, 0, 0, 0, msgspec.Raw(unanswered(self._ids.new("batch_req"), custom_id, code, message)))
            for line, custom_id in unfinished(self._store, chunk, self.done(chunk), input_file_id)
        ]
        self.record(chunk["id"], chunk["token"], missing)

    def charge(self, connection: Connection, chunk: Row, meter: Meter | None, results: Sequence[Result]) -> None:
        """Enter what a chunk took into the ledger: all of it, also where the results were duplicates, for it was spent."""
        if meter is None:
            return
        tenant, model = batches.whose(connection, chunk["batch_id"])
        busy_s = max(0.0, meter.busy_s)
        entered = ledger.add(
            connection,
            batch_id=chunk["batch_id"],
            chunk_id=chunk["id"],
            pool=chunk["pool"],
            model=chunk["model"] or model,
            started_at=meter.started_at,
            ended_at=max(meter.started_at, meter.ended_at),
            busy_s=busy_s,
            energy_j=max(0.0, meter.energy_j),
            energy_source=meter.energy_source,
            host_j=max(0.0, meter.host_j),
            host_source=meter.host_source,
            mark=meter.mark,
            startup_s=max(0.0, meter.startup_s),
            requests=len(results),
            input_tokens=sum(result.input_tokens for result in results),
            cached_tokens=sum(result.cached_tokens for result in results),
            output_tokens=sum(result.output_tokens for result in results),
            lengths=_lengths(results),
            drafts=max(0.0, meter.drafts),
            draft_tokens=max(0.0, meter.draft_tokens),
            accepted_tokens=max(0.0, meter.accepted_tokens),
            beside_pool=meter.beside_pool,
            beside_s=max(0.0, meter.beside_s),
        )
        if entered:
            shares.charge(connection, tenant, busy_s / self._weights.get(tenant, 1.0))


def unfinished(store: Store, chunk: Row, done: set[int], input_file_id: str) -> list[tuple[int, str]]:
    """`(line, custom_id)` of a chunk's requests that have no result yet, read from the input file."""
    missing: list[tuple[int, str]] = []
    found = iter_lines(store.blocks(input_file_id, chunk["byte_start"], chunk["byte_end"]))
    for line, text in enumerate(found, chunk["first_line"]):
        if line not in done:
            request = parse(text.data, line)
            missing.append((line, "" if isinstance(request, LineError) else request.custom_id))
    return missing


def _lengths(results: Sequence[Result]) -> dict[str, int] | None:
    """Answers by the class of their length; as text, since JSON has no other keys."""
    found = Counter([str(length_class(result.output_tokens)) for result in results if result.ok and result.output_tokens > 0])
    return dict(found) or None


def _sums(groups: Sequence[Group]) -> dict[str, int]:
    """What groups of one batch add to its counts."""
    new = [result for group in groups for result in group.new]
    return {
        "completed": sum(group.stored.completed for group in groups),
        "failed": sum(group.stored.failed for group in groups),
        "input_tokens": sum([result.input_tokens for result in new]),
        "cached_tokens": sum([result.cached_tokens for result in new]),
        "output_tokens": sum([result.output_tokens for result in new]),
    }


def _check_lines(chunk: Row, results: Sequence[Result]) -> None:
    first, end = chunk["first_line"], chunk["first_line"] + chunk["lines"]
    for result in results:
        if not first <= result.line < end:
            raise InvalidRequest(f"Line {result.line} is not in chunk {chunk['id']} (lines {first} to {end - 1}).")
