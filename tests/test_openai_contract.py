"""The OpenAI Batch and Files contract, by a real server over a real socket, mostly through the stock openai client."""

from __future__ import annotations

import json
from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import openai
import pytest

from batchsched.clock import ManualClock
from tests.live import LiveServer, live_server, requests


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[LiveServer]:
    with live_server(tmp_path_factory.mktemp("contract")) as live:
        yield live


@pytest.fixture(scope="module")
def idle_server(tmp_path_factory: pytest.TempPathFactory) -> Generator[LiveServer]:
    """One without batches: nothing is written there but what a test sends."""
    with live_server(tmp_path_factory.mktemp("idle")) as live:
        yield live


@pytest.fixture(scope="module")
def client(server: LiveServer) -> Generator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as made:
        yield made


def _failed(server: LiveServer, data: bytes, **fields: Any) -> list[dict[str, Any]]:
    batch = server.until(server.submit(data, **fields)["id"], "failed", "in_progress", "completed")
    assert batch["status"] == "failed", batch
    assert batch["failed_at"]
    errors: list[dict[str, Any]] = batch["errors"]["data"]
    return errors


def _line(**changes: Any) -> bytes:
    line: dict[str, Any] = json.loads(requests(1))
    for key, value in changes.items():
        target, name = (line["body"], key.removeprefix("body_")) if key.startswith("body_") else (line, key)
        if value is None:
            del target[name]
        else:
            target[name] = value
    return json.dumps(line).encode() + b"\n"


def test_a_batch_goes_its_whole_way_through_the_openai_client(server: LiveServer, client: openai.OpenAI) -> None:
    file = client.files.create(file=("in.jsonl", requests(7)), purpose="batch")
    assert (file.purpose, file.status, file.bytes) == ("batch", "processed", len(requests(7)))
    assert client.files.wait_for_processing(file.id).status == "processed"
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"team": "x"}
    )
    assert batch.status == "validating"
    assert batch.request_counts is not None
    assert batch.metadata == {"team": "x"}
    done = client.batches.retrieve(server.worker().drain(batch.id)["id"])
    assert done.request_counts is not None
    assert (done.request_counts.total, done.request_counts.completed, done.request_counts.failed) == (7, 7, 0)
    assert done.error_file_id is None
    assert done.output_file_id
    assert done.usage is not None
    assert (done.usage.input_tokens, done.usage.output_tokens, done.usage.total_tokens) == (21, 35, 56)
    assert done.usage.input_tokens_details.cached_tokens == 7
    lines = [json.loads(line) for line in client.files.content(done.output_file_id).text.splitlines()]
    assert {line["custom_id"] for line in lines} == {f"r{i}" for i in range(7)}
    assert all(line["id"].startswith("batch_req_") and line["error"] is None for line in lines)
    assert all(isinstance(line["response"]["body"], dict) for line in lines)
    assert done.in_progress_at
    assert done.finalizing_at
    assert done.completed_at
    assert done.created_at <= done.in_progress_at <= done.finalizing_at <= done.completed_at


@pytest.mark.parametrize(
    ("data", "code", "param", "line"),
    [
        (requests(1) + b"{nonsense\n", "invalid_json_line", None, 2),
        (b"[1, 2]\n", "invalid_json_line", None, 1),
        (_line(custom_id=None), "missing_required_parameter", "custom_id", 1),
        (_line(method=None), "missing_required_parameter", "method", 1),
        (_line(url=None), "missing_required_parameter", "url", 1),
        (_line(body=None), "missing_required_parameter", "body", 1),
        (_line(body="text"), "invalid_type", "body", 1),
        (_line(custom_id=3), "invalid_type", "custom_id", 1),
        (_line(custom_id=""), "invalid_value", "custom_id", 1),
        (_line(method="GET"), "invalid_value", "method", 1),
        (_line(url="/v1/embeddings"), "invalid_url", "url", 1),
        (_line(body_stream=True), "streaming_unsupported", "body.stream", 1),
        (_line(body_model="huge"), "model_not_found", "body.model", 1),
        (_line(body_model=None), "invalid_request", "body.model", 1),
        (_line(body_messages=None), "invalid_request", "body.messages", 1),
        (requests(2) + b"\n" + requests(1), "duplicate_custom_id", "custom_id", 4),
        (b"", "empty_file", None, None),
        (b"\n\n", "empty_file", None, None),
        (_line(custom_id="x" * 600), "invalid_value", "custom_id", 1),
        (_line(body_pad="x" * 4_200_000), "line_too_long", None, 1),
    ],
)
def test_one_bad_line_fails_the_batch_and_is_named(
    server: LiveServer, data: bytes, code: str, param: str | None, line: int | None
) -> None:
    (error, *_) = _failed(server, data)
    assert (error["code"], error["param"], error["line"]) == (code, param, line)
    assert error["message"]


