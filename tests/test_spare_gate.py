"""The gate of a worker whose engine belongs to others: one budget for all workers of a machine, room given back, letting go."""

from __future__ import annotations

import asyncio
import random
import socket
import subprocess
import sys
import textwrap
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchsched.errors import InvalidConfiguration
from batchsched.executors.meters.port import Reading
from batchsched.executors.pauses import pause_after
from batchsched.executors.share import EnergyShare
from batchsched.executors.spare import gate as gate_module
from batchsched.executors.spare.desk import Desk, server_of
from batchsched.executors.spare.gate import SpareGate
from batchsched.executors.spare.governor import Budget, Goal, Governor, Traits
from batchsched.executors.spare.histogram import Histogram
from batchsched.executors.spare.hours import Hours, could
from batchsched.executors.spare.port import Answer
from batchsched.executors.spare.response import Step
from batchsched.executors.spare.window import Ours, Window
from batchsched.fleet import Pool, Slo
from batchsched.spare import part_of
from batchsched.wire import Bye, Heartbeat, SpareSeen, Spent
from tests.fake_engine import FakeEngine
from tests.fake_server import FakeServer
from tests.live import PATIENCE_S
from tests.test_executors_driver import working

ROOT = Path(__file__).resolve().parent.parent
SPARE = Pool(kind="spare", slo=Slo(ttft_ms=500, tpot_ms=100), ceiling=8)
URL = "http://127.0.0.1:8000"


@contextmanager
def another(base: Path, in_flight: int) -> Generator[subprocess.Popen[str]]:
    """Another worker of this machine, a process of its own, that has so much in flight and wants more."""
    code = f"""
        from pathlib import Path
        from batchsched.executors.spare.desk import Desk, server_of
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
        gate._governed_s = 0.0  # pyright: ignore[reportPrivateUsage]
        gate.governor.budget = Budget(in_flight=2, keep=2, prompt_token_s=1e-4, slack_s=0.02)
        first = gate.enters(10)
        assert gate.asks(10) is Answer.LATER  # the pace of prompts
        gate.governor.budget = Budget(in_flight=2, keep=2, open=True)
        assert gate.asks(10) is Answer.GO
        gate.enters(10)
        assert gate.asks(10) is Answer.LATER
        gate.leaves(first, 10, 20)
        gate.leaves(first)
        assert gate.asks(10) is Answer.GO
        gate.close()


def spent_of(message: object) -> list[Spent]:
    """What a worker said that was metered."""
    if isinstance(message, Bye):
        return message.spent
    return [message.spent] if isinstance(message, Heartbeat) and message.spent else []


@pytest.fixture
def desk_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_module, "EVERY_S", 0.1)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)


async def until(what: object) -> None:
    """Until it holds; polled, for an engine's state raises no event."""
    assert callable(what)
    async with asyncio.timeout(PATIENCE_S):
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
    assert seen.server.startswith(f"{socket.gethostname()}:")
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
        await until(lambda: engine.in_flight <= 1)
        engine.kv_usage = 0.1
        engine.gate.set()
        await server.until_done()
    assert len(server.outputs()) == 20
    assert set(engine.computed.values()) == {1}  # those let go had not been answered


@pytest.mark.slow
@pytest.mark.usefixtures("desk_here")
async def test_a_worker_says_where_it_is_and_keeps_to_its_part_of_the_ceiling() -> None:
    server, engine = FakeServer([f"one n{number}" for number in range(40)], pool=SPARE), FakeEngine()
    engine.gate.clear()
    async with working(server, engine):
        await until(lambda: engine.in_flight >= 4)
        server.ceiling = 2
        await until(lambda: engine.in_flight <= 2)
        said = server.heard("heartbeat")[-1].sharing
        assert said.server.startswith(f"{socket.gethostname()}:")
        assert said.wants
        engine.gate.set()
        await server.until_done()
    assert len(server.outputs()) == 40


@pytest.mark.slow
@pytest.mark.usefixtures("desk_here")
async def test_a_worker_keeps_to_its_part_from_its_first_request_on() -> None:
    server, engine = FakeServer([f"one n{number}" for number in range(12)], pool=SPARE), FakeEngine()
    server.ceiling, server.heartbeat_s = 2, 3600.0  # no heartbeat tells it
    engine.gate.clear()
    async with working(server, engine):
        await until(lambda: engine.in_flight == 2)
        engine.gate.set()
        await server.until_done()
    assert engine.peak_in_flight == 2
    assert server.heard("claim")[0].sharing.wants


