"""An engine kept full and a worker that stays small: budgets in tokens, orders, slow servers, a hundred thousand requests."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import msgspec
import psutil
import pytest

from batchsched.clock import RandomIds
from batchsched.executors import driver as driver_module
from batchsched.executors.admission import Admission
from batchsched.executors.backlog import Backlog
from batchsched.executors.dialect import dialect_of
from batchsched.executors.driver import Driver
from batchsched.executors.identity import Identity
from batchsched.executors.order import SHARED_BYTES
from batchsched.executors.reporter import Reporter
from batchsched.fleet import Pool
from batchsched.lines import parse
from batchsched.wire import Acknowledged, Lease, Result, Results
from tests.fake_engine import FakeEngine
from tests.fake_server import FakeServer, as_line
from tests.test_executors_driver import run, working

pytestmark = pytest.mark.slow


async def test_the_engines_cache_bounds_what_is_in_flight() -> None:
    server = FakeServer([f"n{number}" for number in range(100)], pool=Pool(max_in_flight=64))
    engine = FakeEngine()
    engine.kv_tokens = 10 * 1040  # without a limit each may write 1,024
    engine.gate.clear()
    async with working(server, engine):
        await server.until(lambda: engine.in_flight == 10)
        await asyncio.sleep(0.1)  # long enough for more
        assert engine.peak_in_flight == 10
        assert len(server.heard("claim")) == 1  # nothing more is taken while the engine is full
        engine.gate.set()
        await server.until_done()
    assert engine.peak_in_flight > 10  # they wrote one token each, and that was learned


async def test_requests_larger_than_the_pools_bound_go_one_by_one() -> None:
    server = FakeServer([f"n{number}" for number in range(8)], pool=Pool(max_in_flight=64, max_tokens_in_flight=20))
    engine = FakeEngine(delay_s=0.01)
    outputs = await run(server, engine)
    assert len(outputs) == 8
    assert engine.peak_in_flight == 1


async def test_an_engine_that_pushes_requests_out_gets_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_module, "HEALTH_EVERY_S", 0.02)
    seen: list[float] = []
    feel = Admission.feel

    def felt(admission: Admission, load: Any) -> None:
        feel(admission, load)
        seen.append(admission.budget)

    monkeypatch.setattr(Admission, "feel", felt)
    server, engine = FakeServer(["a", "b"]), FakeEngine()
    engine.kv_tokens, engine.kv_usage, engine.preemptions = 16_000, 1.0, 3
    engine.gate.clear()
    async with working(server, engine):
        await server.until(lambda: seen)
        assert seen[0] == 16_000
        engine.preemptions = 4
        await server.until(lambda: seen[-1] < 16_000)
        engine.gate.set()
        await server.until_done()


async def test_prompts_that_begin_alike_reach_the_engine_together() -> None:
    shared = {letter: f"{letter} " * SHARED_BYTES for letter in "abc"}
    prompts = [f"{shared[letter]} [[tag {letter}{number}]]" for number in range(4) for letter in "abc"]
    server, engine = FakeServer(prompts, pool=Pool(max_in_flight=1)), FakeEngine()
    await run(server, engine)
    assert " ".join(engine.computed) == "a0 a1 a2 a3 b0 b1 b2 b3 c0 c1 c2 c3"


async def test_while_the_server_is_slow_the_engine_gets_only_so_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_module, "MOST_UNSENT_BYTES", 2000)
    server = FakeServer([f"n{number}" for number in range(60)], chunk_lines=60, pool=Pool(max_in_flight=4))
    engine = FakeEngine()
    server.trouble["results"] = [503] * 1000
    async with working(server, engine):
        await server.until(lambda: engine.computed and not engine.in_flight)
        await asyncio.sleep(0.1)  # long enough for more
        assert 0 < sum(engine.computed.values()) < 20
        assert len(server.heard("claim")) == 1
        server.trouble["results"] = []
        await server.until_done()
    assert len(server.results) == 60
    assert set(engine.computed.values()) == {1}


class Instant:
    """An engine and a server that answer at once, without a socket: what is left is the worker's own."""

    url, served, context, identity = "http://engine", "tiny", None, Identity("instant")
    dialect, ours = dialect_of("vllm", "0.32.0", Pool()), True

    def __init__(self, answer: bytes) -> None:
        self.recorded = 0
        self._answer = answer

    def alive(self) -> bool:
        return True

    @asynccontextmanager
    async def post(self, url: str, **given: Any) -> AsyncGenerator[Any]:
        await asyncio.sleep(0)

        async def read() -> bytes:
            return bytes(bytearray(self._answer))

        yield SimpleNamespace(status=200, headers={}, read=read)

    async def insist(self, method: str, path: str, message: Any, kind: type, **given: Any) -> Any:
        await asyncio.sleep(0.01)
        if isinstance(message, Results):
            self.recorded += len(message.results)
            return Acknowledged(len(message.results), 0)
        return None