def test_two_models_in_one_file_do_not_mix(tmp_path: Path) -> None:
    with live_server(tmp_path, "[sites.home]\nzone='DE'\n[pools.p]\n[models.tiny]\n[models.other]\n") as server:
        (error,) = _failed(server, requests(1) + requests(1, model="other", start=1))
        assert (error["code"], error["param"], error["line"]) == ("model_mismatch", "body.model", 2)


def test_an_answer_longer_than_the_models_context_is_refused(tmp_path: Path) -> None:
    with live_server(tmp_path, "[sites.home]\nzone='DE'\n[pools.p]\n[models.tiny]\nmax_model_len = 512\n") as server:
        (error,) = _failed(server, requests(1, max_tokens=511) + requests(1, start=1, max_tokens=512))
        assert (error["code"], error["param"], error["line"]) == ("invalid_value", "body.max_tokens", 2)


def test_every_bad_line_is_listed(server: LiveServer) -> None:
    errors = _failed(server, requests(1) + _line(custom_id="a", method=None) + b"{\n")
    assert [(e["line"], e["code"]) for e in errors] == [(2, "missing_required_parameter"), (3, "invalid_json_line")]


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"endpoint": "/v1/moderations"}, "invalid_value", "endpoint"),
        ({"completion_window": "soon"}, "invalid_value", "completion_window"),
        ({"completion_window": None}, "missing_required_parameter", "completion_window"),
        ({"endpoint": None}, "missing_required_parameter", "endpoint"),
        ({"input_file_id": None}, "missing_required_parameter", "input_file_id"),
        ({"input_file_id": 5}, "invalid_type", "input_file_id"),
        ({"metadata": {"k": 1}}, "invalid_type", "metadata.k"),
        ({"metadata": "no"}, "invalid_type", "metadata"),
        ({"metadata": {str(i): "v" for i in range(17)}}, "invalid_value", "metadata"),
        ({"metadata": {"k": "v" * 513}}, "invalid_value", "metadata.k"),
        ({"metadata": {"k" * 65: "v"}}, "invalid_value", f"metadata.{'k' * 64}"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 60}}, "invalid_value", "output_expires_after.seconds"),
        ({"output_expires_after": {"anchor": "now", "seconds": 3600}}, "invalid_value", "output_expires_after.anchor"),
        ({"batchsched": {"deadline": "yesterday"}}, "invalid_value", "batchsched.deadline"),
        ({"batchsched": {"deadline": "2020-01-01T00:00:00Z"}}, "invalid_value", "batchsched.deadline"),
        ({"batchsched": {"deadline": "2030-01-01T00:00:00"}}, "invalid_value", "batchsched.deadline"),
        ({"batchsched": {"confidence": 2}}, "invalid_value", "batchsched.confidence"),
        ({"batchsched": {"speed": 1}}, "invalid_value", "batchsched"),
        ({"batchsched": {"sites": ["mars"]}}, "invalid_request", "batchsched.sites"),
        ({"batchsched": {"models": ["other"]}}, "invalid_request", "batchsched.models"),
        ({"batchsched": {"priority": 101}}, "invalid_value", "batchsched.priority"),
        ({"deadline": "6h"}, "invalid_value", "deadline"),
    ],
)
def test_a_bad_create_request_is_refused_with_its_parameter(
    server: LiveServer, fields: dict[str, Any], code: str, param: str
) -> None:
    body = {"input_file_id": "file-x", "endpoint": "/v1/chat/completions", "completion_window": "24h"} | fields
    error = server.post("/v1/batches", {k: v for k, v in body.items() if v is not None}, 400)["error"]
    assert (error["code"], error["param"]) == (code, param)


