"""What the machine may do to us: a full disk, a port in use, a folder in use, an open bind. One clear sentence, nothing lost."""

from __future__ import annotations

import errno
import os
import resource
import socket
import threading
from collections.abc import Callable, Generator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from batchsched.cli.main import main
from batchsched.clock import ManualClock
from batchsched.errors import StorageFull
from batchsched.queue import chunks
from batchsched.queue.folder_store import FolderStore
from batchsched.server.process import listen
from batchsched.wire import PREFIX
from tests.live import HTTP, PATIENCE_S, LiveServer, live_server, requests, wait_for
from tests.processes import Stage

pytestmark = pytest.mark.slow

NOW = datetime(2026, 5, 1, tzinfo=UTC)
Serve = Callable[..., tuple[int, str]]


@pytest.fixture
def serve(capsys: pytest.CaptureFixture[str]) -> Serve:
    """`batchsched serve`, in this process, where it is to end before it serves: its exit code and what it says."""

    def call(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as stop:
            main(["serve", *arguments])
        assert isinstance(stop.value.code, int)
        return stop.value.code, capsys.readouterr().err

    return call


@pytest.fixture
def server(tmp_path: Path) -> Generator[LiveServer]:
    with live_server(tmp_path, clock=ManualClock(NOW), server__chunk_lines=3) as live:
        yield live


def _full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _no_room(*_: object) -> None:
    raise StorageFull


def test_a_result_that_finds_the_disk_full_is_not_lost(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    batch_id, worker = server.submit(requests(3))["id"], server.worker()
    lease = worker.lease()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", _full)
        answer = worker.record(lease, [1], status=507)
        assert answer["error"]["code"] == "storage_full"
    assert worker.record(lease, [1]) == {"recorded": 1, "duplicates": 0}
    worker.record(lease, [2, 3])
    assert server.until(batch_id, "completed")["request_counts"]["completed"] == 3


def test_a_merge_that_finds_the_disk_full_waits(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    batch_id, worker = server.submit(requests(3))["id"], server.worker()
    lease = worker.lease()
    with monkeypatch.context() as patch:
        patch.setattr(FolderStore, "create", _no_room)
        worker.record(lease, [1, 2, 3])
        server.until(batch_id, "finalizing")
        server.runtime.lifecycle.round()
        assert server.batch(batch_id)["status"] == "finalizing"
    done = server.until(batch_id, "completed")
    assert len(server.content(done["output_file_id"])) == 3


def test_an_expiry_that_finds_the_disk_full_still_ends_as_expired(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its chunks are closed already when the merge fails; what is left must not look like a batch that is done."""
    batch_id, worker = server.submit(requests(3), batchsched={"deadline": "30s"})["id"], server.worker()
    worker.record(worker.lease(), [1])
    with monkeypatch.context() as patch:
        patch.setattr(FolderStore, "create", _no_room)
        server.advance(30)
        wait_for(lambda: "The batch waits" in caplog.text)
        server.runtime.lifecycle.round()
        assert server.batch(batch_id)["status"] == "in_progress"
    assert "Traceback" not in caplog.text
    done = server.until(batch_id, "expired")
    assert done["request_counts"] == {"total": 3, "completed": 1, "failed": 2}


def test_housekeeping_survives_a_failed_read(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = threading.Event()

    def fail(*_: object) -> None:
        failed.set()
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr("batchsched.server.lifecycle.batches.due", fail)
        assert failed.wait(PATIENCE_S)
    batch_id = server.submit(requests(1))["id"]
    server.until(batch_id, "in_progress")


def test_what_a_crash_left_behind_is_swept_at_the_start(tmp_path: Path) -> None:
    with live_server(tmp_path) as server:
        kept = server.upload(requests(1))
    data = tmp_path / "data"
    (data / "files" / "file-without-row").write_text("half a merge")
    (data / "results" / "batch_gone").mkdir()
    (data / "tmp" / "half").write_text("an upload")
    with live_server(tmp_path) as server:
        assert [path.name for path in (data / "files").iterdir()] == [kept]
        assert list((data / "results").iterdir()) == list((data / "tmp").iterdir()) == []
        assert server.get(f"/v1/files/{kept}")["id"] == kept


def test_what_others_left_behind_is_swept_in_the_long_run(tmp_path: Path) -> None:
    """Of several servers one may have died; what is young may be another's work in hand."""
    clock = ManualClock(NOW)
    with live_server(tmp_path, clock=clock) as server:
        old, young = (tmp_path / "data" / "files" / name for name in ("file-old", "file-young"))
        for path in (old, young):
            path.write_text("half a merge")
        os.utime(old, (0, 0))
        server.runtime.lifecycle.round()
        assert old.exists()
        clock.advance(7 * 3600)
        server.runtime.lifecycle.round()
        assert wait_for(lambda: not old.exists())
        assert young.exists()


def test_a_clock_that_jumps_takes_no_lease_from_a_healthy_worker(tmp_path: Path) -> None:
    clock = ManualClock(NOW)
    with live_server(tmp_path, clock=clock) as server:
        server.submit(requests(3))
        worker = server.worker()
        lease = worker.lease()
        server.runtime.lifecycle.round()
        clock.set_wall(clock.now() + timedelta(hours=1))
        server.runtime.lifecycle.round()
        worker.record(lease, [1])


class Leaping(ManualClock):
    """Once it is told to, its time of day jumps an hour ahead right after somebody looked whether it had."""

    leaps = False

    def monotonic(self) -> float:
        if self.leaps:
            self.leaps = False
            self.set_wall(self.now() + timedelta(hours=1))
        return super().monotonic()


def test_a_clock_that_jumps_right_after_it_was_looked_at_takes_no_lease_either(tmp_path: Path) -> None:
    clock = Leaping(NOW)
    with live_server(tmp_path, clock=clock) as server:
        server.submit(requests(3))
        worker = server.worker()
        lease = worker.lease()
        server.runtime.lifecycle.round()
        clock.leaps = True
        server.runtime.lifecycle.round()
        server.runtime.lifecycle.round()
        worker.record(lease, [1])


def test_a_clock_that_jumps_while_the_database_is_away_takes_no_lease_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ManualClock(NOW)
    with live_server(tmp_path, clock=clock) as server:
        server.submit(requests(3))
        worker = server.worker()
        lease = worker.lease()
        server.runtime.lifecycle.round()
        with monkeypatch.context() as patch:
            patch.setattr(chunks, "forgive", _no_room)
            clock.set_wall(clock.now() + timedelta(hours=1))
            server.runtime.lifecycle.round()
        server.runtime.lifecycle.round()
        worker.record(lease, [1])


def test_a_clock_that_jumps_back_holds_nobody_up(tmp_path: Path) -> None:
    clock = ManualClock(NOW)
    with live_server(tmp_path, clock=clock) as server:
        server.submit(requests(3))
        worker = server.worker()
        lease = worker.lease()
        body = {"token": lease["token"], "message": "it died", "suspects": []}
        server.post(f"{PREFIX}/leases/{lease['chunk_id']}/fail", body)
        server.runtime.lifecycle.round()
        clock.set_wall(clock.now() - timedelta(hours=1))
        assert (
            worker.lease()["chunk_id"] == lease["chunk_id"]
        )  # neither the pause after the failure nor the old plan is waited out


def test_a_damaged_database_is_one_sentence(tmp_path: Path, serve: Serve) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "batchsched.db").write_bytes(b"not a database, " * 1000)
    code, said = serve("--port", "0", "--data-dir", str(tmp_path / "data"))
    assert code == 1
    assert "cannot be read" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_a_real_limit_on_file_sizes_refuses_the_upload_and_keeps_serving(tmp_path: Path) -> None:
    """The kernel's own refusal: RLIMIT_FSIZE stands in for a full disk (EFBIG instead of ENOSPC)."""
    with Stage(tmp_path) as stage:
        server = stage.server()
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))  # the database and its log stay below
        big, small = requests(30_000), requests(5)
        answer = HTTP.post(f"{stage.url}/v1/files", files={"file": ("f", big)}, data={"purpose": "batch"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (507, "storage_full")
        assert "free some space" in answer.json()["error"]["message"]
        assert list((tmp_path / "data" / "files").iterdir()) == list((tmp_path / "data" / "tmp").iterdir()) == []
        answer = HTTP.post(f"{stage.url}/v1/files", files={"file": ("f", small)}, data={"purpose": "batch"})
        assert answer.status_code == 200


def test_a_port_in_use(tmp_path: Path, serve: Serve) -> None:
    with live_server(tmp_path / "a") as server:
        port = server.url.rpartition(":")[2]
        code, said = serve("--port", port, "--data-dir", str(tmp_path / "b"))
    assert code == 1
    assert f"Port {port} on 127.0.0.1 is already in use." in said
    assert "Traceback" not in said


def test_a_data_folder_in_use(tmp_path: Path, serve: Serve) -> None:
    with live_server(tmp_path):
        code, said = serve("--port", "0", "--data-dir", str(tmp_path / "data"))
    assert code == 75  # try again: it may be on its way out
    assert "is in use by another server" in said
    assert "Traceback" not in said


def test_the_world_is_not_listened_to_without_tls(tmp_path: Path, serve: Serve) -> None:
    code, said = serve("--host", "0.0.0.0", "--port", "0", "--data-dir", str(tmp_path / "data"))
    assert code == 2
    assert "Refusing to listen on 0.0.0.0 without TLS." in said
    assert not (tmp_path / "data").exists()


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path, serve: Serve) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    code, said = serve("--port", "0", "--data-dir", str(blocked / "data"))
    assert code == 1
    assert str(blocked) in said
    assert "Traceback" not in said


def test_answers_leave_at_once() -> None:
    """asyncio sets TCP_NODELAY only where the socket names its protocol; without it a small answer takes 40 ms."""
    with listen("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP
