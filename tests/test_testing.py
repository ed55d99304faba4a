"""What users' tests do with the fake server: answers at will, trouble at will, a clock of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import IO, Any

import httpx
import openai
import pytest

from batchsched import AsyncClient, Client
from batchsched.errors import (
    Conflict,
    DatabaseUnavailable,
    InvalidRequest,
    InvalidValue,
    NotFound,
    ServerUnreachable,
    Unauthorized,
)
from batchsched.testing import Asked, FakeServer, Refusal, echo
from batchsched.testing.answering import Said
from tests.live import requests

ROOT = Path(__file__).resolve().parent.parent


def test_answers_are_what_the_test_says() -> None:
    def say(asked: Asked) -> Said:
        match asked.prompt:
            case "refuse":
                return Refusal("too long", code="context_length_exceeded")
            case "raise":
                raise InvalidRequest("not this one")
            case "break":
                raise KeyError("oh")
            case "whole":
                return {"choices": [{"message": {"content": "mine"}}], "model": "other"}
            case prompt:
                return f"{asked.endpoint} {prompt}"

    with FakeServer(say) as server, Client(server.url, "") as client:
        answers = list(client.run(["hello", "refuse", "raise", "break", "whole"], model="any"))
    assert [found.text for found in answers] == ["/v1/chat/completions hello", None, None, None, "mine"]
    errors = [(found.error.status_code, found.error.code, found.error.message) for found in answers if found.error]
    assert errors == [
        (400, "context_length_exceeded", "too long"),
        (400, "invalid_request", "not this one"),
        (500, "internal_error", "KeyError: 'oh'"),
    ]


@pytest.mark.parametrize("endpoint", ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings"])
def test_every_endpoint_echoes(endpoint: str) -> None:
    with FakeServer() as server, Client(server.url, "") as client:
        run = client.run(["three small words"], model="any", endpoint=endpoint)
        (found,) = run
        usage = run.wait(progress=False).usage
    vector = endpoint == "/v1/embeddings"
    assert (found.text, found.embedding) == ((None, [0.0, 1.0]) if vector else ("three small words", None))
    assert usage is not None
    assert (usage["input_tokens"], usage["output_tokens"]) == (3, 0 if vector else 3)


def test_the_text_of_a_request() -> None:
    def prompt(body: dict[str, Any]) -> str:
        return Asked("a", "/v1/chat/completions", body).prompt

    parts = [{"type": "text", "text": "two"}, {"type": "text", "text": "parts"}]
    assert prompt({"messages": [{"content": "first"}, {"content": parts}]}) == "two parts"
    assert prompt({"prompt": ["one", "two"]}) == "one two"
    assert prompt({"input": [1, 2, 3]}) == ""
    assert prompt({"messages": []}) == ""
    assert echo(Asked("a", "/v1/embeddings", {"input": "x"})) == [0.0, 1.0]


def test_by_hand_and_by_its_own_clock() -> None:
    with FakeServer(by_hand=True) as server, Client(server.url, "") as client:
        run = client.run(["a", "b", "c"], model="any", deadline="6h")
        later = client.run(["d"], model="any", deadline="6h", on_deadline="finish")
        assert server.work(2) == 2
        assert client.batches.retrieve(run.id).request_counts.completed == 2
        assert [line.custom_id for line in client.batches.results(run.id)] == ["request-0", "request-1"]
        server.advance(6 * 3600 + 1)
        assert [found.ok for found in run] == [True, True, False]
        assert run.batch.status == "expired"
        assert client.batches.retrieve(later.id).status == "in_progress"
        assert server.work() == 1
        assert [found.text for found in later] == ["d"]
        server.advance(31 * 86400)
        with pytest.raises(NotFound):
            client.files.retrieve(run.batch.input_file_id)


def test_a_paused_batch_waits() -> None:
    with FakeServer(by_hand=True) as server, Client(server.url, "") as client:
        run = client.run(["a"], model="any")
        assert client.batches.pause(run.id).progress.state == "paused"
        assert server.work() == 0
        client.batches.resume(run.id)
        assert server.work() == 1


def test_trouble_that_passes_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchsched.transport.time.sleep", lambda _: None)
    with FakeServer() as server, Client(server.url, "") as client:
        server.fail_next(2, method="POST", path="/v1/files", headers={"retry-after": "1"})
        run = client.run(["a"], model="any")
        assert [method for method, path in server.calls if path == "/v1/files"] == ["POST"] * 3
        server.fail_next(3, path=f"/v1/batches/{run.id}", code="database_unavailable", message="away")
        with pytest.raises(DatabaseUnavailable, match="away"):
            client.batches.retrieve(run.id)
        server.drop_next(path=f"/v1/batches/{run.id}")
        assert client.batches.retrieve(run.id).status == "completed"


def test_a_lost_answer_makes_no_second_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchsched.transport.time.sleep", lambda _: None)
    with FakeServer() as server, Client(server.url, "") as client:
        for count, key in enumerate((None, "b"), 1):
            server.drop_next(method="POST", path="/v1/batches")
            assert [found.text for found in client.run(["a"], model="any", idempotency_key=key)] == ["a"]
            assert len(list(client.batches.list())) == count
        server.drop_next(3, method="POST", path="/v1/batches")
        with pytest.raises(ServerUnreachable):
            client.run(["a"], model="any")
        assert len(list(client.batches.list())) == 3


async def test_a_pipe_is_sent_whole_by_the_second_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which can be read only once."""
    monkeypatch.setattr("batchsched.transport.time.sleep", lambda _: None)
    lines = requests(100)

    def pipe() -> IO[bytes]:
        reading, writing = os.pipe()
        with os.fdopen(writing, "wb") as end:
            end.write(lines)
        return os.fdopen(reading, "rb")

    with FakeServer() as server, Client(server.url, "") as client, pipe() as one, pipe() as other:
        server.fail_next(2, method="POST", path="/v1/files")
        assert client.files.content(client.files.create(one).id) == lines
        async with AsyncClient(server.url, "") as asynchron:
            server.fail_next(1, method="POST", path="/v1/files", headers={"retry-after-ms": "1"})
            assert await asynchron.files.content((await asynchron.files.create(other)).id) == lines