def test_a_body_that_is_no_json_is_refused(server: LiveServer) -> None:
    assert server.http.post("/v1/batches", content=b"{").status_code == 400
    assert server.http.post("/v1/batches", content=b"[]").status_code == 400


def test_a_missing_input_file_fails_the_batch(server: LiveServer) -> None:
    body = {"input_file_id": "file-none", "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batch = server.post("/v1/batches", body)
    assert batch["status"] == "failed"
    (error,) = batch["errors"]["data"]
    assert (error["code"], error["param"]) == ("invalid_request", "file_id")
    assert "Cannot find file" in error["message"]


def test_any_window_is_echoed_and_our_deadline_wins(server: LiveServer) -> None:
    batch = server.submit(requests(1), completion_window="90m", batchsched={"deadline": "3d"})
    assert batch["completion_window"] == "90m"
    assert batch["expires_at"] - batch["created_at"] == pytest.approx(3 * 86400, abs=1)
    server.post(f"/v1/batches/{batch['id']}/cancel")


def test_unknown_objects_are_404(client: openai.OpenAI, server: LiveServer) -> None:
    for call in (
        client.batches.retrieve,
        client.batches.cancel,
        client.files.retrieve,
        client.files.delete,
        client.models.retrieve,
    ):
        with pytest.raises(openai.NotFoundError):
            call("nothing")
    assert server.http.get("/v1/nothing").json()["error"]["code"] == "not_found"


def test_cancelling(server: LiveServer, client: openai.OpenAI) -> None:
    batch = server.submit(requests(3))
    server.until(batch["id"], "in_progress")
    assert client.batches.cancel(batch["id"]).status == "cancelling"
    done = server.until(batch["id"], "cancelled")
    assert done["request_counts"] == {"total": 3, "completed": 0, "failed": 3}
    lines = server.content(done["error_file_id"])
    assert {line["error"]["code"] for line in lines} == {"batch_cancelled"}
    assert [line["custom_id"] for line in lines] == ["r0", "r1", "r2"]
    assert client.batches.cancel(batch["id"]).status == "cancelled"  # again: allowed


def test_a_finished_batch_cannot_be_cancelled(server: LiveServer) -> None:
    batch = server.submit(requests(1))
    server.worker().drain(batch["id"])
    error = server.post(f"/v1/batches/{batch['id']}/cancel", status=409)["error"]
    assert error["message"] == "Cannot cancel a batch with status 'completed'."


def test_cancel_keeps_what_is_done_and_stops_the_worker(server: LiveServer) -> None:
    worker, batch = server.worker(), server.submit(requests(4))
    lease = worker.lease()
    worker.record(lease, [1, 2])
    server.post(f"/v1/batches/{batch['id']}/cancel")
    held = [{"chunk_id": lease["chunk_id"], "token": lease["token"]}]
    answer = server.post(f"/v1/batchsched/workers/{worker.worker_id}/heartbeat", {"leases": held})
    assert answer["stop"] == {lease["chunk_id"]: "cancelled"}
    worker.record(lease, [3])  # was in flight: it may still come
    server.post(f"/v1/batchsched/leases/{lease['chunk_id']}/release", {"token": lease["token"], "reason": "cancelled"})
    done = server.until(batch["id"], "cancelled")
    assert done["request_counts"] == {"total": 4, "completed": 3, "failed": 1}


def test_all_failed_is_completed_with_errors_only(server: LiveServer) -> None:
    worker, batch = server.worker(), server.submit(requests(2))
    worker.record(worker.lease(), [1, 2], ok=False)
    done = server.until(batch["id"], "completed")
    assert done["output_file_id"] is None
    assert done["request_counts"] == {"total": 2, "completed": 0, "failed": 2}
    (first, _) = server.content(done["error_file_id"])
    assert first["error"] is None
    assert first["response"]["status_code"] == 400


def test_lists_page_newest_first(server: LiveServer, client: openai.OpenAI) -> None:
    made = [server.submit(requests(1))["id"] for _ in range(3)]
    page = client.batches.list(limit=2)
    assert [b.id for b in page.data] == made[:0:-1]
    assert page.has_more
    everything = [b.id for b in client.batches.list(limit=1)][:3]
    assert everything == made[::-1]
    for batch_id in made:
        server.post(f"/v1/batches/{batch_id}/cancel")
    assert server.http.get("/v1/batches", params={"limit": 101}).status_code == 400
    last = client.batches.list(limit=2, after=made[2])
    assert [b.id for b in last.data][:2] == made[1::-1]
    oldest = [b.id for b in client.batches.list(limit=1)][-1]
    beyond = client.batches.list(after=oldest)
    assert (beyond.data, beyond.has_more) == ([], False)
    assert not client.batches.list(limit=1, after=[b.id for b in client.batches.list(limit=100)][-2]).has_more
    with pytest.raises(openai.NotFoundError):
        client.batches.list(after="batch_none")
    for limit in (0, -1, "many"):
        assert server.http.get("/v1/batches", params={"limit": limit}).status_code == 400


def test_files_list_filter_order_and_delete(server: LiveServer, client: openai.OpenAI) -> None:
    first, second = server.upload(b"{}\n", "user_data"), server.upload(b"{}\n", "user_data")
    assert [f.id for f in client.files.list(purpose="user_data")] == [second, first]
    assert [f.id for f in client.files.list(purpose="user_data", order="asc")] == [first, second]
    assert [f.id for f in client.files.list(purpose="user_data", order="asc", limit=1)] == [first, second]
    page = client.files.list(purpose="user_data", limit=2)
    assert ([f.id for f in page.data], page.has_more) == ([second, first], False)
    assert [f.id for f in client.files.list(purpose="user_data", order="asc", after=first).data] == [second]
    assert [f.id for f in client.files.list(purpose="user_data", order="desc", after=first).data] == []
    with pytest.raises(openai.NotFoundError):
        client.files.list(after="file-none")
    for wrong in ({"order": "up"}, {"limit": 0}, {"limit": 10_001}):
        assert server.http.get("/v1/files", params=wrong).status_code == 400
    assert client.files.delete(first).deleted
    assert [f.id for f in client.files.list(purpose="user_data")] == [second]
    empty = server.get("/v1/files", purpose="vision")
    assert (empty["data"], empty["first_id"], empty["last_id"], empty["has_more"]) == ([], None, None, False)


def test_the_input_of_an_open_batch_cannot_be_deleted(server: LiveServer) -> None:
    batch = server.submit(requests(1))
    assert server.http.delete(f"/v1/files/{batch['input_file_id']}").status_code == 409
    server.post(f"/v1/batches/{batch['id']}/cancel")


def test_file_expiry(server: LiveServer, client: openai.OpenAI) -> None:
    kept = client.files.retrieve(server.upload(requests(1)))
    assert kept.expires_at == kept.created_at + 30 * 86400
    short = client.files.create(file=requests(1), purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600})
    assert short.expires_at == short.created_at + 3600


