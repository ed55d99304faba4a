"""make_plan on what nobody means to ask: it always answers, with a safe plan, and no solver falls over."""

from __future__ import annotations

import math
from typing import Literal

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
