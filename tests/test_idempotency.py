"""Idempotency keys: the same request with the same key gives the same batch, however often and however fast it comes."""

from __future__ import annotations

import json
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from click.testing import CliRunner

from batchsched.cli.main import cli
from batchsched.client import Client
from batchsched.clock import ManualClock
from batchsched.errors import IdempotencyMismatch, NotFound
from batchsched.transport import Transport
from tests.live import HTTP, LiveServer, live_server, requests

NOW = datetime(2026, 5, 1, tzinfo=UTC)


@pytest.fixture
def server(tmp_path: Path, database_url: str) -> Generator[LiveServer]:
    with live_server(tmp_path, clock=ManualClock(NOW), server__database_url=database_url) as live:
        yield live


def _count(server: LiveServer) -> int:
    return len(server.get("/v1/batches")["data"])


def test_the_openai_client_gets_the_same_batch_in_its_present_state(server: LiveServer) -> None:
    asked: Any = {
        "input_file_id": server.upload(requests(1)), "endpoint": "/v1/chat/completions", "completion_window": "24h",
        "extra_headers": {"Idempotency-Key": "night-42"},
    }  # fmt: skip
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as client:
        first = client.batches.create(**asked)
        server.until(first.id, "in_progress")
        again = client.batches.create(**asked)
        assert (again.id, again.status) == (first.id, "in_progress")
        with pytest.raises(openai.ConflictError, match="used before") as caught:
            client.batches.create(**asked, metadata={"other": "request"})
        assert caught.value.code == "idempotency_mismatch"
        asked["extra_headers"] = {"Idempotency-Key": "night-43"}
        assert client.batches.create(**asked).id != first.id
    assert _count(server) == 2


def test_many_at_once_make_one_batch(server: LiveServer) -> None:
    body = {"input_file_id": server.upload(requests(1)), "endpoint": "/v1/chat/completions", "completion_window": "24h"}

    def create(_: int) -> str:
        answer = HTTP.post(f"{server.url}/v1/batches", json=body, headers={"idempotency-key": "once"})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(create, range(16)))
    assert len(ids) == 1
    assert _count(server) == 1


def test_a_refused_request_does_not_use_its_key_up(server: LiveServer) -> None:
    body = {"input_file_id": server.upload(requests(1)), "endpoint": "/v1/chat/completions", "completion_window": "soon"}
    headers = {"idempotency-key": "k"}
    assert server.http.post("/v1/batches", json=body, headers=headers).status_code == 400
    assert server.http.post("/v1/batches", json={**body, "completion_window": "1h"}, headers=headers).status_code == 200
    for key in ("", "x" * 256):
        assert server.http.post("/v1/batches", json=body, headers={"idempotency-key": key}).status_code == 400


def test_a_repeat_is_answered_although_its_deadline_has_passed(server: LiveServer) -> None:
    body = {"input_file_id": server.upload(requests(1)), "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    body["batchsched"] = {"deadline": (NOW + timedelta(seconds=30)).isoformat()}  # type: ignore[assignment]
    first = server.http.post("/v1/batches", json=body, headers={"idempotency-key": "k"}).json()["id"]
    server.advance(31)
    server.until(first, "expired")
    assert server.http.post("/v1/batches", json=body, headers={"idempotency-key": "k"}).json()["id"] == first


def test_a_second_upload_of_the_same_file_is_the_same_request_and_is_tidied_away(server: LiveServer, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(requests(2))
    with Client(server.url, "") as client:
        first = client.batches.create(file=path, idempotency_key="k")
        assert client.batches.create(file=path, idempotency_key="k").id == first.id
        assert [file.id for file in client.files.list()] == [first.input_file_id]
        path.write_bytes(requests(3))
        with pytest.raises(IdempotencyMismatch):
            client.batches.create(file=path, idempotency_key="k")
    arguments = ["submit", str(path), "--server", server.url, "--deadline", "6h", "--idempotency-key", "k2", "--json"]
    shown = [CliRunner().invoke(cli, arguments, catch_exceptions=False).stdout for _ in range(2)]
    assert len({json.loads(text)["id"] for text in shown}) == 1


def test_a_lost_answer_is_asked_for_again_and_makes_no_second_batch(server: LiveServer) -> None:
    class Losing(httpx.HTTPTransport):
        lost = 0

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            answer = super().handle_request(request)
            if request.url.path == "/v1/batches" and not self.lost:
                answer.read()
                self.lost += 1
                raise httpx.ReadError("the connection broke")
            return answer

    file_id = server.upload(requests(1))
    with Client(transport=Transport(server.url, backend=Losing())) as client:
        assert client.batches.create(file_id, idempotency_key="k").input_file_id == file_id
        assert _count(server) == 1
    with Client(transport=Transport(server.url, backend=Losing())) as client:  # without a key of ours it has one of its own
        assert client.batches.create(file_id).input_file_id == file_id
        assert client.batches.create(file_id).input_file_id == file_id
    assert _count(server) == 3
    with Client(server.url, "") as client, pytest.raises(NotFound):
        client.batches.retrieve("batch_nowhere")
