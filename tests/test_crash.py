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


def _whole(stage: Stage, batch: dict[str, Any], count: int = COUNT) -> None:
    """Every request has exactly one result."""
    assert batch["status"] == "completed", batch
    assert batch["request_counts"] == {"total": count, "completed": count, "failed": 0}
    text = HTTP.get(f"{stage.url}/v1/files/{batch['output_file_id']}/content").text
    ids = Counter(json.loads(line)["custom_id"] for line in text.splitlines())
    assert ids == Counter(f"r{i}" for i in range(count))


def _unrepeated(before: Counter[str], after: Counter[str], acknowledged: set[str]) -> None:
    repeated = {custom_id for custom_id in acknowledged if after[custom_id] != before[custom_id]}
    assert not repeated, "ran again although their results had been acknowledged"


@pytest.mark.parametrize(
    ("point", "times"),
    [("claimed", 1), ("append", 2), ("append", 3), ("acknowledged", 2), ("merge", COUNT // 2), ("merged", 1), ("completed", 1)],
)
def test_the_server_dies(tmp_path: Path, point: str, times: int) -> None:
    halfway = point in {"append", "acknowledged"}
    with Stage(tmp_path, delay_s=0.5 if halfway else 0.15) as stage:  # so that a chunk's results come in several groups
        stage.engine()
        doomed = stage.server((point, times))
        batch_id = _create(stage, _upload(stage, tagged(COUNT)))
        stage.worker()
        assert doomed.wait(timeout=PATIENCE_S) == -signal.SIGKILL
        assert stage.half_done() or not halfway
        acknowledged, before = stage.acknowledged(), stage.computed()
        stage.server()
        _whole(stage, _completed(stage, batch_id))
        _unrepeated(before, stage.computed(), acknowledged)


@pytest.mark.parametrize("point", ["merge", "merged"])
def test_the_server_dies_while_it_ends_a_batch_that_expired(tmp_path: Path, point: str) -> None:
    with Stage(tmp_path) as stage:
        doomed = stage.server((point, 1))
        body = {"input_file_id": _upload(stage, tagged(3)), "endpoint": "/v1/chat/completions", "completion_window": "1s"}
        batch_id = HTTP.post(f"{stage.url}/v1/batches", json=body).json()["id"]
        assert doomed.wait(timeout=PATIENCE_S) == -signal.SIGKILL
        stage.server()
        batch = _completed(stage, batch_id)
        assert batch["status"] == "expired"
        assert batch["request_counts"] == {"total": 3, "completed": 0, "failed": 3}


@pytest.mark.parametrize("point", ["append", "acknowledged", "merge"])
@pytest.mark.parametrize("victim", ["worker", "engine"])
def test_a_worker_or_an_engine_dies_at_a_point_of_the_server(tmp_path: Path, victim: str, point: str) -> None:
    """Between the write of results and their acknowledgement, before the answer arrives, while the batch is merged."""
    with Stage(tmp_path) as stage:
        engine = stage.engine()
        stage.server((point, 2), instead=True)
        batch_id = _create(stage, _upload(stage, tagged(COUNT)))
        worker = stage.worker()
        dead = worker if victim == "worker" else engine
        stage.victim.write_text(str(dead.pid))
        assert dead.wait(timeout=PATIENCE_S) == -signal.SIGKILL
        acknowledged, before = stage.acknowledged(), stage.computed()
        if victim == "worker":
            stage.worker()
        else:
            stage.engine()
        _whole(stage, _completed(stage, batch_id))
        _unrepeated(before, stage.computed(), acknowledged)


def _nothing_left(stage: Stage) -> bool:
    """No file, not even a part of one."""
    data = stage.folder / "data"
    listed = HTTP.get(f"{stage.url}/v1/files").json()["data"]
    return not listed and not [*(data / "tmp").iterdir(), *(data / "files").iterdir()]


@pytest.mark.parametrize(("point", "times"), [("upload", 20), ("uploaded", 1)])
def test_the_server_dies_while_a_file_is_uploaded(tmp_path: Path, point: str, times: int) -> None:
    with Stage(tmp_path) as stage:
        doomed = stage.server((point, times))
        with pytest.raises(httpx.HTTPError):
            _upload(stage, tagged(COUNT))
        assert doomed.wait(timeout=PATIENCE_S) == -signal.SIGKILL
        stage.server()
        assert _nothing_left(stage)


def test_the_server_dies_while_a_batch_is_cut(tmp_path: Path) -> None:
    with Stage(tmp_path) as stage:
        doomed = stage.server(("cut", 1))
        file_id = _upload(stage, tagged(COUNT))
        with suppress(httpx.HTTPError):  # it may die before it has answered
            _create(stage, file_id)
        assert doomed.wait(timeout=PATIENCE_S) == -signal.SIGKILL
        stage.engine()
        stage.server()
        stage.worker()
        [batch] = HTTP.get(f"{stage.url}/v1/batches").json()["data"]
        _whole(stage, _completed(stage, batch["id"]))


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
def test_the_client_dies_while_it_uploads(tmp_path: Path, how: signal.Signals) -> None:
    with Stage(tmp_path) as stage:
        stage.server()
        with _half_an_upload(stage) as client:
            client.send_signal(how)
        wait_for(lambda: _nothing_left(stage))
        assert "Traceback" not in (tmp_path / "server.log").read_text()
        _upload(stage, tagged(COUNT))


def test_the_server_is_stopped_while_a_file_is_uploaded(tmp_path: Path) -> None:
    with Stage(tmp_path) as stage:
        server = stage.server()
        with _half_an_upload(stage):
            assert end(server, signal.SIGINT) == 130
        stage.server()
        assert _nothing_left(stage)


def test_the_worker_dies(tmp_path: Path) -> None:
    with Stage(tmp_path) as stage:
        stage.engine()
        stage.server()
        batch_id = _create(stage, _upload(stage, tagged(COUNT)))
        worker = stage.worker()
        wait_for(stage.half_done)
        end(worker, signal.SIGKILL)
        assert stage.half_done()
        acknowledged, before = stage.acknowledged(), stage.computed()
        assert len(acknowledged) < COUNT
        stage.worker()
        _whole(stage, _completed(stage, batch_id))
        _unrepeated(before, stage.computed(), acknowledged)


def test_the_engine_dies(tmp_path: Path) -> None:
    with Stage(tmp_path) as stage:
        engine = stage.engine()
        stage.server()
        batch_id = _create(stage, _upload(stage, tagged(COUNT)))
        stage.worker()
        wait_for(stage.half_done)
        end(engine, signal.SIGKILL)
        assert stage.half_done()
        acknowledged, before = stage.acknowledged(), stage.computed()
        stage.engine()
        _whole(stage, _completed(stage, batch_id))
        _unrepeated(before, stage.computed(), acknowledged)


def test_a_worker_that_was_stopped_beyond_its_lease_changes_nothing(tmp_path: Path) -> None:
    with Stage(tmp_path, lease_s=1.5, delay_s=0.2) as stage:
        stage.engine()
        stage.server()
        batch_id = _create(stage, _upload(stage, tagged(COUNT)))
        sleeper = stage.worker()
        wait_for(lambda: len(stage.acknowledged()) >= 4)
        sleeper.send_signal(signal.SIGSTOP)
        stage.worker()
        _whole(stage, _completed(stage, batch_id))
        results = HTTP.get(f"{stage.url}/v1/batches/{batch_id}").json()
        sleeper.send_signal(signal.SIGCONT)
        wait_for(lambda: "batchsched_stale_completions_total" in HTTP.get(f"{stage.url}/metrics").text)
        _whole(stage, HTTP.get(f"{stage.url}/v1/batches/{batch_id}").json())
        assert HTTP.get(f"{stage.url}/v1/batches/{batch_id}").json()["usage"] == results["usage"]


def test_a_worker_that_is_told_to_stop_gives_back_what_it_holds(tmp_path: Path) -> None:
    with Stage(tmp_path, lease_s=60, delay_s=0.2) as stage:
        stage.engine()
        stage.server()
        batch_id = _create(stage, _upload(stage, tagged(COUNT)))
        first = stage.worker()
        wait_for(lambda: len(stage.acknowledged()) >= 4)
        assert end(first, signal.SIGTERM) == 0
        before = stage.computed()
        stage.worker()  # at once: nobody waits for the long lease of the first
        _whole(stage, _completed(stage, batch_id))
        assert sum(stage.computed().values()) == COUNT, "a request was computed twice"
        assert sum(before.values()) < COUNT