def test_only_what_failed_is_retried() -> None:
    tries: list[str] = []

    def say(asked: Asked) -> Said:
        tries.append(asked.prompt)
        return Refusal("not today") if asked.prompt == "b" and tries.count("b") == 1 else asked.prompt

    with FakeServer(say) as server, Client(server.url, "") as client:
        run = client.run(["a", "b", "c"], model="any", deadline="6h")
        assert [found.ok for found in run] == [True, False, True]
        server.advance(3600)
        again = client.batches.retry(run.id)
        assert (again.status, again.output_file_id, again.request_counts.failed) == ("in_progress", None, 0)
        assert run.batch.deadline_at
        assert again.deadline_at
        assert again.deadline_at > run.batch.deadline_at + timedelta(hours=1)  # as long as at first, from now on
        assert [found.text for found in run] == ["a", "b", "c"]
        assert tries == ["a", "b", "c", "b"]
        with pytest.raises(Conflict, match="nothing to retry"):
            client.batches.retry(run.id)


def test_what_cannot_be_retried() -> None:
    with FakeServer(lambda _: Refusal("never"), by_hand=True) as server, Client(server.url, "") as client:
        run = client.run(["a"], model="any")
        with pytest.raises(Conflict, match="'in_progress' cannot be retried"):
            client.batches.retry(run.id)
        refused = client.run([{"messages": [], "stream": True}], model="any")
        with pytest.raises(Conflict, match="'failed' cannot be retried"):
            client.batches.retry(refused.id)
        server.work()
        with pytest.raises(InvalidValue, match="already passed"):
            client.batches.retry(run.id, deadline="2020-01-01T00:00:00Z")
        client.files.delete(run.batch.input_file_id)
        with pytest.raises(Conflict, match="are gone"):
            client.batches.retry(run.id)


