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
    readings: list[Counts | None] = []
    govern = SpareGate._govern  # pyright: ignore[reportPrivateUsage]

    def counted(gate: SpareGate, counts: Counts | None) -> None:
        readings.append(counts)
        govern(gate, counts)

    monkeypatch.setattr(SpareGate, "_govern", counted)
    # A promise that this machine keeps with few requests and not with two dozen: tokens in 1.5 times what one alone takes.
    alone = await serve(vllm.url, steady(30, 5.0, 1), 1)
    tpot_s = 1.5 * sorted(felt.tpot_s for felt in alone)[15]
    async with governed(vllm.url, Goal(5.0, tpot_s), tmp_path) as (gate, work, session):
        await until(lambda: gate.budget.open and gate.budget.in_flight >= 16)
        await until(lambda: work.in_flight >= 12)
        before = len(readings)
        burst = asyncio.create_task(serve(vllm.url, steady(120, 40.0, 2), 2))
        await until(lambda: gate.budget.in_flight <= 8 and not gate.budget.open)
        assert len(readings) <= before + 5  # half a second between them, where the machine is not busy with other things
        await burst
        gate.let_go()
        async with asyncio.timeout(PATIENCE_S):
            while (await read(session, vllm.url)).running:
                pass
        await until(lambda: work.in_flight == 0)  # whose engine counts an answer as over a moment before it is here
        gate.resume()
        await until(lambda: work.in_flight > 0)
    assert work.answered > 0
