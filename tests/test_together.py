"""Results that come in at the same time: stored and counted as one, and each of them as if it were alone."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from batchsched.clock import RandomIds
from batchsched.errors import BatchschedError, InvalidRequest, StaleLease
from batchsched.queue import batches, chunks, ledger
from batchsched.queue.database import Database
from batchsched.queue.folder_store import FolderStore
from batchsched.queue.results import Recorded, Recorder
from batchsched.queue.tenancy import ANY
from batchsched.queue.together import Together
from batchsched.wire import Result
from tests.live import PATIENCE_S, wait_for
from tests.test_queue_contract import add_batch, at_once, claim

LINES = 10


def test_what_comes_in_while_a_round_runs_is_the_next_round() -> None:
    rounds: list[list[int]] = []
    running, go_on = threading.Event(), threading.Event()

    def all_of(works: Sequence[int]) -> Sequence[str | Exception]:
        rounds.append(sorted(works))
        running.set()
        assert go_on.wait(PATIENCE_S)
        return [ValueError(work) if work == 3 else str(work) for work in works]

    together = Together(all_of)
    with ThreadPoolExecutor(5) as threads:
        first = threads.submit(together.do, 0)
        assert running.wait(PATIENCE_S)
        others = {work: threads.submit(together.do, work) for work in (1, 2, 3, 4)}
        wait_for(lambda: together.waiting == 4)
        go_on.set()
        assert [first.result(), others[1].result(), others[2].result(), others[4].result()] == ["0", "1", "2", "4"]
        with pytest.raises(ValueError, match="3"):
            others[3].result()
    assert rounds == [[0], [1, 2, 3, 4]]


def test_a_round_that_fails_fails_for_everyone_in_it_and_the_next_one_runs() -> None:
    def all_of(works: Sequence[int]) -> Sequence[int]:
        if 0 in works:
            raise OSError("no room")
        return works

    together = Together(all_of)
    with pytest.raises(OSError, match="no room"):
        together.do(0)
    assert together.do(1) == 1


def results(first: int, last: int, *, ok: bool = True, text: bytes = b"{}") -> list[Result]:
    """Results of the lines from `first` to `last`."""
    return [Result(line, ok, 3, 1, 2, msgspec.Raw(text)) for line in range(first, last + 1)]


def outcomes(recorder: Recorder, groups: list[tuple[str, int, list[Result]]]) -> list[Recorded | BatchschedError]:
    """Record groups at once, each in its own thread; what each thread saw."""

    def one(group: tuple[str, int, list[Result]]) -> Recorded | BatchschedError:
        try:
            return recorder.record(*group)
        except BatchschedError as problem:
            return problem

    return at_once([lambda group=group: one(group) for group in groups])  # type: ignore[misc]


def test_groups_at_once_are_all_counted_and_a_bad_one_is_refused_alone(database: Database, tmp_path: Path) -> None:
    add_batch(database, "b", cut=6, lines=LINES)
    add_batch(database, "other", cut=2, lines=LINES)
    leased = [*claim(database, "b", limit=6), *claim(database, "other", limit=2)]
    store = FolderStore(tmp_path)
    recorder = Recorder(database, store, RandomIds())
    groups = [(chunk["id"], 1, results(chunk["first_line"], chunk["first_line"] + LINES - 1)) for chunk in leased]
    chunk = leased[0]
    groups[0] = (chunk["id"], 1, results(1, 4))
    groups.append((chunk["id"], 1, results(3, 7, ok=False)))  # of the same chunk; two of its lines in both
    groups.append((chunk["id"], 2, results(8, 8)))  # a token that was never given
    groups.append((chunk["id"], 1, results(11, 11)))  # not its line
    groups.append((chunk["id"], 1, results(8, 8, text=b"{\n}")))
    *good, stale, foreign, split = outcomes(recorder, groups)
    assert (type(stale), type(foreign), type(split)) == (StaleLease, InvalidRequest, InvalidRequest)
    counted = [one for one in good if isinstance(one, Recorded)]
    assert len(counted) == len(good)
    assert sum(one.new for one in counted) == 7 * LINES + 7
    assert sum(one.duplicates for one in counted) == 2
    assert sum(one.chunk_done for one in counted) == 7
    with database.read() as connection:
        rows = {batch_id: batches.get(connection, batch_id, ANY) for batch_id in ("b", "other")}
        kept = chunks.of_batch(connection, "b") + chunks.of_batch(connection, "other")
        counters = ledger.counted(connection)
    assert {(row["completed"] + row["failed"], row["input_tokens"]) for row in rows.values()} == {(57, 171), (20, 60)}
    assert counters["duplicate_results_total"] == 2
    for row in kept:
        lines = sorted(record.line for record in store.records(row))
        wanted = range(row["first_line"], row["first_line"] + (7 if row["id"] == chunk["id"] else LINES))
        assert lines == list(wanted)


def test_groups_of_one_chunk_one_after_the_other_in_many_threads(database: Database, tmp_path: Path) -> None:
    add_batch(database, "b", cut=1, lines=30)
    (chunk,) = claim(database, "b")
    recorder = Recorder(database, FolderStore(tmp_path), RandomIds())
    found = outcomes(recorder, [(chunk["id"], 1, results(first, first + 4)) for first in range(1, 31, 5)])
    assert [one.new for one in found if isinstance(one, Recorded)] == [5] * 6
    with database.read() as connection:
        assert chunks.get(connection, chunk["id"])["state"] == "done"
        assert batches.get(connection, "b", ANY)["completed"] == 30
