"""The gate of a worker whose engine belongs to others: one budget for all workers of a machine, room given back, letting go."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import pytest

from batchsched.executors.meters.port import Reading
from batchsched.executors.share import EnergyShare
from batchsched.executors.spare import gate as gate_module
from batchsched.executors.spare.desk import Desk
from batchsched.executors.spare.gate import SpareGate
from batchsched.executors.spare.governor import Budget, Goal, Traits
from batchsched.executors.spare.histogram import Histogram
from batchsched.executors.spare.hours import Hours
from batchsched.executors.spare.port import Answer
from batchsched.executors.spare.response import Step
from batchsched.executors.spare.window import Window
from batchsched.fleet import Pool, Slo
from batchsched.wire import SpareSeen
from tests.fake_engine import FakeEngine
from tests.fake_server import FakeServer
from tests.test_executors_driver import working

ROOT = Path(__file__).resolve().parent.parent
SPARE = Pool(kind="spare", slo=Slo(ttft_ms=500, tpot_ms=100), ceiling=8)
URL = "http://127.0.0.1:8000"


@contextmanager
def another(base: Path, in_flight: int) -> Iterator[subprocess.Popen[str]]:
    """Another worker of this machine, a process of its own, that has so much in flight and wants more."""
    code = f"""
        from pathlib import Path
        from batchsched.executors.spare.desk import Desk
        desk = Desk("http://localhost:8000/", Path({str(base)!r}))
        desk.say(in_flight={in_flight}, wants=1)
        print("ready", flush=True)
        input()
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def test_workers_of_a_machine_take_from_one_budget_until_one_is_killed(tmp_path: Path) -> None:
    desk = Desk(URL, tmp_path)
    with another(tmp_path, in_flight=3) as process:
        desk.refresh()
        assert [each.in_flight for each in desk.others] == [3]
        assert [desk.take(6) for _ in range(5)] == [True, True, True, False, False]
        assert desk.all.in_flight == 6
        process.kill()
        process.wait()
    desk.refresh()
    assert not desk.others
    assert desk.take(6)
    desk.close()
    assert not list(tmp_path.rglob("*.worker"))


def test_nobody_takes_more_than_a_share_while_others_want_theirs(tmp_path: Path) -> None:
    one, other = Desk(URL, tmp_path), Desk(URL, tmp_path)
    for desk in (one, other):
        desk.refresh()
    other.say(wants=1)
    assert [one.take(6) for _ in range(4)] == [True, True, True, False]  # three are the other's
    other.say(wants=0)
    assert one.take(6)
    one.close()
    other.close()


def test_what_is_broken_off_is_waste_of_its_batch() -> None:
    class Counting:
        j = 0.0

        def read(self) -> Reading:
            self.j += 10.0
            return Reading(self.j, "modelled")

        def close(self) -> None:
            pass

    from datetime import UTC, datetime

    share = EnergyShare(Counting(), lambda: datetime(2026, 1, 1, tzinfo=UTC))
    share.open("a", "batch_a")
    share.busy(True)
    share.add("a", 300)
    share.waste("batch_b", 100)
    parts = {(part.kind, part.batch_id): part.energy_j for part in share.spent()}
    assert parts["waste", "batch_b"] == pytest.approx(2.5)


async def test_the_gate_gives_room_as_the_governor_says_and_takes_it_back(tmp_path: Path) -> None:
    async with aiohttp.ClientSession() as session:
        gate = SpareGate(Goal(), 8, URL, session, now=lambda: 0.0, desk_base=tmp_path)
        assert gate.asks(10) is Answer.LATER  # nobody governs yet
        gate._governed_s = 0.0
        gate.governor.budget = Budget(in_flight=2, keep=2, prompt_token_s=1e-4, slack_s=0.02)
        first = gate.enters(10, 20)
        assert gate.asks(10) is Answer.LATER  # the pace of prompts
        gate.governor.budget = Budget(in_flight=2, keep=2, open=True)
        assert gate.asks(10) is Answer.GO
        gate.enters(10, 20)
        assert gate.asks(10) is Answer.LATER
        gate.leaves(first, 10, 20)
        gate.leaves(first)
        assert gate.asks(10) is Answer.GO
        gate.close()


@pytest.fixture
def desk_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_module, "EVERY_S", 0.1)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)


async def until(what: object, seconds: float = 10.0) -> None:
    """Until it holds; polled, for an engine's state raises no event."""
    assert callable(what)
    async with asyncio.timeout(seconds):
        while not what():
            await asyncio.sleep(0.02)


@pytest.mark.slow
@pytest.mark.usefixtures("desk_here")
async def test_a_spare_pools_worker_stays_under_its_ceiling_behind_all_others() -> None:
    server, engine = FakeServer([f"one n{number}" for number in range(60)], pool=SPARE), FakeEngine(delay_s=0.02)
    async with working(server, engine):
        await server.until_done()
        await until(lambda: any(beat.spare for kind, beat in server.said if kind == "heartbeat"))
    assert len(server.outputs()) == 60
    assert 1 <= engine.peak_in_flight <= 8
    assert set(engine.priorities) == {100}
    seen = next(beat.spare for kind, beat in server.said if kind == "heartbeat" and beat.spare)
    assert seen.server.startswith("http://127.0.0.1:")
    assert seen.seconds > 0


@pytest.mark.slow
@pytest.mark.usefixtures("desk_here")
async def test_when_the_server_is_short_of_room_requests_are_let_go_and_run_again_later() -> None:
    server, engine = FakeServer([f"one n{number}" for number in range(20)], pool=SPARE), FakeEngine()
    engine.kv_tokens, engine.kv_usage = 16_000, 0.1
    engine.gate.clear()
    async with working(server, engine):
        await until(lambda: engine.in_flight >= 4)
        engine.kv_usage = 0.95
        await until(lambda: engine.in_flight <= 1, seconds=3)
        engine.kv_usage = 0.1
        engine.gate.set()
        await server.until_done()
    assert len(server.outputs()) == 20
    assert set(engine.computed.values()) == {1}  # those let go had not been answered


@pytest.mark.slow
@pytest.mark.usefixtures("desk_here")
async def test_told_to_stop_it_lets_go_at_once() -> None:
    server, engine = FakeServer([f"one n{number}" for number in range(20)], pool=SPARE), FakeEngine()
    engine.gate.clear()
    async with working(server, engine, drain_s=60.0):
        await until(lambda: engine.in_flight >= 2)
        server.stop = {chunk.id: "preempted" for chunk in server.chunks}
        await until(lambda: engine.in_flight == 0, seconds=2)
    assert not server.heard("fail")


def test_what_a_server_had_is_what_was_done_or_where_too_little_was_asked_what_could_have_been() -> None:
    def seen(ours: float) -> SpareSeen:
        hours, first = Hours(URL), Histogram((1.0,), (1.0,), 1.0, 0.1)
        window = Window(0.5, 0.5, 4, 2, ours, 4 + ours, 0, 0, 0.1, Step(0.01, 4 + ours, 1.0), 0.5, first)
        hours.saw(window, Budget(in_flight=10), Traits(100, 50), step_s=0.02, done_tokens=60)
        taken = hours.take()
        assert taken is not None
        assert hours.take() is None
        return taken

    assert seen(ours=9) == SpareSeen(URL, 0.5, 120.0)
    # Ten at a time, each of 150 tokens, each done in 50 steps of 20 ms.
    assert seen(ours=2).tokens_per_s == pytest.approx(10 * 150 / (50 * 0.02))
