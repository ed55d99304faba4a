"""Engines that start for a short while: their work goes to others that run anyway, where that weighs no more than they do."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given, settings

from batchsched.planner import Plan, Problem, make_plan, prepared
from batchsched.planner.greedy import greedy
from batchsched.planner.runs import merged
from batchsched.planner.verify import violations

from .planner_cases import fleet_problem, job, pool, seeds, slots


def brief(levels: list[float], min_run_s: float) -> Problem:
    """Two replicas, and work that both could do in one clean slot."""
    one = job("x", 1500.0, 900.0 * len(levels), startup_s_on={"a": 100.0}, idle_w_on={"a": 50.0}, max_replicas=2)
    return Problem(slots(len(levels)), [pool("a", levels, 2)], [one], min_run_s=min_run_s)


def starts(plan: Plan) -> int:
    return sum(load.starts for load in plan.loads)


@pytest.mark.parametrize("solver", ["greedy", "cp-sat"])
def test_one_engine_runs_longer_in_place_of_two_that_run_shortly(solver: str) -> None:
    levels = [500.0, 100.0, 110.0, 500.0]
    plan = make_plan(brief(levels, 1800.0), solver, 0.2)  # type: ignore[arg-type]
    assert starts(plan) == 1
    assert not plan.late
    assert {a.slot_index for a in plan.allotments} == {1, 2}
    assert not [note for note in plan.notes if "engine starts" in note]
    assert starts(make_plan(brief(levels, 0.0), "greedy")) == 2


def test_a_short_run_stays_where_its_work_would_weigh_too_much_elsewhere() -> None:
    plan = make_plan(brief([5000.0, 10.0, 5000.0, 5000.0], 1800.0), "greedy")
    assert starts(plan) == 2
    assert any("2 engine starts last less than 1800 s" in note for note in plan.notes)


def test_a_least_run_that_is_no_number_is_none() -> None:
    plan = make_plan(brief([100.0] * 3, math.nan), "greedy")
    assert any("least run" in note for note in plan.notes)


@settings(max_examples=40, deadline=None)
@given(seeds)
def test_rules_hold_and_nothing_is_later(seed: int) -> None:
    problem = fleet_problem(seed)
    jobs = [msgspec.structs.replace(one, idle_w_on=dict.fromkeys(one.seconds_on, 100.0)) for one in problem.jobs]
    problem = msgspec.structs.replace(problem, jobs=jobs, min_run_s=900.0 * (1 + seed % 4))
    fine, due = prepared(problem)
    before = greedy(fine, due)
    after = merged(fine, due, before)
    assert violations(problem, after) == []
    assert starts(after) <= starts(before)
    for late in (after.late, after.later):
        assert sum(late.values()) <= sum((before.late | before.later).values()) + 1e-6
