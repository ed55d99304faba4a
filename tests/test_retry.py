"""A retry runs only what was left: over random patterns of answered, failed and unfinished lines, crashes, both databases."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchsched.clock import ManualClock, RandomIds
from batchsched.errors import Conflict, StorageUnavailable
from batchsched.queue import batches, chunks, files, reopening
from batchsched.queue.database import Database
from batchsched.queue.folder_store import FolderStore
from batchsched.queue.merging import merge
from batchsched.queue.results import Recorder
from batchsched.queue.store import Store
from batchsched.queue.tenancy import ANY
from batchsched.settings import Retention
from batchsched.units import from_iso
from batchsched.wire import PREFIX, Result
from tests.live import LiveServer, live_server, requests

pytestmark = pytest.mark.slow

NOW = datetime(2026, 5, 1, tzinfo=UTC)
NUMBERS = itertools.count()
CHUNK = 3
# What becomes of each line in each round; what is left at the end of a chunk's turn stays unfinished.
ROUND = st.lists(st.sampled_from(["ok", "failed", "unfinished"]), min_size=7, max_size=7)


class House:
    """The queue without a server: a batch of `total` lines on a database and a store."""

    def __init__(self, database: Database, store: Store, total: int) -> None:
        self.database, self.store, self.total = database, store, total
        self.ids = RandomIds()
        self.recorder = Recorder(database, store, self.ids)
        number = next(NUMBERS)
        self.batch_id, self.file_id = f"batch_{number}", f"file-{number}"
        lines = requests(total).splitlines(keepends=True)
        ends = list(itertools.accumulate(map(len, lines)))
        with store.create(self.file_id) as handle:
            handle.write(b"".join(lines))
        cut = [range(first, min(first + CHUNK, total)) for first in range(0, total, CHUNK)]
        with database.write() as connection:
            files.add(
                connection, tenant="default", id=self.file_id, purpose="batch", filename="f", bytes=1, sha256="", created_at=NOW
            )
            batches.add(
                connection, tenant="default", id=self.batch_id, endpoint="/v1/chat/completions", input_file_id=self.file_id,
                completion_window="1h", state="in_progress", model="tiny", created_at=NOW, deadline_at=NOW, meta={},
                options={}, total=total,
            )  # fmt: skip
            chunks.add(
                connection,
                [
                    {
                        "id": f"chunk_{number}_{position}", "batch_id": self.batch_id, "position": position,
                        "first_line": part.start + 1, "lines": len(part), "state": "pending", "suspects": [],
                        "byte_start": ends[part.start - 1] if part.start else 0, "byte_end": ends[part.stop - 1], "parts": [],
                    }
                    for position, part in enumerate(cut)
                ],
            )  # fmt: skip

    def row(self) -> dict[str, Any]:
        with self.database.read() as connection:
            return batches.get(connection, self.batch_id, ANY)

    def work(self, pattern: list[str], turn: int) -> set[int]:
        """Lease every chunk and record what the pattern says; the lines that were run."""
        ran: set[int] = set()
        while True:
            with self.database.write() as connection:
                got = chunks.claim(connection, self.batch_id, worker_id="w", pool="p", limit=1, now=NOW, lease_s=60)
            if not got:
                return ran
            done = self.recorder.done(got[0])
            mine = [line for line in range(got[0]["first_line"], got[0]["first_line"] + got[0]["lines"]) if line not in done]
            new = [_result(line, pattern[line - 1] == "ok", turn) for line in mine if pattern[line - 1] != "unfinished"]
            ran |= set(mine)
            self.recorder.record(got[0]["id"], got[0]["token"], new)

    def end(self, target: str) -> str:
        """End the round: completed where all is done."""
        with self.database.write() as connection:
            if set(chunks.by_state(connection, self.batch_id)) <= {"done"}:
                batches.move(connection, self.batch_id, target := "finalizing", NOW)
            else:
                chunks.close(connection, self.batch_id, leased_too=True)
                if target == "cancelled":
                    batches.move(connection, self.batch_id, "cancelling", NOW)
        target = "completed" if target == "finalizing" else target
        merge(self.database, self.store, self.ids, Retention(), self.row(), target, NOW)
        return target

    def content(self, file_id: str | None) -> dict[str, Any]:
        """A file's lines by custom_id; each is there once."""
        lines = b"".join(self.store.blocks(file_id)).splitlines() if file_id else []
        found = {line["custom_id"]: line for line in map(json.loads, lines)}
        assert len(found) == len(lines)
        return found

    def retry(self, crash_at: int | None = None) -> None:
        """Mark and rebuild; with `crash_at`, the first try dies after so many chunks were written."""
        with self.database.write() as connection:
            reopening.mark(connection, self.row(), NOW + timedelta(hours=1), NOW)
        if crash_at is not None:
            with contextlib.suppress(_CrashError):
                reopening.rebuild(self.database, _Dying(self.store, crash_at), self.row(), None)
        if self.row()["reopen"]:
            reopening.rebuild(self.database, self.store, self.row(), None)


