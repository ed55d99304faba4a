"""Recording results beside other servers, over failures, and with a bounded memory; on both databases."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from batchsched.clock import RandomIds
from batchsched.errors import InvalidRequest, StaleLease, StorageFull
from batchsched.queue import batches, chunks, ledger
from batchsched.queue.database import Database
from batchsched.queue.folder_store import FolderStore
from batchsched.queue.results import Known, Memory, Recorded, Recorder
from batchsched.units import length_class
from batchsched.wire import Meter, Result
from tests.test_queue_contract import LATER, add_batch, at_once, claim


@pytest.fixture
def servers(database: Database, tmp_path: Path) -> list[Recorder]:
    """Two servers' recorders over one database and one folder; the batch has a chunk of ten lines, leased with token 1."""
    add_batch(database, cut=1)
    claim(database)
    return [Recorder(database, FolderStore(tmp_path / "files"), RandomIds()) for _ in range(2)]


def results(*lines: int, ok: bool = True) -> list[Result]:
    return [Result(line, ok, 3, 1, 5, msgspec.Raw(b'{"line":%d}' % line)) for line in lines]


def test_how_long_answers_were_is_kept(servers: list[Recorder], database: Database) -> None:
    """By length class, in the entry of their span; spans that follow each other are one entry, and errors are no answers."""
    at = LATER
    for seconds, group in enumerate([results(1, 2), results(3), results(4, ok=False)]):
        start = at + timedelta(seconds=seconds)
        meter = Meter(start, start + timedelta(seconds=1), 1.0, 2.0, "modelled")
        servers[0].record("b-0", 1, group, meter)
    with database.read() as connection:
        found = ledger.answers(connection, "t", "tiny", "/v1/chat/completions")
    assert [row["lengths"] for row in found] == [{str(length_class(5)): 3}]
    assert found[0]["batch_id"] == "b"


def chunk_of(database: Database) -> dict[str, Any]:
    with database.read() as connection:
        return chunks.get(connection, "b-0")


def lines_of(database: Database, tmp_path: Path) -> list[int]:
    """What a restart finds."""
    return [record.line for record in FolderStore(tmp_path / "files").records(chunk_of(database))]


def counts(database: Database) -> tuple[int, int, int]:
    with database.read() as connection:
        batch = batches.get(connection, "b", "t")
    return batch["completed"], batch["failed"], batch["output_tokens"]


def test_two_servers_record_one_lease_in_turn(servers: list[Recorder], database: Database, tmp_path: Path) -> None:
    for turn, group in enumerate([(1, 2), (2, 3), (3, 4, 5), (1, 6), (7, 8)]):
        servers[turn % 2].record("b-0", 1, results(*group))
    assert lines_of(database, tmp_path) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert servers[0].record("b-0", 1, results(9, 10, ok=False)) == Recorded(2, 0, "b", True)
    row = chunk_of(database)
    assert (row["state"], row["completed"], row["failed"], counts(database)) == ("done", 8, 2, (8, 2, 50))
    with database.read() as connection:
        assert ledger.counted(connection)["duplicate_results_total"] == 3
    with pytest.raises(StaleLease):
        servers[1].record("b-0", 1, results(1))


@pytest.mark.parametrize("same", [True, False])
def test_messages_at_the_same_moment(servers: list[Recorder], database: Database, tmp_path: Path, same: bool) -> None:
    """The worker gave up waiting and sent a group again; or it sent several groups at once."""
    groups = [(1, 2, 3, 4)] * 4 if same else [(1, 2), (3, 4), (5, 6), (7, 8)]
    steps: list[Callable[[], Recorded]] = [
        lambda group=group, server=servers[n % 2]: server.record("b-0", 1, results(*group))  # type: ignore[misc]
        for n, group in enumerate(groups)
    ]
    recorded = at_once(steps)
    lines = sorted({line for group in groups for line in group})
    assert sum(each.new for each in recorded) == len(lines)
    assert sorted(lines_of(database, tmp_path)) == lines
    assert counts(database) == (len(lines), 0, 5 * len(lines))


def test_what_found_no_room_is_recorded_later(
    servers: list[Recorder], database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    servers[0].record("b-0", 1, results(1))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageFull):
            servers[0].record("b-0", 1, results(2, 3))
    assert servers[0].record("b-0", 1, results(1, 2)) == Recorded(1, 1, "b", False)
    assert lines_of(database, tmp_path) == [1, 2]
    assert counts(database) == (2, 0, 10)


def test_what_was_rolled_back_is_not_remembered(
    servers: list[Recorder], database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError

    servers[0].record("b-0", 1, results(1))
    with monkeypatch.context() as patch:
        patch.setattr(batches, "count_all", broken)
        with pytest.raises(RuntimeError):
            servers[0].record("b-0", 1, results(2))
    assert lines_of(database, tmp_path) == [1]
    assert servers[0].record("b-0", 1, results(2)) == Recorded(1, 0, "b", False)
    assert lines_of(database, tmp_path) == [1, 2]


def test_a_server_that_remembers_a_lease_that_is_over(servers: list[Recorder], database: Database, tmp_path: Path) -> None:
    servers[0].record("b-0", 1, results(1))
    with database.write() as connection:
        chunks.rescue(connection, LATER)
    (lease,) = claim(database, now=LATER)
    assert servers[1].done(lease) == {1}
    servers[1].record("b-0", lease["token"], results(2))
    with pytest.raises(StaleLease):
        servers[0].record("b-0", 1, results(2, 3))
    servers[1].record("b-0", lease["token"], results(4))
    assert lines_of(database, tmp_path) == [1, 2, 4]
    assert servers[0].record("b-0", lease["token"], results(4, 5)) == Recorded(1, 1, "b", False)


def test_lines_of_another_chunk_are_refused(servers: list[Recorder], database: Database) -> None:
    for wrong in (0, 11):
        with pytest.raises(InvalidRequest, match="not in chunk"):
            servers[0].record("b-0", 1, results(1, wrong))
    assert counts(database) == (0, 0, 0)


def test_memory_is_bounded() -> None:
    memory = Memory(max_lines=100)
    for n in range(50):
        memory.put(Known({"id": f"c{n}", "token": 1, "lines": 30}, set()))
        memory.put(Known({"id": f"c{n}", "token": 2, "lines": 30}, set()))
    assert [n for n in range(50) if memory.get(f"c{n}", 2)] == [47, 48, 49]
    assert memory.get("c49", 1) is None
    memory.forget("c48")
    memory.put(Known({"id": "large", "token": 1, "lines": 1000}, set()))
    assert memory.get("large", 1)
    assert memory.get("c49", 2) is None


def test_answers_that_were_cut_are_counted_once(servers: list[Recorder], database: Database) -> None:
    told = results(1, 2, 3)
    told[1].cut = True
    for server in servers:
        server.record("b-0", 1, told)
    with database.read() as connection:
        assert ledger.counted(connection)["answers_cut_total"] == 1
