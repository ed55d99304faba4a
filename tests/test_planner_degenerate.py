"""make_plan on what nobody means to ask: it always answers, with a safe plan, and no solver falls over."""

from __future__ import annotations

import math
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchsched.planner import Configuration, Job, Link, PoolState, Problem, make_plan, with_interval
from batchsched.planner.problem import Effort, Risk, Stood, Supply
from batchsched.planner.sound import sound
from batchsched.planner.verdict import verdict
from batchsched.planner.verify import verify

from .planner_cases import job, pool, slots

Solver = Literal["cp-sat", "greedy"]
COUNT = 6

levels = st.sampled_from([None, 0.0, 1e-9, 1e-3, 250.0, 250.0, 1e4])
capacities = st.sampled_from([0.0, 0.0, 1e-6, 0.5, 1.0, 3.0])
seconds = st.sampled_from([1e-3, 0.5, 60.0, 899.0, 900.0, 1e4, 1e8])
deadlines = st.sampled_from([-1e9, -1.0, 0.0, 1e-3, 899.9, 900.0, 2000.0, COUNT * 900.0, 1e5, 1e9])


@st.composite
def strange_pools(draw: st.DrawFn, name: str) -> PoolState:
    """Any level of intensity, any capacity, closed or open."""
    intensity = draw(st.lists(levels, min_size=COUNT, max_size=COUNT))
    capacity = draw(st.lists(capacities, min_size=COUNT, max_size=COUNT))
    return pool(name, intensity, 3, capacity=capacity, loaded=draw(st.sampled_from([[], ["m"], ["other"] * 5])))


@st.composite
def strange_jobs(draw: st.DrawFn, name: str) -> Job:
    """Any size, any deadline, anywhere or nowhere, elsewhere too."""
    places = draw(st.lists(st.sampled_from(["a", "b", "gone"]), unique=True, max_size=3))
    return job(
        name,
        {place: draw(seconds) for place in places},
        draw(deadlines),
        remaining_requests=draw(st.sampled_from([0, 1, 2, 1_000_000])),
        startup_s_on={place: draw(st.sampled_from([0.0, 60.0, 1e5])) for place in places},
        sigma=draw(st.sampled_from([0.0, 0.3, 3.0])),
        sigma_own=draw(st.sampled_from([0.0, 0.3])),
        confidence=draw(st.sampled_from([0.5, 0.99, 0.999999])),
        weight=draw(st.sampled_from([1e-6, 1.0, 1e6])),
        finish_late=draw(st.booleans()),
        max_replicas=draw(st.sampled_from([None, 0, 1, 4])),
    )


@st.composite
def strange_problems(draw: st.DrawFn) -> Problem:
    """Up to two pools and three jobs."""
    pools = [draw(strange_pools(name)) for name in draw(st.sampled_from(["", "a", "ab"]))]
    return Problem(slots(COUNT), pools, [draw(strange_jobs(f"j{i}")) for i in range(draw(st.integers(0, 3)))])


