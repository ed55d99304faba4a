"""A server whose files lie on an object store: whole batches, crashes, and a store that goes away."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import httpx
import pytest

from batchsched.queue import chunks
from batchsched.queue.object_store import open_object_store
from tests.live import LiveServer, live_server, requests, wait_for
from tests.object_server import ObjectServer
from tests.processes import BATCHSCHED, Stage, acknowledged, tagged

URL = "s3://bucket/site"


def _names(server: LiveServer, batch_id: str) -> set[str]:
    """What the batch's rows name, as keys."""
    with server.runtime.database.read() as connection:
        rows = chunks.of_batch(connection, batch_id)
    return {f"site/results/{batch_id}{part[0]}" for row in rows for part in row["parts"]}


def test_a_batch_from_upload_to_deletion(object_server: ObjectServer, tmp_path: Path) -> None:
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
        path = f"/v1/batchsched/leases/{lease['chunk_id']}/results"
        answer = server.http.post(path, json={"token": lease["token"], "results": [result]})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "storage_unavailable"), answer.text
        objects = ObjectServer(objects.port)
        assert worker.record(lease, [2]) == {"recorded": 1, "duplicates": 0}
        worker.record(lease, [3])
        assert server.until(batch_id, "completed")["request_counts"]["completed"] == 3
    objects.stop()


def test_a_server_without_its_store_does_not_start(tmp_path: Path, object_server: ObjectServer) -> None:
    with Stage(tmp_path) as stage:
        stage.config.write_text(stage.config.read_text().replace("[server]", "[server]\nstore_url = 's3://nowhere'"))
        process = stage.start([*BATCHSCHED, "serve", "--config", str(stage.config)], "server")
        assert process.wait(timeout=30) == 75
        text = (tmp_path / "server.log").read_text()
        assert "The object store nowhere cannot be used" in text
        assert "Traceback" not in text


@pytest.mark.slow
@pytest.mark.parametrize(("point", "times"), [("part", 3), ("acknowledged", 2), ("merged", 1)])
def test_the_server_dies(tmp_path: Path, object_server: ObjectServer, point: str, times: int) -> None:
    """Between a part's write and the commit, before its answer, and between the merged files and their commit."""
    store = open_object_store(URL)
    with Stage(tmp_path) as stage:
        stage.config.write_text(stage.config.read_text().replace("[server]", f"[server]\nstore_url = '{URL}'"))
        stage.engine()
        doomed = stage.server((point, times))
        file = {"file": ("in.jsonl", tagged(40))}
        file_id = httpx.post(f"{stage.url}/v1/files", files=file, data={"purpose": "batch"}).json()["id"]
        body = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "1h"}
        batch_id = httpx.post(f"{stage.url}/v1/batches", json=body).json()["id"]
        stage.worker()
        assert doomed.wait(timeout=40) == -signal.SIGKILL
        safe, before = acknowledged(tmp_path / "data", store), stage.computed()
        parts = [key for key in object_server.objects() if "/results/" in key]
        assert parts
        stage.server()

        def completed() -> str | None:
            batch = httpx.get(f"{stage.url}/v1/batches/{batch_id}").json()
            return batch["output_file_id"] if batch["status"] == "completed" else None

        output = httpx.get(f"{stage.url}/v1/files/{wait_for(completed, 40)}/content").text.splitlines()
        assert sorted(json.loads(line)["custom_id"] for line in output) == sorted(f"r{i}" for i in range(40))
        assert not {custom_id for custom_id in safe if stage.computed()[custom_id] != before[custom_id]}
        wait_for(lambda: not any("/results/" in key for key in object_server.objects()))
