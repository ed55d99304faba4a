"""`run` and the examples with everything real: a server, a worker, vLLM with the tiny model."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from batchsched import AsyncClient
from batchsched.executors.engine import VllmEngine
from batchsched.executors.worker import run_worker
from batchsched.settings import Worker
from tests.engine_fixture import ROOT
from tests.live import live_server

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(240)]


async def _said(*command: str | Path) -> str:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=pipe, stderr=pipe, cwd=ROOT)
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


async def test_answers_and_examples(vllm: VllmEngine, tmp_path: Path) -> None:
    (tmp_path / "one.md").write_text("The wind blows.")
    stop = asyncio.Event()
    with live_server(tmp_path / "server") as server:
        worker = asyncio.create_task(run_worker(Worker(engine_url=vllm.url), "local", server.url, stop=stop))
        try:
            async with AsyncClient(server.url, "") as client:
                prompts = [f"Number {number}" for number in range(20)]
                run = await client.run(prompts, model="tiny", parameters={"max_tokens": 8, "ignore_eos": True})
                answers = [found async for found in run]
                assert [found.index for found in answers] == list(range(20))
                assert all(found.ok and found.text for found in answers)
                assert [found.line.record()["output_tokens"] for found in answers] == [8] * 20
            assert "Why do cats purr?" in await _said("examples/run.py", "tiny", server.url)
            assert "one.md: " in await _said("examples/loop.py", tmp_path, "tiny", server.url)
        finally:
            stop.set()
            await asyncio.gather(worker, return_exceptions=True)
