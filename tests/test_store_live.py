"""A server whose files lie on an object store: whole batches, crashes, and a store that goes away."""

from __future__ import annotations

import json
import resource
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from batchsched.cli.doctor import guarded
from batchsched.cli.doctor_machine import store
from batchsched.errors import InvalidConfiguration
from batchsched.queue import chunks, merging
from batchsched.queue.object_store import open_object_store
from batchsched.server.runtime import Runtime
from batchsched.settings import Loaded, Server, Settings, load
from batchsched.wire import PREFIX
from tests.live import HTTP, PATIENCE_S, LiveServer, live_server, requests, wait_for
from tests.object_server import ObjectServer
from tests.processes import BATCHSCHED, Stage, acknowledged, free_port, tagged

pytestmark = pytest.mark.slow

URL = "s3://bucket/site"


def _names(server: LiveServer, batch_id: str) -> set[str]:
    """What the batch's rows name, as keys."""
    with server.runtime.database.read() as connection:
        rows = chunks.of_batch(connection, batch_id)
    return {f"site/results/{batch_id}{part[0]}" for row in rows for part in row["parts"]}


def test_a_batch_from_upload_to_deletion(object_server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "CHUNKS_A_READ", 2)
    with live_server(tmp_path, server__store_url=URL, server__chunk_lines=3) as server:
        batch_id, worker = server.submit(requests(8))["id"], server.worker()
        first, second = worker.lease(), worker.lease()
        worker.record(first, [1])
        worker.record(first, [2], ok=False)
        worker.record(second, [4, 5])
        results = {key for key in object_server.objects() if "/results/" in key}
        assert results == _names(server, batch_id)
        assert len(results) == 3
    with live_server(tmp_path, server__store_url=URL, server__chunk_lines=3) as server:
        worker.server = server  # what it holds outlives the server
        assert worker.record(first, [1, 2, 3]) == {"recorded": 1, "duplicates": 2}
        worker.record(second, [6])
        done = worker.drain(batch_id)
        assert done["request_counts"] == {"total": 8, "completed": 7, "failed": 1}
        output = server.content(done["output_file_id"])
        assert [line["custom_id"] for line in output] == ["r0", "r2", "r3", "r4", "r5", "r6", "r7"]
        assert [line["custom_id"] for line in server.content(done["error_file_id"])] == ["r1"]
        wait_for(lambda: not any("/results/" in key for key in object_server.objects()))
        for name in ("input_file_id", "output_file_id", "error_file_id"):
            assert server.http.delete(f"/v1/files/{done[name]}").status_code == 200
    assert object_server.objects() == ["site/belongs-to"]
    assert [path.name for path in (tmp_path / "data").iterdir() if path.is_dir()] == []


def test_a_refused_upload_leaves_nothing(object_server: ObjectServer, tmp_path: Path) -> None:
    with live_server(tmp_path, server__store_url=URL, server__max_file_bytes=20_000_000) as server:
        for size, status in ((100, 400), (25_000_000, 413)):
            answer = server.http.post(
                "/v1/files", files={"file": ("f", b"x" * size)}, data={} if status == 400 else {"purpose": "batch"}
            )
            assert answer.status_code == status
    assert object_server.objects() == ["site/belongs-to"]
    assert object_server.unfinished() == []