@pytest.mark.slow
@pytest.mark.usefixtures("desk_here")
async def test_told_to_stop_it_lets_go_at_once() -> None:
    server, engine = FakeServer([f"one n{number}" for number in range(20)], pool=SPARE), FakeEngine()
    engine.gate.clear()
    async with working(server, engine, drain_s=3600.0):
        await until(lambda: engine.in_flight >= 2)
        server.stop = {chunk.id: "preempted" for chunk in server.chunks}
        await until(lambda: engine.in_flight == 0)
    assert not server.heard("fail")
    parts = [part for _, message in server.said for spent in spent_of(message) for part in spent.parts]
    assert any(part.kind == "waste" and part.batch_id for part in parts)  # what the server had begun is lost


def test_what_a_server_had_is_summed_until_it_is_told_and_what_nobody_knows_is_left_out() -> None:
    hours = Hours("here:8000")
    for tokens_per_s in (100.0, None, 40.0):
        hours.saw(0.5, tokens_per_s)
    seen = hours.take()
    assert seen == SpareSeen("here:8000", 1.0, 70.0)
    assert hours.take() is None
    hours.give_back(seen)  # no heartbeat could tell it
    hours.saw(1.0, 30.0)
    assert hours.take() == SpareSeen("here:8000", 2.0, 50.0)


def governor_of(step_s: float, per_prompt_token_s: float) -> Governor:
    """One that has learnt how long a step takes: 10 ms and so much for each prompt token."""
    governor = Governor(Goal(), 10)
    rng = random.Random(1)
    for _ in range(200):
        decoding, read = rng.uniform(1, 10), rng.uniform(0, 50)
        governor.model.learn(Step(step_s + per_prompt_token_s * read, decoding, read))
    governor.fits = 10
    return governor


def window_of(online: float, ours: float = 0.0) -> Window:
    first = Histogram((1.0,), (1.0,), 1.0, 0.1)
    return Window(0.5, 0.5, online, online, 0, ours, online + ours, 0, 0, 0.1, Step(0.01, online + ours, 1.0), 0.5, first)


def test_what_a_server_could_have_done_counts_the_reading_of_prompts() -> None:
    assert could(Governor(Goal(), 10), window_of(0), Traits(100, 50)) is None  # nothing of it is known
    alone = governor_of(0.01, 0.0005)
    alone.budget = Budget(in_flight=2, open=True, prompt_token_s=0.0005)
    # Ten at a time: each step writes ten tokens and reads the prompts of a fifth of a request.
    assert could(alone, window_of(0), Traits(100, 50)) == pytest.approx(10 * 3 / (0.01 + 20 * 0.0005), rel=0.05)
    alone.budget = Budget(in_flight=2, prompt_token_s=0.0005)
    # With users online prompts may take a quarter of its time: five a second.
    assert could(alone, window_of(2), Traits(100, 50)) == pytest.approx(5 * 150, rel=0.05)


def test_a_server_here_is_known_by_the_machines_name_and_by_one_name() -> None:
    assert server_of("http://localhost:8000/") == server_of("http://127.0.0.1:8000") == f"{socket.gethostname()}:8000"
    assert server_of("https://user:secret@gpu7/v2") == "gpu7:https/v2"


def test_sums_over_all_workers_do_not_fall_when_one_leaves(tmp_path: Path) -> None:
    one, other = Desk(URL, tmp_path), Desk(URL, tmp_path)
    one.refresh()
    one.say(in_flight=1, sent=5, sent_tokens=50)
    other.say(in_flight=2, sent=100, sent_tokens=1000, done_tokens=7000, gone=1)
    assert one.all == Ours(3, 105, 1050, 0, 1)
    other.close()
    one.refresh()
    assert one.all == Ours(1, 105, 1050, 0, 3)  # what it had in flight nobody will answer
    assert one.done_tokens == 7000
    one.close()


def test_a_server_of_others_that_is_away_is_asked_often_however_long_it_is_away() -> None:
    assert [pause_after(failures, ours=False) for failures in (1, 2, 3, 5000)] == [2.0, 4.0, 8.0, 15.0]
    assert pause_after(5000, ours=True) == 300.0  # an engine of ours takes minutes to start