def test_a_key_is_asked_for() -> None:
    with FakeServer(api_key="right") as server:
        with Client(server.url, "wrong") as client, pytest.raises(Unauthorized):
            list(client.batches.list())
        with Client(server.url, "right") as client:
            assert list(client.batches.list()) == []


def test_what_it_does_not_know_it_says() -> None:
    with FakeServer() as server, Client(server.url, "") as client:
        with pytest.raises(NotFound) as missing:
            client.plan()
        assert "no plans" in str(missing.value.hint)
        run = client.run(["a"], model="any")
        list(run)
        assert (run.report().energy_j, run.report().notes) == (None, ("A fake server measures nothing.",))


async def test_the_asynchronous_clients_too() -> None:
    with FakeServer(models=["tiny"]) as server:
        async with AsyncClient(server.url, "") as client:
            run = await client.run(["a", "b"], model="tiny")
            assert [found.text async for found in run] == ["a", "b"]
            assert [model.id for model in await client.models.list()] == ["tiny"]
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="unused") as other:
            batch = await other.batches.retrieve(run.id)
            assert (await other.files.content(batch.output_file_id or "")).text.count("\n") == 2


def test_a_body_in_pieces_is_put_together() -> None:
    with FakeServer() as server:
        pieces = iter([b'{"input_file_id": "file-x",', b' "endpoint": "/v1/embeddings", "completion_window": "24h"}'])
        with httpx.Client(verify=False) as plain:
            answer = plain.post(f"{server.url}/v1/batches", content=pieces)
        assert answer.json()["status"] == "failed"
    assert repr(server) == f"FakeServer('{server.url}')"


def test_it_needs_no_more_than_the_client() -> None:
    """In a Python that has neither the server's packages nor the worker's."""
    code = """
        import sys
        server = "fastapi starlette uvicorn sqlalchemy sqlmodel alembic ortools apscheduler python_multipart prometheus_client"
        sys.modules.update(dict.fromkeys((server + " aiohttp pandas numpy matplotlib pyarrow polars").split()))
        from batchsched import Client
        from batchsched.testing import FakeServer
        with FakeServer() as server, Client(server.url, "") as client:
            print([answer.text for answer in client.run(["a", "b"], model="any")])
    """
    done = subprocess.run([sys.executable, "-c", "if True:" + code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.stdout, done.stderr) == ("['a', 'b']\n", "")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("run.py", "Why is the sky blue? Why is the sky blue?"),
        ("loop.py", "one.md: Summarise in one sentence:\n\nThe first.\ntwo.md: Summarise"),
    ],
)
def test_the_examples_run(name: str, said: str, tmp_path: Path) -> None:
    """Against the fake server; with a real engine they run in test_runs_vllm.py."""
    (tmp_path / "one.md").write_text("The first.")
    (tmp_path / "two.md").write_text("The second.")
    with FakeServer() as server:
        arguments = ["any", server.url] if name == "run.py" else [str(tmp_path), "any", server.url]
        done = subprocess.run(
            [sys.executable, ROOT / "examples" / name, *arguments], capture_output=True, text=True, cwd=ROOT, check=False
        )
    assert said in done.stdout, done.stderr
    assert done.stderr == ""


def test_the_example_of_embeddings_runs(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("wind\nbreeze\ntax law\n")
    vectors = {"wind": [1.0, 0.1], "breeze": [1.0, 0.2], "tax law": [0.1, 1.0]}
    with FakeServer(lambda asked: vectors[asked.prompt]) as server:
        done = subprocess.run(
            [sys.executable, ROOT / "examples" / "embed.py", corpus, "any", server.url],
            capture_output=True, text=True, cwd=ROOT, check=False,
        )  # fmt: skip
    assert (done.stdout, done.stderr) == ("wind -> breeze\nbreeze -> wind\ntax law -> breeze\n", "")
