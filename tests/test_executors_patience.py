"""Waiting for answers: limits that know how long a request is, and engines that stand still."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchsched.executors import driver as driver_module
from batchsched.executors import patience as patience_module
from batchsched.executors import pulse as pulse_module
from batchsched.executors.demand import Demand
from batchsched.executors.patience import ANSWERS, FLOOR_S, Patience
from batchsched.executors.pulse import STALL_S, Pulse
from batchsched.fleet import Pool
from tests.fake_engine import FakeEngine
from tests.fake_server import FakeServer
from tests.test_executors_driver import run, working

SHORT, LONG = Demand(200, 100), Demand(200, 10_000)


def learnt(seconds: float, longest_s: float = 3600.0) -> Patience:
    """After answers of 100 tokens that took so long."""
    patience = Patience(longest_s)
    for _ in range(ANSWERS):
        patience.learn(seconds, 100, 100)
    return patience


def test_a_limit_follows_the_length_of_the_request_and_the_pace_of_the_engine() -> None:
    fast, slow = learnt(2.0), learnt(20.0)
    assert fast.limit_s(SHORT, None) == FLOOR_S
    assert 1600 < fast.limit_s(LONG, None) < 2000
    assert slow.limit_s(SHORT, None) == pytest.approx(10 * 20, rel=0.05)
    assert slow.limit_s(LONG, None) == 3600.0
    assert fast.limit_s(Demand(2_000_000, 10), None) > 1000  # a prompt to read is work too


def test_before_anything_is_known_and_without_a_limit_the_setting_holds() -> None:
    assert Patience(3600.0).limit_s(SHORT, 4096) == 3600.0
    assert learnt(2.0).limit_s(Demand(200), None) == 3600.0
    assert learnt(2.0).limit_s(Demand(200), 4096) == pytest.approx(10 * 2 / 114 * (4096 + 14), rel=0.02)
    assert learnt(2.0, longest_s=5.0).limit_s(LONG, None) == 5.0


def test_each_try_waits_twice_as_long_and_a_new_engine_is_learnt_anew() -> None:
    patience = learnt(2.0)
    assert [patience.limit_s(SHORT, None, tries) for tries in range(3)] == [FLOOR_S, 2 * FLOOR_S, 4 * FLOOR_S]
    patience.begin()
    assert patience.limit_s(SHORT, None) == 3600.0


def test_time_with_others_at_the_engine_does_not_count_but_the_setting_holds() -> None:
    patience = learnt(2.0)
    assert patience.limit_s(SHORT, None, excused_s=500.0) == FLOOR_S + 500
    assert patience.limit_s(SHORT, None, 1, 500.0) == 2 * FLOOR_S + 500
    assert patience.limit_s(SHORT, None, excused_s=5000.0) == 3600.0


def test_the_slowest_of_late_counts_and_is_forgotten() -> None:
    patience = learnt(200.0)
    before = patience.limit_s(SHORT, None)
    patience.learn(1.0, 100, 100)
    assert before > patience.limit_s(SHORT, None) > 0.99 * before
    for _ in range(1000):
        patience.learn(1.0, 100, 100)
    assert patience.limit_s(SHORT, None) == FLOOR_S


def test_an_engine_stands_still_only_when_neither_answers_nor_tokens_come() -> None:
    pulse = Pulse()
    assert not pulse.stopped(5.0, 0.0)
    assert not pulse.stopped(5.0, STALL_S - 1)
    assert pulse.stopped(5.0, STALL_S)
    assert not pulse.stopped(6.0, STALL_S + 1)  # a token
    assert pulse.quiet()
    pulse.felt()
    assert (pulse.quiet(), pulse.quiet()) == (False, True)
    assert not pulse.stopped(6.0, 3 * STALL_S)  # an answer meanwhile
    pulse.rest()
    assert not pulse.stopped(6.0, 6 * STALL_S)
    assert not pulse.stopped(None, 9 * STALL_S)  # it does not say
    assert not pulse.stopped(None, 20 * STALL_S)


@pytest.mark.slow
async def test_a_request_that_never_comes_back_is_let_go_long_before_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """It went out when nothing was known of the engine yet."""
    monkeypatch.setattr(driver_module, "HEALTH_EVERY_S", 0.05)
    monkeypatch.setattr(patience_module, "FLOOR_S", 0.2)
    monkeypatch.setattr(patience_module, "FACTOR", 1.0)
    server = FakeServer([*(f"n{number}" for number in range(20)), "a [[hang]]"], chunk_lines=20)
    for chunk in server.chunks:
        chunk.data = [line.replace(b'"model"', b'"max_tokens": 4, "model"') for line in chunk.data]
    outputs = await run(server, FakeEngine(delay_s=0.01))
    assert outputs["c21"]["error"]["code"] == "engine_error"
    assert "nothing within" in outputs["c21"]["error"]["message"]
    assert all(outputs[f"c{number}"]["response"]["status_code"] == 200 for number in range(1, 21))


@pytest.mark.slow
async def test_a_request_at_an_engine_that_others_fill_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others' work is no fault of a request of ours, and no pace of ours foretells how long it takes."""
    monkeypatch.setattr(driver_module, "HEALTH_EVERY_S", 0.05)
    monkeypatch.setattr(patience_module, "FLOOR_S", 1.0)  # a busy machine may stand still for a part of it
    monkeypatch.setattr(patience_module, "FACTOR", 1.0)
    server, engine = FakeServer([*(f"n{number}" for number in range(20)), "a [[slow 3]]"], chunk_lines=20), FakeEngine()
    engine.online = 3
    for chunk in server.chunks:
        chunk.data = [line.replace(b'"model"', b'"max_tokens": 4, "model"') for line in chunk.data]
    async with working(server, engine):
        await server.until_done()
    assert server.outputs()["c21"]["response"]["status_code"] == 200
    assert engine.seen["a [[slow 3]]"] == 1  # it was never let go and asked again
    assert not server.heard("fail")


@pytest.mark.slow
async def test_an_engine_process_that_stands_still_with_its_door_open_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request froze it, so it is found as one that kills engines is."""
    monkeypatch.setattr(driver_module, "HEALTH_EVERY_S", 0.05)
    monkeypatch.setattr(pulse_module, "STALL_S", 0.5)
    server = FakeServer(["one", "two", "three [[freeze]]", "four"], pool=Pool(max_in_flight=8))
    async with working(server, tmp_path):
        await server.until_done()
    outputs = server.outputs()
    assert outputs["c3"]["error"]["code"] == "engine_crash"
    assert [name for name, line in outputs.items() if line["error"]] == ["c3"]
