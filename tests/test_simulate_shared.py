"""Spare pools in simulations: what online users leave varies, work goes as fast as that allows, and plans know what was seen
before."""

from __future__ import annotations

import gzip
import math
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchsched.fleet import GPU_TYPES
from batchsched.simulate import POLICIES, Grid, Outcome, Scene, backtest, simulate
from batchsched.simulate.conditions import Conditions
from batchsched.simulate.drawn import Drawn
from batchsched.simulate.online import AZURE, FULL, SERVEGEN, STEPS_A_WEEK, WEEKS_BEFORE, Learnt, loads, room
from batchsched.simulate.records import Records
from batchsched.simulate.rolling import hours_of
from batchsched.simulate.rooms import ALONE, STEP_S, Room
from batchsched.simulate.scenarios import Scenario, shared
from batchsched.simulate.scenarios.shared import ALL_LOAD
from batchsched.simulate.servers import Servers

ZONES = ("CISO", "DE")
START = datetime(2021, 7, 1, tzinfo=UTC)
"""A Thursday."""
COARSE = Conditions(chunk_s=2700.0, chunk_share=math.inf, warm_up_h=3.0, warm_up_batches=1)
TURN_S = 12 * 3600.0

shares = st.lists(st.sampled_from([0.0, 0.25, 1.0]) | st.floats(0, 1), max_size=8)


@given(shares, st.floats(-2 * STEP_S, 10 * STEP_S), st.floats(0, 5 * STEP_S))
def test_so_much_work_is_done_when_it_is_said_to_be(left: list[float], from_s: float, work_s: float) -> None:
    known = Room(0.0, left)
    done_s = known.when(from_s, work_s)
    assert done_s >= from_s
    assert known.worked_s(from_s, done_s) == pytest.approx(work_s, abs=1e-6)
    assert 0 <= known.worked_s(from_s, done_s) <= done_s - from_s + 1e-6


def test_a_server_that_is_ours_alone_takes_the_time_that_work_takes() -> None:
    assert ALONE.when(-100.0, 30.0) == -70.0
    assert ALONE.when(7.0, 30.0) == 37.0
    assert ALONE.worked_s(-5.0, 5.0) == 10.0


def test_a_full_server_makes_work_wait() -> None:
    known = Room(0.0, [0.5, 0.0, 0.0, 1.0])
    assert known.when(0.0, 300.0) == pytest.approx(600.0)
    assert known.when(0.0, 301.0) == pytest.approx(1801.0)
    assert known.worked_s(600.0, 1800.0) == 0.0
    assert known.mean(0.0, 2400.0) == pytest.approx(900 / 2400)


def test_a_load_is_scaled_and_no_week_is_like_another() -> None:
    weeks = loads(None)["m-small"]
    assert [len(week) for week in weeks] == [STEPS_A_WEEK]
    known = room(weeks, 0.45, START, 14 * 24, np.random.default_rng(1))
    first, second = (known.mean(week * 7 * 86400.0, (week + 1) * 7 * 86400.0) for week in (0, 1))
    assert first == pytest.approx(0.5, abs=0.06)
    assert second == pytest.approx(0.5, abs=0.06)
    assert abs(first - second) > 1e-4
    night, day = (known.mean(hour * 3600.0, (hour + 3) * 3600.0) for hour in (2, 14))  # of a Thursday
    assert night > day + 0.2
    assert known.first_s == -WEEKS_BEFORE * 7 * 86400.0


def test_what_is_lived_is_another_week_than_what_was_learnt(tmp_path: Path) -> None:
    with gzip.open(tmp_path / SERVEGEN, "wt") as table:
        table.write("model,category,t_s,req_per_s,active_clients\n")
        for step in range(2 * STEPS_A_WEEK):
            table.write(f"m-small,language,{step * 600},{30 if step < STEPS_A_WEEK else 10},1\n")
    weeks = loads(tmp_path)
    assert [float(week[0]) for week in weeks["m-small"]] == [1.5, 0.5]
    assert len(weeks["m-large"]) == 1  # made up
    monday = START - timedelta(days=3)
    known = room(weeks["m-small"], 0.45, monday, 7 * 24, np.random.default_rng(1))
    assert known.mean(-14 * 86400.0, 0.0) == pytest.approx(1 - 0.225 / 0.9, abs=0.05)
    assert known.mean(0.0, 7 * 86400.0) == pytest.approx(1 - 0.675 / 0.9, abs=0.06)