@pytest.mark.parametrize(
    ("total", "chunk_lines"),
    [(20_000, 200), pytest.param(100_000, 200, marks=pytest.mark.long), pytest.param(100_000, 5000, marks=pytest.mark.long)],
)
async def test_a_hundred_thousand_requests_take_no_more_memory_than_a_few_chunks(total: int, chunk_lines: int) -> None:
    line_bytes = 2000
    usage = {"prompt_tokens": 500, "completion_tokens": 5}
    both = Instant(json.dumps({"id": "x", "choices": [{"text": "y" * line_bytes}], "usage": usage}).encode())
    share: Any = SimpleNamespace(add=lambda *_: None, take=lambda _: None, busy=lambda _: None, give_back=lambda *_: None)
    wanted = asyncio.Event()
    end: Any = both
    driver = Driver(
        end, end, share, RandomIds(), admission=Admission(256), request_timeout_s=10.0, on_change=wanted.set
    )  # fmt: skip
    process, peak = psutil.Process(os.getpid()), 0

    async def hold(first: int) -> None:
        nonlocal peak
        lease = Lease(f"chunk_{first}", "batch", 1, "/v1/completions", "tiny", first, chunk_lines, [], [], 1)
        reporter = Reporter(end, lease, share, driver.backlog, lambda: None, lambda _: None)
        numbers = range(first, first + chunk_lines)
        lines = (
            (number, parse(as_line(f"c{number}", "z" * line_bytes, endpoint="/v1/completions"), number)) for number in numbers
        )
        outcome = await driver.add(lease, reporter, lines).outcome
        await outcome.tell(reporter)
        peak = max(peak, process.memory_info().rss)
        assert outcome.end == "finished"

    before = process.memory_info().rss
    async with asyncio.TaskGroup() as chunks:
        for first in range(1, total, chunk_lines):
            while not driver.wants_more():
                wanted.clear()
                await wanted.wait()
            chunks.create_task(hold(first))
            await asyncio.sleep(0)
    assert both.recorded == total
    assert driver.backlog.bytes == 0
    assert peak - before < (100e6 if chunk_lines > 200 else 40e6)  # of 100,000 seen: 50 MB, and 4 MB; all of it is 400 MB


def test_nothing_is_left_of_a_backlog_whose_results_nobody_wants() -> None:
    async def scene() -> None:
        end: Any = Instant(b"")
        backlog = Backlog(lambda: None, 100)
        share: Any = SimpleNamespace(add=lambda *_: None)
        lease = Lease("chunk", "batch", 1, "/v1/completions", "tiny", 1, 1, [], [], 1)
        reporter = Reporter(end, lease, share, backlog, lambda: None, lambda _: None)
        reporter.add(Result(1, True, 1, 0, 1, msgspec.Raw(b"x" * 200)))
        assert backlog.full
        await reporter.abandon()
        assert backlog.bytes == 0

    asyncio.run(scene())
