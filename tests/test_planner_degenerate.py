"""make_plan on what nobody means to ask: it always answers, with a safe plan, and no solver falls over."""

from __future__ import annotations

import math
from typing import Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchsched.planner import Job, PoolState, Problem, make_plan
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