def test_a_trace_begins_on_the_monday_that_it_has(tmp_path: Path) -> None:
    friday = datetime(2024, 5, 10, tzinfo=UTC)
    with gzip.open(tmp_path / AZURE, "wt") as table:
        table.write("timestamp_utc,service,requests_per_min,input_tokens_per_min,output_tokens_per_min\n")
        for step in range(9 * 144):
            at = friday + timedelta(seconds=step * 600)
            table.write(f"{at},azure2024_code,{100 + at.weekday()},,\n")
    (week,) = loads(tmp_path)["azure2024_code"]
    assert (week * 103).tolist() == pytest.approx([100 + step // 144 for step in range(STEPS_A_WEEK)])


def test_only_quarters_that_are_over_are_learnt_from() -> None:
    weeks = loads(None)["m-small"]
    known = room(weeks, 0.45, START, 48, np.random.default_rng(1))
    cut = _until(known, TURN_S)
    one, other = Learnt(START, {"p": known}, {"p": 1000.0}), Learnt(START, {"p": cut}, {"p": 1000.0})
    for at_s in (-3 * 3600.0, 0.0, TURN_S):
        seen, same = one.until(at_s), other.until(at_s)
        assert [row.samples for row in seen] == [row.samples for row in same]
    assert sum(len(row.samples) for row in seen) == 4 * (WEEKS_BEFORE * 168 + 12)
    later = one.until(TURN_S + 900.0), other.until(TURN_S + 900.0)
    assert [row.samples for row in later[0]] != [row.samples for row in later[1]]


def _until(known: Room, turn_s: float) -> Room:
    """The same until then; afterwards full of others."""
    steps = int((turn_s - known.first_s) // STEP_S)
    return Room(known.first_s, [*known.left[:steps], *([0.0] * 6 * 24)])


@pytest.mark.parametrize("offline", [0.25, 0.55])
def test_our_part_of_all_load_is_as_asked(offline: float) -> None:
    found = shared(ZONES, START, 7, 1, offline=offline).scene
    fleet = found.fleet
    whole = sum(pool.count for pool in fleet.pools.values()) * 7 * 86400.0
    online_s = sum(
        fleet.pools[name].count * (7 * 86400.0 - one.worked_s(0.0, 7 * 86400.0)) * FULL for name, one in found.rooms.items()
    )
    profiles = found.profiles
    ours_s = 0.0
    for one in found.arrivals:  # spread over its pools as it was drawn
        left = {name: found.rooms[name].mean(0.0, 7 * 86400.0) if name in found.rooms else 1.0 for name in one.pools}
        open_to = {name: fleet.pools[name].count * share for name, share in left.items()}
        rate = sum(many / profiles[one.model, name].seconds(500.0, 200.0) for name, many in open_to.items())
        ours_s += one.requests / rate * sum(open_to.values())
    assert online_s + ours_s == pytest.approx(ALL_LOAD * whole, rel=0.08)
    assert ours_s / (online_s + ours_s) == pytest.approx(offline, abs=0.03)


def test_spare_servers_get_what_they_serve_alone() -> None:
    found = shared(ZONES, START, 2, 1).scene
    for one in found.arrivals:
        assert one.pools
        assert all((one.model, name) in found.profiles and found.fleet.pools[name].serves(one.model) for name in one.pools)
    assert any(found.fleet.is_spare(name) for one in found.arrivals for name in one.pools)


# -- a day of it, by the planner alone and by the whole server --


@cache
def scenario() -> Scenario:
    """A few batches of a day."""
    drawn = shared(ZONES, START, 1, 2, offline=0.35)
    some = [one for one in drawn.scene.arrivals if one.deadline_s < 30 * 3600.0][::2]
    return msgspec.structs.replace(drawn, scene=msgspec.structs.replace(drawn.scene, arrivals=some), conditions=COARSE)


@cache
def grid() -> Grid:
    """Drawn weather."""
    return scenario().grid(Drawn(START, hours_of(scenario().scene), 1))


@cache
def lived() -> tuple[Outcome, Records]:
    """By the whole server."""
    return backtest(scenario().scene, grid(), POLICIES["greedy"], COARSE)


@cache
def planned() -> Outcome:
    """By the planner alone."""
    return simulate(scenario().scene, grid(), POLICIES["greedy"])


@pytest.mark.slow
def test_all_is_done_and_nobody_waits_for_engines_of_others() -> None:
    scene = scenario().scene
    infeasible = {one.batch for one in lived()[1].completions if not one.feasible}
    for outcome in (planned(), lived()[0]):
        assert outcome.unfinished == []
        assert set(outcome.missed) <= infeasible
        on_shared = [work for work in outcome.work if work.pool in scene.rooms]
        assert on_shared
        assert all(work.batch_id and work.starting_s == 0 for work in on_shared)  # their servers idle for others


@pytest.mark.slow
def test_no_more_is_done_than_is_left() -> None:
    scene = scenario().scene
    busy: dict[tuple[str, int], float] = defaultdict(float)
    for work in planned().work:
        busy[work.pool, int(work.at_s // 3600)] += work.seconds
    for (name, hour), seconds in busy.items():
        if name in scene.rooms:
            left_s = scene.fleet.pools[name].count * scene.rooms[name].worked_s(hour * 3600.0, (hour + 1) * 3600.0)
            assert seconds <= left_s * (1 + 1e-6)


@pytest.mark.slow
def test_chunks_take_longer_where_less_is_left() -> None:
    scene, records = scenario().scene, lived()[1]
    arrivals = {one.batch_id: one for one in scene.arrivals}
    began: dict[str, float] = {}
    requests: dict[str, float] = defaultdict(float)
    longer: list[float] = []
    for one in records.leases:
        pool = one.replica.split("/")[0]
        if pool not in scene.rooms or one.batch not in arrivals:
            continue
        if one.what == "leased":
            began[one.chunk], requests[one.chunk] = one.at_s, 0.0
        requests[one.chunk] += one.requests if one.what == "recorded" else 0.0
        if one.what == "finished":
            arrival = arrivals[one.batch]
            work_s = requests[one.chunk] * arrival.slowness
            work_s *= scene.profiles[arrival.model, pool].seconds(arrival.input_tokens, arrival.output_tokens)
            worked_s = scene.rooms[pool].worked_s(began[one.chunk], one.at_s)
            assert 0.6 < worked_s / work_s < 1.6  # by its own luck, and the pool's
            longer.append((one.at_s - began[one.chunk]) / work_s)
    assert len(longer) > 5
    assert max(longer) > 1.3


@pytest.mark.slow
def test_what_others_will_leave_is_not_known() -> None:
    scene = scenario().scene
    poisoned = msgspec.structs.replace(scene, rooms={name: _until(one, TURN_S) for name, one in scene.rooms.items()})
    _, changed = backtest(poisoned, grid(), POLICIES["greedy"], COARSE)
    _, records = lived()
    before = [one for one in records.leases if one.at_s < TURN_S]
    assert len(before) > 10
    assert [one for one in changed.leases if one.at_s < TURN_S] == before
    decided = [one for one in records.decisions if one.made_s < TURN_S]
    assert [one for one in changed.decisions if one.made_s < TURN_S] == decided
    sound, other = planned(), simulate(poisoned, grid(), POLICIES["greedy"])
    assert [one for one in other.work if one.at_s < TURN_S] == [one for one in sound.work if one.at_s < TURN_S]


def test_plans_expect_what_was_seen_at_such_hours() -> None:
    scene = scenario().scene
    servers = Servers(scene, START)
    known = servers.known(0.0)
    for name, share in known.items():
        by_hour = [share.spare.tokens_per_s[(3 * 24 + hour) % 168] / share.alone_tokens_per_s for hour in range(24)]
        really = [scene.rooms[name].mean(hour * 3600.0, (hour + 1) * 3600.0) for hour in range(24)]
        assert np.corrcoef(by_hour, really)[0, 1] > 0.8
        assert np.abs(np.array(by_hour) - really).mean() < 0.15


@pytest.mark.slow
def test_only_what_our_work_adds_is_paid() -> None:
    scene: Scene = scenario().scene
    outcome = planned()
    for work in outcome.work:
        if work.pool in scene.rooms:
            arrival = next(one for one in scene.arrivals if one.batch_id == work.batch_id)
            profile = scene.profiles[arrival.model, work.pool]
            watts = profile.power_for(500.0, arrival.output_tokens) - GPU_TYPES[scene.fleet.pools[work.pool].gpu].idle_w
            assert work.energy_j == pytest.approx(work.seconds * watts * scene.fleet.site_of(work.pool).pue)
    whole = lived()[0]
    for work in whole.work:
        if work.pool in scene.rooms and work.seconds > 0:
            model, gpu = scene.fleet.pools[work.pool].models[0], scene.fleet.pools[work.pool].gpu
            arrival = next(one for one in scene.arrivals if one.batch_id == work.batch_id)
            added_w = scene.profiles[model, work.pool].power_for(500.0, arrival.output_tokens) - GPU_TYPES[gpu].idle_w
            assert work.energy_j / work.seconds == pytest.approx(added_w * scene.fleet.site_of(work.pool).pue, rel=0.25)
