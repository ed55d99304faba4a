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

pytestmark = [pytest.mark.engine, pytest.mark.slow]


async def _said(*command: str | Path) -> str:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=pipe, stderr=pipe, cwd=ROOT)
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


async def _asked(url: str, folder: Path) -> None:
    async with AsyncClient(url, "") as client:
        prompts = [f"Number {number}" for number in range(20)]
        run = await client.run(prompts, model="tiny", parameters={"max_tokens": 8, "ignore_eos": True})
        answers = [found async for found in run]
        assert [found.index for found in answers] == list(range(20))
        assert all(found.ok and found.text is not None for found in answers), answers  # eight tokens may make half a letter
        assert [found.line.record()["output_tokens"] for found in answers] == [8] * 20
    (folder / "one.md").write_text("The wind blows.")
    assert "Why do cats purr?" in await _said("examples/run.py", "tiny", url)
    assert "one.md: " in await _said("examples/loop.py", folder, "tiny", url)


async def test_answers_and_examples(vllm: VllmEngine, tmp_path: Path) -> None:
    stop = asyncio.Event()
    with live_server(tmp_path / "server") as server:
        settings = Worker(engine_url=vllm.url, state_dir=str(tmp_path / "worker"))
        worker = asyncio.create_task(run_worker(settings, "local", server.url, stop=stop))
        asking = asyncio.create_task(_asked(server.url, tmp_path))
        await asyncio.wait({worker, asking}, return_when=asyncio.FIRST_COMPLETED)
        assert asking.done(), worker  # it would wait for ever for a worker that has ended
        stop.set()
        assert await worker == 0
        await asking