@pytest.mark.parametrize("solver", ["greedy", "cp-sat"])
def test_any_problem_has_a_plan(solver: Solver) -> None:
    @settings(max_examples=200 if solver == "greedy" else 60, deadline=None)
    @given(strange_problems())
    def holds(problem: Problem) -> None:
        plan = make_plan(problem, solver, work_s=0.2)
        verify(problem, plan)
        assert not [note for note in plan.notes if "failed" in note or "unsafe" in note]
        assert math.isfinite(plan.objective)

    holds()


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize("solver", ["greedy", "cp-sat"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"capacity": [NAN] + [1.0] * 5}, "capacity of pool a"),
        ({"capacity": [-1.0, INF, 1.0, 1.0, 1.0, 1.0]}, "capacity of pool a"),
        ({"capacity": [1.0] * 4}, "capacity of pool a"),
        ({"intensity_g_per_kwh": [NAN, INF, 100.0, 100.0, 100.0, 100.0]}, "intensity at pool a"),
        ({"intensity_g_per_kwh": []}, "intensity at pool a"),
        ({"pue": NAN}, "PUE of pool a"),
        ({"pue": -2.0}, "PUE of pool a"),
        ({"embodied_g_per_s": NAN}, "making of pool a"),
        ({"seconds_on": {"a": NAN}}, "x on a make no sense"),
        ({"seconds_on": {"a": -5.0}}, "x on a make no sense"),
        ({"power_w_on": {"a": INF}}, "x on a make no sense"),
        ({"power_w_on": {}}, "x on a make no sense"),
        ({"startup_s_on": {"a": NAN}}, "x on a make no sense"),
        ({"deadline_s": NAN}, "deadline_s of x"),
        ({"sigma": NAN, "weight": -1.0}, "sigma and weight of x"),
        ({"confidence": 7.0}, "confidence of x"),
    ],
)
def test_nonsense_is_left_out_and_said(change: dict[str, object], said: str, solver: Solver) -> None:
    """The other job and the other pool are planned as if nothing were."""
    pools = [pool("a", [300.0] * COUNT), pool("b", [100.0] * COUNT)]
    jobs = [job("x", {"a": 600.0}, 3600.0), job("y", {"a": 600.0, "b": 600.0}, 3600.0)]
    of_pool = next(iter(change)) in PoolState.__struct_fields__
    broken = msgspec.structs.replace(pools[0] if of_pool else jobs[0], **change)
    problem = Problem(slots(COUNT), [broken, pools[1]] if of_pool else pools, jobs if of_pool else [broken, jobs[1]])  # type: ignore[list-item]
    plan = make_plan(problem, solver, 0.2)
    assert any(said in note for note in plan.notes), plan.notes
    assert {a.pool for a in plan.of("y")} == {"b"}
    assert "y" not in plan.late
    assert math.isfinite(plan.objective)


def test_slots_with_a_gap_are_refused() -> None:
    with pytest.raises(ValueError, match="gap"):
        make_plan(Problem([*slots(2), *slots(5)[3:]], [pool("a", [1.0] * 4)], [job("x", 60.0, 900.0)]))


def test_negative_intensity_counts_as_none() -> None:
    plan = make_plan(Problem(slots(4), [pool("a", [50.0, -80.0, 0.0, 50.0])], [job("x", 600.0, 3600.0)]))
    assert {a.slot_index for a in plan.allotments} == {1}
    assert plan.grams_expected == {"x": 0.0}


@pytest.mark.parametrize("solver", ["greedy", "cp-sat"])
@pytest.mark.parametrize("level", [0.0, 1e-9, 250.0, 1e6])
@pytest.mark.parametrize("seconds_each", [1e-6, 1.0, 1e6])
def test_a_million_requests_beside_one(seconds_each: float, level: float, solver: Solver) -> None:
    """Nothing overflows, and nothing is lost by rounding, whatever lies beside it."""
    jobs = [
        job("million", 1e6 * seconds_each, 5e4, remaining_requests=10**6, finish_late=True, weight=1e3),
        job("one", seconds_each, 5e4, remaining_requests=1, weight=1e-3),
    ]
    problem = Problem(slots(64), [pool("a", [level] * 64, 1000)], jobs)
    plan = make_plan(problem, solver, 0.3)
    verify(problem, plan)
    assert not [note for note in plan.notes if "failed" in note or "unsafe" in note]
    if seconds_each <= 1.0:
        assert not plan.late
    assert math.isfinite(plan.objective)


def whole_problem() -> Problem:
    """Small, with something in every field."""
    supply = Supply(0.1, 0.1, 900.0, 0.01, 300.0)
    more: dict[str, Any] = {"supply": supply, "energy_sigma": 0.1, "embodied_g_per_s": 0.01, "embodied_sigma": 0.2}
    pools = [pool(name, [300.0, 100.0, 200.0, None, 50.0, 400.0], 2, price_g_per_s=0.01, **more) for name in "ab"]
    shared = Configuration("big", {"a": 1.0, "b": 0.5}, {"wire": 2.0}, "disaggregated")
    on = {"a": 600.0, "b": 900.0, "both": 400.0}
    x = job("x", on, 4000.0, sigma=0.2, sigma_own=0.2, configurations={"both": shared}, max_replicas=4, finish_late=True)
    x = msgspec.structs.replace(x, as_named={"gone": Effort(1.0, 1.0, 1.0)}, transfer_g_on=dict.fromkeys(on, 3.0))
    y = job("y", {"a": 300.0, "b": 300.0}, 3000.0, sigma=0.1, load_g_on={"a": 2.0, "b": 2.0})
    return Problem(
        slots(COUNT),
        pools,
        [x, y],
        scenarios={f"zone-{name}": [[100.0 * n + t for t in range(COUNT)] for n in (1, 2, 4)] for name in "ab"},
        risk=Risk(0.5),
        links=[Link("wire", [4.0] * COUNT)],
        standing=[Stood("x", "a", 0.0, 900.0, 300.0), Stood("y", "b", 900.0, 1800.0, 300.0)],
        transfer_sigma=0.2,
        churn=0.01,
    )


