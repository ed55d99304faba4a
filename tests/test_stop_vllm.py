"""The end of the real vLLM that all other tests shared: by its name this file comes last of those that ask for it."""

from __future__ import annotations

import asyncio
import contextlib

import aiohttp
import pytest

from batchsched.executors.answers import Verdict, judge
from batchsched.executors.engine import VllmEngine
from tests.live import PATIENCE_S
from tests.test_executors_engine import gone
from tests.test_executors_vllm import ask

pytestmark = [pytest.mark.engine, pytest.mark.slow]


async def test_stopping_an_engine_lets_what_is_in_flight_end(vllm: VllmEngine) -> None:
    pids, url = vllm.pids(), vllm.url
    assert len(pids) > 1
    body = b'{"model": "tiny", "prompt": "a", "max_tokens": 500, "ignore_eos": true, "n": 2}'
    asking = [asyncio.create_task(ask(url, "/v1/completions", body)) for _ in range(4)]
    async with aiohttp.ClientSession() as session, asyncio.timeout(PATIENCE_S):
        running = 0.0
        while running < 4:
            async with session.get(url + "/metrics") as answer:
                lines = (await answer.text()).splitlines()
            running = sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:num_requests_running"))
    stopping = asyncio.create_task(vllm.stop())
    late: list[tuple[int, bytes]] = []
    with contextlib.suppress(aiohttp.ClientError):  # in the end nobody is there
        while not stopping.done():
            late.append(await ask(url, "/v1/completions", b'{"model": "tiny", "prompt": "a", "max_tokens": 2}'))
    await stopping
    refused = [answered for answered in late if answered[0] != 200]
    assert refused  # it drains: what comes now is turned away, and may come again elsewhere
    assert {(status, judge(status, body)[0]) for status, body in refused} <= {
        (500, Verdict.OVERLOADED),
        (503, Verdict.OVERLOADED),
    }
    answers = await asyncio.gather(*asking)
    assert [status for status, _ in answers] == [200] * 4
    assert all(map(gone, pids))