def test_a_store_that_goes_away_and_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = ObjectServer()
    for name, value in objects.environment.items():
        monkeypatch.setenv(name, value)
    objects.reset()
    with live_server(tmp_path, server__store_url=URL) as server:
        batch_id, worker = server.submit(requests(3))["id"], server.worker()
        lease = worker.lease()
        worker.record(lease, [1])
        objects.stop()
        answer = server.http.get(f"/v1/files/{server.batch(batch_id)['input_file_id']}/content")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "storage_unavailable")
        assert int(answer.headers["retry-after"]) > 0
        answer = server.http.post("/v1/files", files={"file": ("f", requests(1))}, data={"purpose": "batch"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "storage_unavailable")
        result = {"line": 2, "ok": True, "input_tokens": 0, "cached_tokens": 0, "output_tokens": 0, "output": {}}
        path = f"{PREFIX}/leases/{lease['chunk_id']}/results"
        answer = server.http.post(path, json={"token": lease["token"], "results": [result]})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "storage_unavailable"), answer.text
        server.post(f"{PREFIX}/leases/{lease['chunk_id']}/release", {"token": lease["token"], "reason": "shutdown"})
        claim = {"worker_id": worker.worker_id, "ready_models": ["tiny"]}
        wait_for(lambda: server.http.post(f"{PREFIX}/leases", json=claim).status_code == 503)  # what is done cannot be read
        objects = ObjectServer(objects.port)
        lease = worker.lease()  # at once: nobody waits for the end of a lease that nobody knows of
        assert lease["done"] == [1]
        assert worker.record(lease, [2]) == {"recorded": 1, "duplicates": 0}
        worker.record(lease, [3])
        assert server.until(batch_id, "completed")["request_counts"]["completed"] == 3
    objects.stop()


@pytest.mark.parametrize("place", ["folder", "s3"])
def test_two_servers_share_a_store(tmp_path: Path, object_server: ObjectServer, postgres_url: str, place: str) -> None:
    """A worker's messages reach now the one and now the other; whoever leads merges what both recorded."""
    url = URL if place == "s3" else f"file://{tmp_path / 'shared'}"
    shared: dict[str, Any] = {"server__store_url": url, "server__database_url": postgres_url, "server__chunk_lines": 4}
    with live_server(tmp_path / "a", **shared) as first, live_server(tmp_path / "b", **shared) as second:
        batch_id, worker = first.submit(requests(8))["id"], first.worker()
        for _ in range(2):
            worker.server = first
            lease = worker.lease()
            lines = range(lease["first_line"], lease["first_line"] + lease["lines"])
            for n, line in enumerate(lines):
                worker.server = (first, second)[n % 2]
                worker.record(lease, [line])
            assert worker.record(lease, [lines[0]], status=409)
        done = second.until(batch_id, "completed")
        assert [line["custom_id"] for line in second.content(done["output_file_id"])] == [f"r{n}" for n in range(8)]
        assert first.content(done["output_file_id"]) == second.content(done["output_file_id"])


def test_a_second_server_with_a_folder_of_its_own_does_not_start(tmp_path: Path, postgres_url: str) -> None:
    with live_server(tmp_path / "a", server__database_url=postgres_url):
        flags = {"server.database_url": postgres_url, "server.data_dir": str(tmp_path / "b" / "data")}
        with pytest.raises(InvalidConfiguration, match="the place is empty"):
            Runtime(load(tmp_path / "a" / "batchsched.toml", env={}, flags=flags))