def spoiled(data: st.DataObject, value: Any, path: list[str]) -> Any:
    """The value with nonsense somewhere in it; `path` grows by where, and by what."""
    if isinstance(value, msgspec.Struct):
        kept = {"slots", "batch_id", "key", "model", "tenant", "site", "zone", "name", "kind", "mode", "measure", "newness"}
        kept |= {"simulated", "home", "loaded", "finish_late", "uniform"}
        name = data.draw(st.sampled_from([name for name in value.__struct_fields__ if name not in kept]))
        path.append(name)
        return msgspec.structs.replace(value, **{name: spoiled(data, getattr(value, name), path)})
    if isinstance(value, list) and (not value or data.draw(st.integers(0, 3)) == 0):
        path.append("length")
        return data.draw(st.sampled_from([[], value[:1], value + value]))
    if isinstance(value, list):
        at = data.draw(st.integers(0, len(value) - 1))
        return [*value[:at], spoiled(data, value[at], path), *value[at + 1 :]]
    if isinstance(value, dict):
        if not value or data.draw(st.integers(0, 5)) == 0:
            return {}
        at = data.draw(st.sampled_from(sorted(value)))
        return {**value, at: spoiled(data, value[at], path)}
    whole = isinstance(value, int) or path[-1] == "max_replicas"
    path.append(
        str(found := data.draw(st.sampled_from([-1, 0, 10**300] if whole else [NAN, INF, -INF, -1.0, 0.0, 1e300, 40.0, 1e-300])))
    )
    return found


@pytest.mark.parametrize("solver", ["greedy", "cp-sat"])
def test_nonsense_anywhere_never_takes_the_plan_away(solver: Solver) -> None:
    whole = whole_problem()

    @settings(max_examples=100 if solver == "greedy" else 8, deadline=None, derandomize=True)
    @given(st.data())
    def holds(data: st.DataObject) -> None:
        path: list[str] = []
        problem = spoiled(data, whole, path)
        plan, fine = make_plan(problem, solver, work_s=0.02), sound(problem)[0]
        verify(fine, plan)
        assert not [
            note for note in plan.notes if "failed" in note or "unsafe" in note or "could not" in note or "cannot" in note
        ]
        if path[-1] == "nan" and path[0] != "standing":
            assert any("makes no sense" in note for note in plan.notes), path
        interval = [plan.grams_interval.p10, plan.grams_interval.p90] if plan.grams_interval else []
        shown = [plan.objective, plan.bound, *plan.grams_expected.values(), *interval]
        for one in problem.jobs:
            found = verdict(problem, plan, one.batch_id)
            assert 0 <= found.probability <= 1, path
            shown += [found.expected_finish_s, found.expected_grams, found.expected_grams_run_now]
        assert all(value is None or math.isfinite(value) for value in shown), (path, shown)

    holds()


def test_of_what_is_there_twice_the_first_counts() -> None:
    whole = whole_problem()
    again = msgspec.structs.replace(whole.jobs[1], seconds_on={"a": 1e9}, power_w_on={"a": 1.0}, startup_s_on={"a": 0.0})
    doubled = msgspec.structs.replace(whole, jobs=[*whole.jobs, again], pools=[*whole.pools, whole.pools[0]])
    plan = make_plan(doubled, "greedy")
    assert plan.allotments == make_plan(whole, "greedy").allotments
    assert "pool a is there twice" in plan.notes[-1]
    assert "job y is there twice" in plan.notes[-1]


def test_a_figure_that_is_only_shown_never_takes_the_plan_away() -> None:
    whole = whole_problem()
    plan = make_plan(whole, "at-once")
    short = msgspec.structs.replace(whole, scenarios={"zone-a": [[1.0]]})
    found = with_interval(short, msgspec.structs.replace(plan, grams_interval=None))
    assert found.allotments == plan.allotments
    assert found.grams_interval is None
    assert "cannot be told" in found.notes[-1]