class _CrashError(Exception):
    pass


class _Dying:
    """A store whose process dies after so many writes."""

    def __init__(self, store: Store, writes: int) -> None:
        self._store, self._left = store, writes

    def append(self, *arguments: Any) -> Any:
        if self._left == 0:
            raise _CrashError
        self._left -= 1
        return self._store.append(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def _result(line: int, ok: bool, turn: int) -> Result:
    output = {"id": "x", "custom_id": f"r{line - 1}", "response": {"status_code": 200 if ok else 400, "body": {"turn": turn}}}
    return Result(line, ok, 3, 1, 5, msgspec.Raw(json.dumps(output).encode()))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    total=st.integers(1, 7),
    rounds=st.lists(ROUND, min_size=1, max_size=3),
    target=st.sampled_from(["expired", "cancelled"]),
    crash_at=st.none() | st.integers(0, 2),
)
def test_every_retry_keeps_what_was_answered_and_runs_the_rest(
    database: Database, tmp_path: Path, total: int, rounds: list[list[str]], target: str, crash_at: int | None
) -> None:
    house = House(database, FolderStore(tmp_path), total)
    answered: dict[int, int] = {}
    seen: set[str | None] = set()
    tokens = 0
    for turn, pattern in enumerate(rounds):
        if turn:
            if len(answered) == total:
                with pytest.raises(Conflict, match="nothing to retry"):
                    house.retry()
                return
            house.retry(crash_at)
            row = house.row()
            assert (row["state"], row["round"], row["completed"], row["failed"]) == ("in_progress", turn, len(answered), 0)
            assert row["output_file_id"] is row["error_file_id"] is row["completed_at"] is row["expired_at"] is None
        ran = house.work(pattern, turn)
        assert ran == set(range(1, total + 1)) - set(answered)
        tokens += 5 * sum(pattern[line - 1] != "unfinished" for line in ran)
        answered |= {line: turn for line in ran if pattern[line - 1] == "ok"}
        ended = house.end(target)
        row = house.row()
        assert (row["state"], row["completed"], row["failed"]) == (ended, len(answered), total - len(answered))
        assert row["output_tokens"] == tokens
        output, errors = house.content(row["output_file_id"]), house.content(row["error_file_id"])
        assert {name: line["response"]["body"]["turn"] for name, line in output.items()} == {
            f"r{line - 1}": turn for line, turn in answered.items()
        }
        assert set(output) | set(errors) == {f"r{i}" for i in range(total)}
        assert len(output) + len(errors) == total
        new = {row["output_file_id"], row["error_file_id"]} - {None}
        assert not new & seen
        seen |= new


def test_who_merges_late_changes_nothing_of_the_next_round(database: Database, tmp_path: Path) -> None:
    house = House(database, FolderStore(tmp_path), 3)
    house.work(["ok", "failed", "ok"], 0)
    stale = house.row()
    house.end("completed")
    house.retry()
    house.work(["ok"] * 3, 1)
    with database.write() as connection:
        batches.move(connection, house.batch_id, "finalizing", NOW)
    with pytest.raises(Conflict):
        merge(database, house.store, house.ids, Retention(), stale, "completed", NOW)
    with pytest.raises(Conflict):
        reopening.rebuild(database, house.store, {**stale, "reopen": {"output_file_id": None}}, None)


@pytest.fixture
def server(tmp_path: Path) -> Generator[LiveServer]:
    with live_server(tmp_path, clock=ManualClock(NOW), server__chunk_lines=3) as live:
        yield live


def _retry(server: LiveServer, batch_id: str, body: Any = None, status: int = 200) -> dict[str, Any]:
    answer: dict[str, Any] = server.post(f"{PREFIX}/batches/{batch_id}/retry", body, status)
    return answer


def _expired(server: LiveServer, count: int, done: list[int], failed: list[int]) -> dict[str, Any]:
    """A batch that expired with these lines of its first chunk done and failed."""
    batch_id = server.submit(requests(count), batchsched={"deadline": "30s"})["id"]
    worker = server.worker()
    lease = worker.lease()
    worker.record(lease, done)
    worker.record(lease, failed, ok=False)
    server.advance(30)
    return server.until(batch_id, "expired")


