"""Crashes of real processes at every point of a batch's life: nothing lost, nothing twice, nothing acknowledged run again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.live import HTTP, PATIENCE_S, wait_for
from tests.processes import Stage, end, tagged

pytestmark = pytest.mark.slow
COUNT = 40
SLOWLY = "[[slow 0.35]]"
"""So that a chunk's results come in several groups."""
Process = subprocess.Popen[bytes]


class Scene(Stage):
    """For all tests here, since processes cost seconds each: whatever died in one is there again in the next."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.serving: Process | None = None
        self.computing: Process | None = None
        self.working: Process | None = None
        self._sent = 0

    def serve(self) -> Process:
        """The server; another where it has died."""
        self.order.unlink(missing_ok=True)
        if self.serving is None or self.serving.poll() is not None:
            self.serving = self.server(told=True)
        return self.serving

    def compute(self) -> Process:
        """The engine, in the same way."""
        if self.computing is None or self.computing.poll() is not None:
            self.computing = self.engine()
        return self.computing

    def work(self) -> Process:
        """The worker, in the same way."""
        if self.working is None or self.working.poll() is not None:
            self.working = self.worker()
        return self.working

    def rest(self) -> None:
        """Nobody works from here on."""
        if self.working is not None:
            end(self.working, signal.SIGKILL)

    def doom(self, point: str, times: int, victim: Process | None = None) -> None:
        """The server is to die there, or to kill the victim."""
        self.order.write_text(f"{point} {times} {victim.pid if victim else ''}")

    def fell(self) -> bool:
        """Wait until the server is gone; was it killed?"""
        return self.serving is not None and self.serving.wait(timeout=PATIENCE_S) == -signal.SIGKILL

    def data(self, count: int = COUNT, words: str = "") -> tuple[list[str], bytes]:
        """A batch of its own custom_ids; those, and its file."""
        self._sent += 1
        prefix = f"b{self._sent}-r"
        return [f"{prefix}{i}" for i in range(count)], tagged(count, prefix, words)

    def submit(self, words: str = "") -> tuple[str, list[str]]:
        """Send a batch, on which nobody works before the answer is here; its id and its custom_ids."""
        ids, data = self.data(words=words)
        if self.working is not None:
            self.working.send_signal(signal.SIGSTOP)
        batch_id = _create(self, _upload(self, data))
        if self.working is not None:
            self.working.send_signal(signal.SIGCONT)
        return batch_id, ids


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Generator[Scene]:
    """One for all."""
    with Scene(tmp_path_factory.mktemp("scene")) as made:
        yield made


@pytest.fixture
def stage(scene: Scene) -> Scene:
    """With a server, and nobody who works."""
    scene.rest()
    scene.serve()
    return scene


@pytest.fixture
def busy(scene: Scene) -> Scene:
    """With server, engine and worker."""
    scene.serve()
    scene.compute()
    scene.work()
    return scene


def _upload(stage: Stage, data: bytes) -> str:
    answer = HTTP.post(f"{stage.url}/v1/files", files={"file": ("in.jsonl", data)}, data={"purpose": "batch"})
    return str(answer.json()["id"])


def _create(stage: Stage, file_id: str) -> str:
    body = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "1h"}
    return str(HTTP.post(f"{stage.url}/v1/batches", json=body).json()["id"])


def _completed(stage: Stage, batch_id: str, timeout_s: float = PATIENCE_S) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        try:
            batch: dict[str, Any] = HTTP.get(f"{stage.url}/v1/batches/{batch_id}").json()
        except httpx.HTTPError:
            return None
        return batch if batch.get("status") in {"completed", "failed", "expired"} else None

    return wait_for(look, timeout_s)


def _whole(stage: Stage, batch: dict[str, Any], ids: list[str]) -> None:
    """Every request has exactly one result."""
    assert batch["status"] == "completed", batch
    assert batch["request_counts"] == {"total": len(ids), "completed": len(ids), "failed": 0}
    text = HTTP.get(f"{stage.url}/v1/files/{batch['output_file_id']}/content").text
    assert Counter(json.loads(line)["custom_id"] for line in text.splitlines()) == Counter(ids)


def _unrepeated(before: Counter[str], after: Counter[str], acknowledged: set[str]) -> None:
    repeated = {custom_id for custom_id in acknowledged if after[custom_id] != before[custom_id]}
    assert not repeated, "ran again although their results had been acknowledged"


def _files(stage: Stage) -> set[str]:
    """Every file, and every part of one."""
    data = stage.folder / "data"
    listed = HTTP.get(f"{stage.url}/v1/files").json()["data"]
    return {file["id"] for file in listed} | {path.name for name in ("tmp", "files") for path in (data / name).iterdir()}


@pytest.mark.parametrize(("point", "times"), [("upload", 20), ("uploaded", 1)])
def test_the_server_dies_while_a_file_is_uploaded(stage: Scene, point: str, times: int) -> None:
    before = _files(stage)
    stage.doom(point, times)
    with pytest.raises(httpx.HTTPError):
        _upload(stage, tagged(COUNT))
    assert stage.fell()
    stage.serve()
    assert _files(stage) == before


@pytest.mark.parametrize("point", ["merge", "merged"])
def test_the_server_dies_while_it_ends_a_batch_that_expired(stage: Scene, point: str) -> None:
    stage.doom(point, 1)
    _, data = stage.data(3)
    body = {"input_file_id": _upload(stage, data), "endpoint": "/v1/chat/completions", "completion_window": "1s"}
    batch_id = HTTP.post(f"{stage.url}/v1/batches", json=body).json()["id"]
    assert stage.fell()
    stage.serve()
    batch = _completed(stage, batch_id)
    assert batch["status"] == "expired"
    assert batch["request_counts"] == {"total": 3, "completed": 0, "failed": 3}


def test_the_server_dies_while_a_batch_is_cut(stage: Scene) -> None:
    ids, data = stage.data()
    file_id = _upload(stage, data)
    stage.doom("cut", 1)
    with suppress(httpx.HTTPError):  # it may die before it has answered
        _create(stage, file_id)
    assert stage.fell()
    stage.serve()
    stage.compute()
    stage.work()
    [batch] = [batch for batch in HTTP.get(f"{stage.url}/v1/batches").json()["data"] if batch["input_file_id"] == file_id]
    _whole(stage, _completed(stage, batch["id"]), ids)


@pytest.mark.parametrize(
    ("point", "times"),
    [("claimed", 1), ("append", 2), ("append", 3), ("acknowledged", 2), ("merge", COUNT // 2), ("merged", 1), ("completed", 1)],
)
def test_the_server_dies(busy: Scene, point: str, times: int) -> None:
    halfway = point in {"append", "acknowledged"}
    busy.doom(point, times)
    batch_id, ids = busy.submit(SLOWLY if halfway else "")
    assert busy.fell()
    assert busy.half_done() or not halfway
    acknowledged, before = busy.acknowledged(), busy.computed()
    busy.serve()
    _whole(busy, _completed(busy, batch_id), ids)
    _unrepeated(before, busy.computed(), acknowledged)


@pytest.mark.parametrize("point", ["append", "acknowledged", "merge"])
@pytest.mark.parametrize("victim", ["worker", "engine"])
def test_a_worker_or_an_engine_dies_at_a_point_of_the_server(busy: Scene, victim: str, point: str) -> None:
    """Between the write of results and their acknowledgement, before the answer arrives, while the batch is merged."""
    dead = busy.work() if victim == "worker" else busy.compute()
    busy.doom(point, 2, dead)
    batch_id, ids = busy.submit()
    assert dead.wait(timeout=PATIENCE_S) == -signal.SIGKILL
    acknowledged, before = busy.acknowledged(), busy.computed()
    busy.compute()
    busy.work()
    _whole(busy, _completed(busy, batch_id), ids)
    _unrepeated(before, busy.computed(), acknowledged)


@contextmanager
def _half_an_upload(stage: Stage) -> Generator[subprocess.Popen[bytes]]:
    """A client that has sent half of a file, of which the server has taken in at least a part."""
    code = """
        import sys, time, httpx
        def body():
            yield b'--x\\r\\nContent-Disposition: form-data; name="purpose"\\r\\n\\r\\nbatch\\r\\n'
            yield b'--x\\r\\nContent-Disposition: form-data; name="file"; filename="a"\\r\\n\\r\\n'
            yield open(sys.argv[2], "rb").read()
            print("half", flush=True)
            time.sleep(60)
        httpx.post(sys.argv[1] + "/v1/files", content=body(), headers={"content-type": "multipart/form-data; boundary=x"})
    """
    half = stage.folder / "half.jsonl"
    half.write_bytes(tagged(5000))
    command = [sys.executable, "-c", textwrap.dedent(code), stage.url, str(half)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"half\n"
        wait_for(lambda: list((stage.folder / "data" / "tmp").iterdir()))
        try:
            yield client
        finally:
            client.kill()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_the_client_dies_while_it_uploads(stage: Scene, how: signal.Signals) -> None:
    before, log = _files(stage), stage.folder / "server.log"
    said = log.stat().st_size
    with _half_an_upload(stage) as client:
        client.send_signal(how)
    wait_for(lambda: _files(stage) == before)
    assert b"Traceback" not in log.read_bytes()[said:]
    _upload(stage, tagged(COUNT))


def test_the_server_is_stopped_while_a_file_is_uploaded(stage: Scene) -> None:
    before = _files(stage)
    with _half_an_upload(stage):
        assert end(stage.serve(), signal.SIGINT) == 130
    stage.serve()
    assert _files(stage) == before


def test_the_worker_dies(busy: Scene) -> None:
    batch_id, ids = busy.submit(SLOWLY)
    wait_for(busy.half_done)
    end(busy.work(), signal.SIGKILL)
    assert busy.half_done()
    acknowledged, before = busy.acknowledged(), busy.computed()
    assert not acknowledged.issuperset(ids)
    busy.work()
    _whole(busy, _completed(busy, batch_id), ids)
    _unrepeated(before, busy.computed(), acknowledged)


def test_the_engine_dies(busy: Scene) -> None:
    batch_id, ids = busy.submit(SLOWLY)
    wait_for(busy.half_done)
    end(busy.compute(), signal.SIGKILL)
    assert busy.half_done()
    acknowledged, before = busy.acknowledged(), busy.computed()
    busy.compute()
    _whole(busy, _completed(busy, batch_id), ids)
    _unrepeated(before, busy.computed(), acknowledged)


def _acknowledged_of(stage: Stage, ids: list[str]) -> int:
    return len(stage.acknowledged().intersection(ids))


def test_a_worker_that_was_stopped_beyond_its_lease_changes_nothing(busy: Scene) -> None:
    batch_id, ids = busy.submit(SLOWLY)
    wait_for(lambda: _acknowledged_of(busy, ids) >= 4)
    sleeper, stale = busy.work(), _stale(busy)
    sleeper.send_signal(signal.SIGSTOP)
    busy.working = busy.worker()
    _whole(busy, _completed(busy, batch_id), ids)
    results = HTTP.get(f"{busy.url}/v1/batches/{batch_id}").json()
    sleeper.send_signal(signal.SIGCONT)
    wait_for(lambda: _stale(busy) > stale)
    _whole(busy, HTTP.get(f"{busy.url}/v1/batches/{batch_id}").json(), ids)
    assert HTTP.get(f"{busy.url}/v1/batches/{batch_id}").json()["usage"] == results["usage"]
    end(sleeper, signal.SIGKILL)


def _stale(stage: Stage) -> float:
    """Messages of leases that were over, as the server counts them."""
    lines = HTTP.get(f"{stage.url}/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("batchsched_stale_completions_total"))


def test_a_worker_that_is_told_to_stop_gives_back_what_it_holds(tmp_path: Path) -> None:
    with Stage(tmp_path, lease_s=60, delay_s=0.2) as stage:
        stage.engine()
        stage.server()
        ids = [f"r{i}" for i in range(COUNT)]
        batch_id = _create(stage, _upload(stage, tagged(COUNT)))
        first = stage.worker()
        wait_for(lambda: _acknowledged_of(stage, ids) >= 4)
        assert end(first, signal.SIGTERM) == 0
        before = stage.computed()
        stage.worker()  # at once: nobody waits for the long lease of the first
        _whole(stage, _completed(stage, batch_id), ids)
        assert sum(stage.computed().values()) == COUNT, "a request was computed twice"
        assert sum(before.values()) < COUNT