async def test_a_request_for_several_answers_is_as_many_to_the_server(tmp_path: Path) -> None:
    pushed: list[int] = []
    async with aiohttp.ClientSession() as session:
        gate = SpareGate(Goal(), 8, URL, session, now=lambda: 0.0, desk_base=tmp_path)
        gate.bind(lambda: None, pushed.append)
        gate._governed_s = 0.0  # pyright: ignore[reportPrivateUsage]
        gate.governor.budget = Budget(in_flight=6, keep=6, open=True)
        first = gate.enters(10, answers=4)
        assert gate.asks(10, answers=3) is Answer.LATER
        assert gate.asks(10, answers=2) is Answer.GO
        gate.enters(10, answers=2)
        desk = gate._desk  # pyright: ignore[reportPrivateUsage]
        assert (desk.all.in_flight, desk.all.sent, desk.all.sent_tokens) == (6, 6, 60)
        gate._push(Budget(keep=4))  # pyright: ignore[reportPrivateUsage]
        gate._push(Budget(keep=1))  # pyright: ignore[reportPrivateUsage]
        gate._push(Budget(keep=0))  # pyright: ignore[reportPrivateUsage]
        assert pushed == [1, 1, 2]
        gate.leaves(first)
        assert (desk.all.in_flight, desk.all.gone) == (2, 4)
        gate.close()


async def test_a_request_with_several_prompts_is_as_many_to_the_server(tmp_path: Path) -> None:
    now_s = 0.0
    async with aiohttp.ClientSession() as session:
        gate = SpareGate(Goal(ttft_s=0.5), 20, URL, session, now=lambda: now_s, desk_base=tmp_path)
        gate._governed_s = 0.0  # pyright: ignore[reportPrivateUsage]
        gate.governor.budget = Budget(in_flight=12, keep=12, prompt_token_s=0.001, slack_s=0.2)
        gate.governor.lasting_s = 0.01
        assert gate.asks(800, answers=8) is Answer.GO
        ticket = gate.enters(800, answers=8, prompts=4)  # two answers to each of four prompts
        desk = gate._desk  # pyright: ignore[reportPrivateUsage]
        assert desk.all == Ours(8, 8, 1600, 4)  # of four prompts in 0.8 s two are read in half a second
        assert gate.asks(10, answers=5) is Answer.LATER
        now_s = 1.8
        assert gate.lost_tokens(ticket) == 800 + 8 * 100
        gate.leaves(ticket, 800, 8 * 60)
        assert (desk.all.in_flight, desk.done_tokens) == (0, 800 + 480)
        traits = gate._traits  # pyright: ignore[reportPrivateUsage]
        assert (traits.prompt_tokens, traits.output_tokens) == pytest.approx((64 + 0.02 * (200 - 64), 64 + 0.02 * (60 - 64)))
        gate.close()


def test_a_request_for_more_answers_than_may_be_in_flight_goes_alone(tmp_path: Path) -> None:
    desk = Desk(URL, tmp_path)
    assert not desk.take(0, 4)
    assert desk.take(2, 4)
    assert not desk.take(2, 1)
    desk.close()


async def test_a_desk_has_its_part_of_the_ceiling_beside_those_of_other_machines(tmp_path: Path) -> None:
    async with aiohttp.ClientSession() as session:
        one, same, other = (SpareGate(Goal(), 8, URL, session, desk_base=tmp_path / name) for name in ("a", "a", "b"))
        assert one.sharing(True) == same.sharing(True) != other.sharing(True)
        assert one.sharing(True).server == other.sharing(False).server
        for told, ceiling in ((3, 3), (20, 8), (None, 8)):
            one.share(told)
            assert one.governor.ceiling == ceiling
        for gate in (one, same, other):
            gate.close()


@given(st.integers(1, 200), st.sets(st.text(), min_size=1))
def test_parts_of_a_ceiling_add_up_to_it(ceiling: int, desks: set[str]) -> None:
    parts = [part_of(ceiling, desk, desks) for desk in desks]
    assert sum(parts) == max(ceiling, len(desks))
    assert max(parts) - min(parts) <= 1


def test_a_folder_of_another_user_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getuid", lambda: 4_000_000)
    with pytest.raises(InvalidConfiguration, match="belongs to another user"):
        Desk(URL, tmp_path)
