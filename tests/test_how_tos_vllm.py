"""The how-to of online servers, followed beside a real vLLM."""

from __future__ import annotations

import json

import pytest

from batchsched.executors.engine import VllmEngine
from tests.processes import Stage
from tests.test_how_tos import Reader, stage

__all__ = ["stage"]


@pytest.mark.engine
@pytest.mark.long
def test_an_online_server_is_shared_with_the_real_engine(stage: Stage, vllm: VllmEngine) -> None:
    """As the page says, but for the model's name and a promise that a CPU keeps; the answers are a real vLLM's."""
    reader = Reader(stage, "online-server.md")
    (text,) = reader.blocks("toml")
    text = text.replace("ttft_ms = 500, tpot_ms = 60,", "ttft_ms = 30000, tpot_ms = 10000,")
    reader.configures(text.replace("models.chat", "models.tiny").replace('["chat"]', '["tiny"]'))
    reader.has("requests.jsonl")
    reader.serves()
    worker, submit = reader.commands()
    reader.starts(worker.replace("http://127.0.0.1:8000", vllm.url), "worker", BATCHSCHED_WORKER_ENGINE_URL=vllm.url)
    batch_id = reader.submits(submit)
    reader.types(f"batchsched start {batch_id}")  # not when the grid is clean: now
    reader.types(f"batchsched wait {batch_id}")
    assert "chat-servers" in reader.types("batchsched pool list")
    assert "spare" in reader.types(f"batchsched report {batch_id}")
    reader.types(f"batchsched results {batch_id} --out answers")
    lines = (stage.folder / "answers" / "output.jsonl").read_text("utf-8").splitlines()
    assert len(lines) == 5
    assert all(json.loads(line)["response"]["body"]["usage"]["completion_tokens"] > 0 for line in lines)