def test_files_are_gone_when_their_time_is_over(tmp_path: Path) -> None:
    clock = ManualClock(datetime(2026, 5, 1, tzinfo=UTC))
    with live_server(tmp_path, clock=clock) as server, openai.OpenAI(base_url=f"{server.url}/v1", api_key="x") as client:
        file = client.files.create(file=requests(2), purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600})
        batch = client.batches.create(
            input_file_id=file.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            output_expires_after={"anchor": "created_at", "seconds": 7200},
        )
        server.until(batch.id, "in_progress")
        clock.advance(5000)
        server.runtime.lifecycle.round()
        assert client.files.retrieve(file.id).id == file.id  # an open batch still needs it
        worker = server.worker()
        worker.record(worker.lease(), [1, 2], ok=False)
        done = server.until(batch.id, "completed")
        errors = client.files.retrieve(done["error_file_id"])
        assert (errors.expires_at, errors.created_at) == (int(clock.now().timestamp()) + 7200, int(clock.now().timestamp()))
        clock.advance(7300)
        server.runtime.lifecycle.round()
        for gone in (file.id, errors.id):
            with pytest.raises(openai.NotFoundError):
                client.files.content(gone)
        assert client.batches.retrieve(batch.id).error_file_id == errors.id


@pytest.mark.parametrize(
    ("files", "data", "param"),
    [
        ({"file": ("f", b"{}")}, {}, "purpose"),
        ({"file": ("f", b"{}")}, {"purpose": "fun"}, "purpose"),
        ({"other": ("f", b"{}")}, {"purpose": "batch"}, "file"),
        ({"file": ("f", b"{}")}, {"purpose": "batch", "expires_after[seconds]": "5"}, "expires_after.anchor"),
    ],
)
def test_a_bad_upload_is_refused_and_leaves_nothing(idle_server: LiveServer, files: Any, data: Any, param: str) -> None:
    folder = Path(idle_server.runtime.settings.server.data_dir)
    before = set(folder.rglob("*"))
    answer = idle_server.http.post("/v1/files", files=files, data=data)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    left = {path for path in set(folder.rglob("*")) - before if not path.name.startswith("batchsched.db")}
    assert not left


