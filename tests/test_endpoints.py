"""Each endpoint from the stock openai client through server, worker and engine, as real processes, and back."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Generator
from typing import Any, Literal

import openai
import pytest

from tests.live import wait_for
from tests.processes import ROOT, Stage, end

pytestmark = pytest.mark.slow
Endpoint = Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"]
BODIES: dict[Endpoint, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "one two three"}]},
    "/v1/completions": {"prompt": "one two three"},
    "/v1/embeddings": {"input": "one two three"},
    "/v1/responses": {"input": "one two three", "max_output_tokens": 8},
}
ANSWERS: dict[Endpoint, str] = {
    "/v1/chat/completions": "choices", "/v1/completions": "choices", "/v1/embeddings": "data", "/v1/responses": "output",
}  # fmt: skip


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    """With a server."""
    with Stage(tmp_path_factory.mktemp("stage")) as made:
        made.server()
        yield made


@pytest.fixture(scope="module", params=[False, True], ids=["generating", "embedding"])
def working(stage: Stage, request: pytest.FixtureRequest) -> Generator[list[Endpoint]]:
    """With an engine of that kind and a worker; the endpoints that it has."""
    embedding = bool(request.param)
    flags = ["--embedding"] if embedding else []
    engine = [sys.executable, str(ROOT / "tests" / "fake_engine.py"), "--port", str(stage.engine_port), *flags]
    computing = stage.start(engine, "engine")
    wait_for(lambda: stage.answers(stage.engine_url, "/health"))
    worker = stage.worker()
    yield [endpoint for endpoint in BODIES if (endpoint == "/v1/embeddings") == embedding]
    end(worker)
    end(computing, signal.SIGKILL)


def test_a_batch_of_every_endpoint_comes_back_answered(stage: Stage, working: list[Endpoint]) -> None:
    with openai.OpenAI(base_url=f"{stage.url}/v1", api_key="unused") as client:
        for endpoint in working:
            _comes_back(client, endpoint)


def _comes_back(client: openai.OpenAI, endpoint: Endpoint) -> None:
    line = {"method": "POST", "url": endpoint, "body": {"model": "tiny", **BODIES[endpoint]}}
    data = "".join(json.dumps({"custom_id": f"r{i}", **line}) + "\n" for i in range(5)).encode()
    file = client.files.create(file=("in.jsonl", data), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h")
    done = wait_for(lambda: b if (b := client.batches.retrieve(batch.id)).status == "completed" else None)
    assert done.output_file_id
    lines = [json.loads(text) for text in client.files.content(done.output_file_id).text.splitlines()]
    assert sorted(line["custom_id"] for line in lines) == [f"r{i}" for i in range(5)]
    assert all(line["response"]["status_code"] == 200 for line in lines)
    assert all(line["response"]["body"][ANSWERS[endpoint]] for line in lines)
    assert done.usage is not None
    assert done.usage.input_tokens == 15
    assert done.usage.output_tokens == (0 if endpoint == "/v1/embeddings" else 15)
