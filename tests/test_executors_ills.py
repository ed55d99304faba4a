"""Engines that go wrong by themselves: the worker says so, no line is blamed for it, and no chunk is harmed. Real processes."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from batchsched.errors import EngineFailed
from batchsched.executors import driver as driver_module
from batchsched.executors import pauses, pulse
from batchsched.executors.admission import Admission
from batchsched.executors.demand import Demand
from batchsched.fleet import Pool
from tests.fake_engine import FakeEngine
from tests.fake_server import FakeServer
from tests.test_executors_driver import run, working

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses after trouble with an engine."""
    monkeypatch.setattr(pauses, "FIRST_S", 0.05)


@asynccontextmanager
async def process(port: int = 0, *more: str) -> AsyncGenerator[int]:
    """A fake engine as a process of its own; its port. It ends with the block."""
    file = Path(__file__).parent / "fake_engine.py"
    engine = await asyncio.create_subprocess_exec(
        sys.executable, str(file), "--port", str(port), *more, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert engine.stdout is not None
        yield json.loads(await engine.stdout.readline())["port"]
    finally:
        engine.kill()
        await engine.wait()


async def test_an_engine_that_dies_whatever_it_is_asked_is_given_up_and_its_chunk_goes_back_unharmed(tmp_path: Path) -> None:
    """It starts well each time: only the small request after the first death finds it out."""
    server = FakeServer(["one", "two", "three"], pool=Pool(engine_args=["--mortal"]))
    with pytest.raises(EngineFailed, match="small request"):
        await run(server, tmp_path, engine_tries=3)
    assert not server.results
    assert (server.chunks[0].attempt, server.chunks[0].state) == (1, "waiting")
    assert len(server.heard("fail")) == 1
    assert server.heard("bye")


async def test_an_engine_that_runs_out_of_memory_gets_less_to_do_and_its_lines_finish(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prompts = [f"n{number} [[slow 0.2]] [[crowded 5]]" for number in range(24)]
    server = FakeServer(prompts, pool=Pool(max_in_flight=8), chunk_lines=24)
    outputs = await run(server, tmp_path)
    assert all(line["error"] is None for line in outputs.values())
    assert "at most 4 requests are in flight" in caplog.text or "at most 3 requests are in flight" in caplog.text
    failed = server.heard("fail")
    assert len(failed) == 1
    assert "out of memory" in failed[0].message


def test_what_ran_out_of_memory_is_halved_and_never_nothing() -> None:
    admission = Admission(256)
    for _ in range(9):
        admission.enter(Demand(10, 10))
    assert [admission.crowded() for _ in range(4)] == [4, 2, 1, 1]


async def test_another_model_behind_the_same_address_costs_no_line_and_no_attempt() -> None:
    server = FakeServer([f"n{number} [[slow 0.3]]" for number in range(40)], pool=Pool(max_in_flight=4), chunk_lines=40)
    async with process() as port, working(server, f"http://127.0.0.1:{port}") as stop:
        await server.until(lambda: server.results)
        stop.set()
        await server.until(lambda: server.heard("bye"))
    known = len(server.results)
    async with process(port, "--served-model-name", "other"), working(server, f"http://127.0.0.1:{port}"):
        await server.until(lambda: len(server.heard("claim")) > 5)
    assert len(server.results) == known
    assert (server.chunks[0].attempt, server.heard("fail")) == (0, [])


async def test_a_model_that_is_swapped_while_lines_are_in_flight_costs_no_line_and_no_attempt() -> None:
    server, engine = FakeServer(["one", "two", "three"]), FakeEngine(delay_s=0.05)
    async with working(server, engine):
        await server.until(lambda: server.heard("claim"))
        engine.model = "other"  # its list of models follows
        await server.until(lambda: server.heard("release") or len(server.results) == 3)
        assert server.heard("fail") == []
        engine.model = "tiny"
        await server.until_done()
    assert all(result.ok for result in server.results.values())
    assert server.chunks[0].attempt == 0


async def test_a_line_that_a_well_engine_never_takes_gets_its_refusal_and_engines_live_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As vLLM with a short queue does to a request of more answers than that holds."""
    monkeypatch.setattr(driver_module, "HEALTH_EVERY_S", 0.05)
    monkeypatch.setattr(pulse, "STALL_S", 0.2)
    server, engine = FakeServer(["one", "two [[503]]", "three"]), FakeEngine()
    outputs = await run(server, engine)
    assert [server.results[line].ok for line in (1, 2, 3)] == [True, False, True]
    assert outputs["c2"]["response"]["status_code"] == 503
    assert [message.suspects for message in server.heard("fail")] == [[2]]


async def test_an_engine_that_takes_nothing_for_long_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_module, "HEALTH_EVERY_S", 0.02)
    monkeypatch.setattr(pulse, "STALL_S", 0.1)
    server, engine = FakeServer(["one", "two"]), FakeEngine()
    engine.overloaded_above = 0
    async with working(server, engine):
        await server.until(lambda: server.heard("claim"))
        await asyncio.sleep(0.6)  # long enough for more than one look
        engine.overloaded_above = 10
        await server.until_done()
    assert all(result.ok for result in server.results.values())
    assert server.heard("fail") == []


async def test_an_engine_that_asks_for_a_key_is_trouble_of_the_engine() -> None:
    server, engine = FakeServer(["one", "two"]), FakeEngine()
    async with working(server, engine):
        engine.api_key = "somebody else's"
        await server.until(lambda: server.heard("claim"))
        await asyncio.sleep(0.2)
        engine.api_key = ""
        await server.until_done()
    assert all(result.ok for result in server.results.values())
    assert server.heard("fail") == []


async def test_a_key_is_shown_to_the_engine() -> None:
    server, engine = FakeServer(["one", "two"]), FakeEngine()
    engine.api_key = "ours"
    outputs = await run(server, engine, engine_api_key="ours")
    assert all(line["response"]["status_code"] == 200 for line in outputs.values())


async def test_answers_that_a_process_wrote_by_half_are_asked_for_again_and_given_up_in_the_end(tmp_path: Path) -> None:
    server = FakeServer(["a [[cut]]", "b [[drop]]", "c [[garbage]]", "d [[cut always]]", "e"])
    outputs = await run(server, tmp_path)
    assert {name: line["error"] and line["error"]["code"] for name, line in outputs.items()} == {
        "c1": None, "c2": None, "c3": None, "c4": "engine_error", "c5": None,
    }  # fmt: skip
    assert [message.suspects for message in server.heard("fail")] == [[4]]