def test_an_expired_batch_goes_on_where_it_stood(server: LiveServer) -> None:
    before = _expired(server, 8, [1, 2], [3])
    assert before["request_counts"] == {"total": 8, "completed": 2, "failed": 6}
    marked = _retry(server, before["id"], {"deadline": "6h"})
    assert (marked["status"], marked["output_file_id"], marked["expired_at"]) == ("in_progress", None, None)
    assert marked["request_counts"] == {"total": 8, "completed": 2, "failed": 0}
    assert marked["batchsched"]["round"] == 1
    worker = server.worker()
    leases = sorted((worker.lease() for _ in range(3)), key=lambda lease: int(lease["first_line"]))
    assert [(lease["first_line"], lease["done"]) for lease in leases] == [(1, [1, 2]), (4, []), (7, [])]
    assert {lease["attempt"] for lease in leases} == {1}
    worker.finish(leases[0])
    assert server.batch(before["id"])["batchsched"]["verdict"]["feasible"]
    for lease in leases[1:]:
        worker.finish(lease)
    done = worker.drain(before["id"])
    assert done["request_counts"] == {"total": 8, "completed": 8, "failed": 0}
    assert done["error_file_id"] is None
    assert done["usage"]["output_tokens"] == before["usage"]["output_tokens"] + 6 * 5
    assert {line["custom_id"] for line in server.content(done["output_file_id"])} == {f"r{i}" for i in range(8)}
    assert len(server.content(before["output_file_id"])) == 2
    assert len(server.content(before["error_file_id"])) == 6
    assert done["output_file_id"] != before["output_file_id"]
    assert "nothing to retry" in _retry(server, before["id"], status=409)["error"]["message"]


def test_a_completed_batch_with_failed_lines_is_retried_for_as_long_as_at_first(tmp_path: Path) -> None:
    clock = ManualClock(NOW)
    with live_server(tmp_path, clock=clock) as server:
        batch_id = server.submit(requests(3), batchsched={"deadline": "5h"})["id"]
        worker = server.worker()
        lease = worker.lease()
        worker.record(lease, [2], ok=False)
        worker.finish(lease)
        server.until(batch_id, "completed")
        clock.advance(86_400)
        marked = _retry(server, batch_id)
        assert from_iso(marked["batchsched"]["deadline_at"]) == clock.now() + timedelta(hours=5)
        done = worker.drain(batch_id)
        assert done["request_counts"] == {"total": 3, "completed": 3, "failed": 0}
        assert done["finalizing_at"] == done["completed_at"] == int(clock.now().timestamp())


def test_a_retried_batch_that_is_cancelled_at_once_keeps_its_answers(server: LiveServer) -> None:
    before = _expired(server, 5, [1, 3], [])
    _retry(server, before["id"])
    server.post(f"/v1/batches/{before['id']}/cancel")
    done = server.until(before["id"], "cancelled")
    assert done["request_counts"] == {"total": 5, "completed": 2, "failed": 3}
    assert {line["custom_id"] for line in server.content(done["output_file_id"])} == {"r0", "r2"}
    assert {line["error"]["code"] for line in server.content(done["error_file_id"])} == {"batch_cancelled"}


def test_what_cannot_be_retried_says_why(server: LiveServer) -> None:
    bad = server.submit(b"{nonsense\n")["id"]
    server.until(bad, "failed")
    assert "not valid" in _retry(server, bad, status=409)["error"]["message"]
    running = server.submit(requests(1))["id"]
    server.until(running, "in_progress")
    assert "has not ended" in _retry(server, running, status=409)["error"]["message"]
    assert _retry(server, "batch_unknown", status=404)["error"]["code"] == "not_found"
    server.worker().drain(running)
    assert "nothing to retry" in _retry(server, running, status=409)["error"]["message"]
    assert _retry(server, running, {"deadline": "2001-01-01T00:00:00Z"}, status=400)["error"]["param"] == "deadline"


@pytest.mark.parametrize("which", ["input_file_id", "output_file_id"])
def test_a_batch_whose_files_are_gone_cannot_be_retried(server: LiveServer, which: str) -> None:
    before = _expired(server, 4, [1], [])
    assert server.http.delete(f"/v1/files/{before[which]}").status_code == 200
    error = _retry(server, before["id"], status=409)["error"]
    assert before[which] in error["message"]
    assert error["hint"] == "Submit the requests as a new batch."


def test_until_the_answers_are_back_nothing_is_leased_and_no_file_deleted(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object) -> None:
        raise StorageUnavailable

    before = _expired(server, 4, [1], [])
    with monkeypatch.context() as patch:
        patch.setattr("batchsched.server.lifecycle.rebuild", unreachable)
        _retry(server, before["id"])
        for which in ("input_file_id", "output_file_id"):
            assert server.http.delete(f"/v1/files/{before[which]}").status_code == 409
        server.runtime.scheduler.plan_now()
        assert server.worker().claim() == []
        waiting = server.batch(before["id"])["batchsched"]["progress"]["waiting_for"]
        assert waiting == "its earlier answers to be taken over"
    worker = server.worker()
    assert sorted(worker.lease()["done"] for _ in range(2)) == [[], [1]]