def test_an_upload_that_is_no_form_is_refused(server: LiveServer) -> None:
    assert server.http.post("/v1/files", content=b"abc").status_code == 400
    headers = {"content-type": "multipart/form-data; boundary=x"}
    cut_off = b'--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\nabc'
    assert server.http.post("/v1/files", content=cut_off, headers=headers).status_code == 400


def test_too_large_an_upload_is_refused(tmp_path: Path) -> None:
    with live_server(tmp_path, server__max_file_bytes=1000) as server:
        answer = server.http.post("/v1/files", files={"file": ("f", b"x" * 2000)}, data={"purpose": "batch"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "payload_too_large")


def test_too_many_lines_are_refused(tmp_path: Path) -> None:
    with live_server(tmp_path, server__max_lines=2) as server:
        (error,) = _failed(server, requests(3))
        assert (error["code"], error["line"]) == ("too_many_requests", 3)


def test_a_bad_file_says_so_at_upload(server: LiveServer, client: openai.OpenAI) -> None:
    file = client.files.retrieve(server.upload(requests(1) + b"{\n"))
    details = server.get(f"/v1/files/{file.id}")["status_details"]
    assert "line 2" in details


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Generator[LiveServer]:
    """A server whose clock is moved by hand."""
    with live_server(tmp_path_factory.mktemp("moved"), clock=ManualClock(datetime(2026, 5, 1, tzinfo=UTC))) as live:
        yield live


def test_expiry_keeps_what_is_done(moved: LiveServer) -> None:
    server, worker, batch = moved, moved.worker(), moved.submit(requests(3), completion_window="30s")
    lease = worker.lease()
    worker.record(lease, [2])
    server.advance(31)
    done = server.until(batch["id"], "expired")
    assert done["request_counts"] == {"total": 3, "completed": 1, "failed": 2}
    assert done["expired_at"] >= done["expires_at"]
    assert {line["error"]["code"] for line in server.content(done["error_file_id"])} == {"batch_expired"}
    assert [line["custom_id"] for line in server.content(done["output_file_id"])] == ["r1"]
    worker.record(lease, [1], status=409)  # too late, and it changes nothing
    assert server.batch(batch["id"])["request_counts"] == done["request_counts"]


def test_on_deadline_finish_goes_on(moved: LiveServer) -> None:
    batch = moved.submit(requests(2), completion_window="1s", batchsched={"on_deadline": "finish"})
    moved.until(batch["id"], "in_progress")
    moved.advance(2)
    moved.runtime.lifecycle.round()
    assert moved.batch(batch["id"])["status"] == "in_progress"
    assert moved.worker().drain(batch["id"])["request_counts"]["completed"] == 2


def test_other_web_pages_and_rebound_names_are_refused(server: LiveServer) -> None:
    """A page in the user's browser can reach loopback; it must not be able to use it."""
    for headers in ({"origin": "http://evil.example"}, {"origin": "null"}):
        assert server.http.post("/v1/batches", content=b"{}", headers=headers).status_code == 403
    assert server.http.get("/v1/models", headers={"host": "evil.example"}).status_code == 400
    assert server.http.get("/v1/models", headers={"origin": server.url}).status_code == 200
