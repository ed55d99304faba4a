"""What the last plan leaves: where the search for the next one begins."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings

from batchsched.planner import Allotment, Plan, make_plan
from batchsched.planner.classes import classes
from batchsched.planner.due import due_times
from batchsched.planner.fleet_problem import fleet_plan
from batchsched.planner.greedy import greedy
from batchsched.planner.last import standing, standing_work
from batchsched.planner.problem import Problem, Stood, cut
from batchsched.planner.verify import violations

from .planner_cases import fleet_problem, job, pool, seeds, slots


def test_what_is_past_is_gone_and_what_is_under_way_is_cut() -> None:
    plan = Plan(slots(3), [Allotment("x", "a", t, 900.0 * t, 900.0 * (t + 1), 1.0, 600.0) for t in range(3)])
    assert standing(plan, 1200.0) == [Stood("x", "a", 0.0, 600.0, 400.0), Stood("x", "a", 600.0, 1500.0, 600.0)]


def test_work_moves_into_the_slots_that_take_over_its_time_and_never_grows() -> None:
    problem = Problem(slots(3), [pool("a", [100.0] * 3)], [job("x", 700.0, 2700.0)])
    stood = [Stood("x", "a", 600.0, 1500.0, 600.0), Stood("x", "a", 1500.0, 2400.0, 600.0), Stood("gone", "a", 0.0, 900.0, 1.0)]
    work = standing_work(msgspec.structs.replace(problem, standing=stood))
    assert {t: pytest.approx(s) for (_, _, t), s in work.items()} == {0: 200.0, 1: 400.0 + 100 * 300 / 900, 2: 100 * 600 / 900}


def test_what_stood_is_where_the_search_begins() -> None:
    """With next to no work granted, the plan that a long search made comes back, and a job more in it."""
    problem = fleet_problem(7, jobs=12)
    before = make_plan(msgspec.structs.replace(problem, jobs=problem.jobs[:-1]), work_s=3.0)
    warm = msgspec.structs.replace(problem, standing=standing(before, 0.0))
    found, cold, simple = make_plan(warm, work_s=0.1), make_plan(problem, work_s=0.1), make_plan(problem, "greedy")
    assert before.solver != "greedy"
    assert violations(warm, found) == []
    assert found.objective < cold.objective
    assert found.objective < simple.objective


@pytest.mark.slow
def test_the_fleets_solver_begins_there_too() -> None:
    """What stood is a plan before the linear program is solved."""
    problem = fleet_problem(1, jobs=16, load=0.4)
    due = due_times(problem)
    fine = cut(problem, [at for at in due.values() if at > 0])
    warm = msgspec.structs.replace(fine, standing=standing(greedy(fine, due), 0.0))
    found = fleet_plan(warm, due, classes(warm, due), most_work=1)
    assert found is not None
    assert violations(problem, found) == []
    assert found.objective < 1.1 * greedy(fine, due).objective


@settings(max_examples=10, deadline=None, derandomize=True)
@given(seeds, seeds)
def test_whatever_stood_the_plan_is_safe_and_no_worse_than_greedy(seed: int, other: int) -> None:
    problem, before = fleet_problem(seed), make_plan(fleet_problem(other), "greedy")
    warm = msgspec.structs.replace(problem, standing=standing(before, float(other % 5000)))
    plan = make_plan(warm, work_s=0.02)
    assert violations(warm, plan) == []
    assert plan.objective <= make_plan(problem, "greedy").objective * (1 + 1e-9)
    assert not plan.notes or "unsafe" not in plan.notes[-1]
