"""The governor beside a real vLLM: a burst of online requests makes room within two readings, and letting go is at once."""

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
from batchsched.executors.spare.governor import Budget, Goal, Governor, Traits
from batchsched.executors.spare.window import Window
from benchmarks.spare.offline import Work
from benchmarks.spare.online import serve, steady
from tests.live import PATIENCE_S

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


async def until(what: object) -> None:
    """Until it holds."""
    assert callable(what)
    async with asyncio.timeout(PATIENCE_S):
        while not what():
            await asyncio.sleep(0.01)


async def test_it_fills_an_idle_server_makes_room_for_a_burst_and_lets_go_at_once(
    vllm: VllmEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[Window, Budget]] = []
    see = Governor.see

    def seen(governor: Governor, window: Window, traits: Traits) -> Budget:
        told.append((window, see(governor, window, traits)))
        return told[-1][1]

    monkeypatch.setattr(Governor, "see", seen)
    # A promise that no machine keeps with offline work beside: tokens in half the time that the quickest user alone felt.
    alone = await serve(vllm.url, steady(30, 5.0, 1), 1)
    tpot_s = 0.5 * min(felt.tpot_s for felt in alone)
    async with governed(vllm.url, Goal(5.0, tpot_s), tmp_path) as (gate, work, session):
        await until(lambda: gate.budget.open and gate.budget.in_flight >= 16)
        await until(lambda: work.in_flight >= 12)
        before = len(told)
        burst = asyncio.create_task(serve(vllm.url, steady(120, 40.0, 2), 2))
        await until(lambda: any(not budget.open and budget.in_flight <= 8 for _, budget in told[before:]))
        came = next(number for number, (window, _) in enumerate(told) if number >= before and window.arrived >= 1)
        assert any(not budget.open and budget.in_flight <= 8 for _, budget in told[before : came + 2]), told[before:]
        await burst
        gate.let_go()
        async with asyncio.timeout(PATIENCE_S):
            while (await read(session, vllm.url)).running:
                pass
        await until(lambda: work.in_flight == 0)  # whose engine counts an answer as over a moment before it is here
        gate.resume()
        await until(lambda: work.in_flight > 0)
    assert work.answered > 0