def test_the_doctor_looks_at_the_store(tmp_path: Path, object_server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def finding(url: str) -> tuple[str, str]:
        (found,) = guarded(store, Loaded(Settings(server=Server(store_url=url)), {}, None), "store")
        return found.level, found.text

    assert finding(URL) == ("ok", f"{URL} answers; it holds nothing of batchsched yet")
    assert finding(f"file://{tmp_path}")[0] == "ok"
    assert finding(f"file://{tmp_path}/nowhere")[0] == "broken"
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    assert finding(URL)[0] == "broken"


def test_a_full_disk_under_results(tmp_path: Path) -> None:
    """The kernel's own refusal, in the middle of a group: RLIMIT_FSIZE stands in for a full disk."""
    with Stage(tmp_path) as stage, httpx.Client(base_url=stage.url, timeout=PATIENCE_S) as http:
        server = stage.server()
        file_id = http.post("/v1/files", files={"file": ("f", tagged(3))}, data={"purpose": "batch"}).json()["id"]
        body = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "1h"}
        batch_id = http.post("/v1/batches", json=body).json()["id"]
        worker_id = http.post(f"{PREFIX}/workers", json={"pool": "local", "host": "h", "pid": 1}).json()["worker_id"]
        claim = {"worker_id": worker_id, "ready_models": ["tiny"]}
        lease = wait_for(lambda: http.post(f"{PREFIX}/leases", json=claim).json()["leases"])[0]

        def record(line: int) -> httpx.Response:
            output = {"custom_id": f"r{line - 1}", "response": {"body": "x" * 900_000}}
            result = {"line": line, "ok": True, "input_tokens": 0, "cached_tokens": 0, "output_tokens": 0, "output": output}
            return http.post(f"{PREFIX}/leases/{lease['chunk_id']}/results", json={"token": lease["token"], "results": [result]})

        assert record(1).status_code == 200
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (1_500_000, resource.RLIM_INFINITY))
        for _ in range(3):
            refused = record(2)
            assert (refused.status_code, refused.json()["error"]["code"]) == (507, "storage_full")
        assert acknowledged(tmp_path / "data") == {"r0"}
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert record(2).json() == record(3).json() == {"recorded": 1, "duplicates": 0}

        def completed() -> str | None:
            batch = http.get(f"/v1/batches/{batch_id}").json()
            return batch["output_file_id"] if batch["status"] == "completed" else None

        output = http.get(f"/v1/files/{wait_for(completed)}/content").text.splitlines()
        assert [json.loads(line)["custom_id"] for line in output] == ["r0", "r1", "r2"]


def test_a_server_without_its_store_does_not_start(tmp_path: Path, object_server: ObjectServer) -> None:
    with Stage(tmp_path) as stage:
        stage.config.write_text(stage.config.read_text().replace("[server]", "[server]\nstore_url = 's3://nowhere'"))
        process = stage.start([*BATCHSCHED, "serve", "--config", str(stage.config)], "server")
        assert process.wait(timeout=PATIENCE_S) == 75
        text = (tmp_path / "server.log").read_text()
        assert "The object store nowhere cannot be used" in text
        assert "Traceback" not in text


@pytest.mark.slow
def test_the_server_dies_at_one_point_after_the_other(tmp_path: Path, object_server: ObjectServer) -> None:
    """Between a part's write and the commit, before its answer, and between the merged files and their commit."""
    store = open_object_store(URL)
    with Stage(tmp_path) as stage:
        stage.config.write_text(stage.config.read_text().replace("[server]", f"[server]\nstore_url = '{URL}'"))
        stage.engine()
        server = stage.server(told=True)
        worker = stage.worker()
        for point in ("part 3", "acknowledged 2", "merged 1"):
            prefix = f"{point[0]}-r"
            worker.send_signal(signal.SIGSTOP)  # until the answer is here
            stage.order.write_text(point)
            file = {"file": ("in.jsonl", tagged(40, prefix))}
            file_id = HTTP.post(f"{stage.url}/v1/files", files=file, data={"purpose": "batch"}).json()["id"]
            body = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "1h"}
            batch_id = HTTP.post(f"{stage.url}/v1/batches", json=body).json()["id"]
            worker.send_signal(signal.SIGCONT)
            assert server.wait(timeout=PATIENCE_S) == -signal.SIGKILL
            safe, before = acknowledged(tmp_path / "data", store), stage.computed()
            assert any("/results/" in key for key in object_server.objects())
            stage.order.unlink()
            server = stage.server(told=True)
            output = HTTP.get(f"{stage.url}/v1/files/{_output(stage, batch_id)}/content").text.splitlines()
            assert sorted(json.loads(line)["custom_id"] for line in output) == sorted(f"{prefix}{i}" for i in range(40))
            assert not {custom_id for custom_id in safe if stage.computed()[custom_id] != before[custom_id]}
            wait_for(lambda: not any("/results/" in key for key in object_server.objects()))


def _output(stage: Stage, batch_id: str) -> str:
    """The output file of a batch, once it is completed."""

    def completed() -> str | None:
        batch = HTTP.get(f"{stage.url}/v1/batches/{batch_id}").json()
        return batch["output_file_id"] if batch["status"] == "completed" else None

    return wait_for(completed)
