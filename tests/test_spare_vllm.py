"""The governor beside a real vLLM: a burst of online requests makes room within a second or so, and letting go is at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from batchsched.executors.engine import VllmEngine
from batchsched.executors.spare.counts import Counts, read_counts
from batchsched.executors.spare.gate import SpareGate
from batchsched.executors.spare.governor import Goal
from benchmarks.spare.offline import Work
from benchmarks.spare.online import serve, steady
from tests.engine_fixture import tiny_model as tiny_model
from tests.engine_fixture import vllm as vllm

pytestmark = [pytest.mark.engine, pytest.mark.slow]


async def read(session: aiohttp.ClientSession, url: str) -> Counts:
    """What the server says now."""
    async with session.get(f"{url}/metrics") as answer:
        counts = read_counts(await answer.text(), time.monotonic())
    assert counts is not None
    return counts


@asynccontextmanager
async def governed(url: str, goal: Goal, desk: Path) -> AsyncGenerator[tuple[SpareGate, Work, aiohttp.ClientSession]]:
    """Offline work without end on a server, behind a gate."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        gate = SpareGate(goal, 24, url, session, desk_base=desk)
        work = Work(url, session, gate.priority, seed=1)
        watching = asyncio.create_task(gate.watch())
        work.begin(gate)
        try:
            yield gate, work, session
        finally:
            await work.end()
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


async def until(what: object, seconds: float) -> float:
    """Seconds until it holds."""
    assert callable(what)
    began = time.monotonic()
    async with asyncio.timeout(seconds):
        while not what():
            await asyncio.sleep(0.01)
    return time.monotonic() - began


async def test_it_fills_an_idle_server_makes_room_for_a_burst_and_lets_go_at_once(vllm: VllmEngine, tmp_path: Path) -> None:
    # A promise that this machine keeps with few requests and not with two dozen: tokens in 1.5 times what one alone takes.
    alone = await serve(vllm.url, steady(30, 5.0, 1), 1)
    tpot_s = 1.5 * sorted(felt.tpot_s for felt in alone)[15]
    async with governed(vllm.url, Goal(5.0, tpot_s), tmp_path) as (gate, work, session):
        await until(lambda: gate.budget.open and gate.budget.in_flight >= 16, 40)
        await until(lambda: work.in_flight >= 12, 10)
        burst = asyncio.create_task(serve(vllm.url, steady(120, 40.0, 2), 2))
        took_s = await until(lambda: gate.budget.in_flight <= 8 and not gate.budget.open, 10)
        assert took_s < 2.5  # half a second between readings; the rest is a machine with two cores
        await burst
        gate.let_go()
        asked = time.monotonic()
        while (await read(session, vllm.url)).running:
            assert time.monotonic() - asked < 3
        assert work.in_flight == 0
        gate.resume()
        await until(lambda: work.in_flight > 0, 10)
    assert work.answered > 0
