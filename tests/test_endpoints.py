"""Each endpoint from the stock openai client through server, worker and engine, as real processes, and back."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Literal

import openai
import pytest

from tests.live import wait_for
from tests.processes import ROOT, Stage

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


@pytest.mark.parametrize("endpoint", BODIES)
def test_a_batch_of_every_endpoint_comes_back_answered(tmp_path: Path, endpoint: Endpoint) -> None:
    with Stage(tmp_path) as stage:
        flags = ["--embedding"] if endpoint == "/v1/embeddings" else []
        engine = [sys.executable, str(ROOT / "tests" / "fake_engine.py"), "--port", str(stage.engine_port), *flags]
        stage.start(engine, "engine")
        wait_for(lambda: stage.answers(stage.engine_url, "/health"))
        stage.server()
        stage.worker()
        line = {"method": "POST", "url": endpoint, "body": {"model": "tiny", **BODIES[endpoint]}}
        data = "".join(json.dumps({"custom_id": f"r{i}", **line}) + "\n" for i in range(5)).encode()
        with openai.OpenAI(base_url=f"{stage.url}/v1", api_key="unused") as client:
            file = client.files.create(file=("in.jsonl", data), purpose="batch")
            batch = client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h")
            done = wait_for(lambda: b if (b := client.batches.retrieve(batch.id)).status == "completed" else None)
            assert done.output_file_id
            lines = [json.loads(text) for text in client.files.content(done.output_file_id).text.splitlines()]
        assert sorted(line["custom_id"] for line in lines) == [f"r{i}" for i in range(5)]
        assert all(line["response"]["status_code"] == 200 for line in lines)
        bodies = [line["response"]["body"] for line in lines]
        assert all(body[ANSWERS[endpoint]] for body in bodies)
        assert done.usage is not None
        assert done.usage.input_tokens == 15
        assert done.usage.output_tokens == (0 if endpoint == "/v1/embeddings" else 15)
