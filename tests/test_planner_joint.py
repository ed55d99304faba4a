"""All batches at once: cheaper where who is due first would take what another has no other place for, and always safe."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from batchsched.planner import Problem, make_plan, prepared
from batchsched.planner import joint as module
from batchsched.planner.greedy import greedy
from batchsched.planner.joint import joint
from batchsched.planner.verify import violations

from .planner_cases import fleet_problem, job, pool, seeds, slots


def two() -> Problem:
    """Who is due first may go to either pool, and cleanest to the one that the other one needs now or in a dirty hour."""
    pools = [pool("a", [100.0, 500.0]), pool("b", [110.0, 500.0])]
    return Problem(slots(2), pools, [job("first", {"a": 900.0, "b": 900.0}, 900.0), job("second", {"a": 900.0}, 1800.0)])


def test_who_is_due_first_leaves_the_place_that_another_needs() -> None:
    problem = two()
    fine, due = prepared(problem)
    alone, plan = greedy(fine, due), make_plan(problem, "greedy")
    assert [(a.batch_id, a.pool, a.slot_index) for a in alone.allotments] == [("first", "a", 0), ("second", "a", 1)]
    assert [(a.batch_id, a.pool, a.slot_index) for a in plan.allotments] == [("second", "a", 0), ("first", "b", 0)]
    assert plan.objective < alone.objective


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_it_is_safe_and_never_dearer(seed: int) -> None:
    problem = fleet_problem(seed, jobs=8)
    fine, due = prepared(problem)
    found = joint(fine, due)
    assert found is None or not violations(fine, found)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MOST_COLUMNS", 0)
        alone = make_plan(problem, "greedy")
    assert make_plan(problem, "greedy").objective <= alone.objective + 1e-6


def test_the_same_problem_makes_the_same_plan() -> None:
    problem = fleet_problem(5, jobs=12)
    assert make_plan(problem, "greedy") == make_plan(problem, "greedy")


def test_a_large_problem_goes_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_COLUMNS", module.CELLS)
    assert joint(*prepared(two())) is None


def test_where_the_program_fails_the_greedy_plan_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no such solver")

    monkeypatch.setattr(module, "LinearProgram", fail)
    plan = make_plan(two(), "greedy")
    assert {a.pool for a in plan.allotments} == {"a"}
    assert any("no such solver" in note for note in plan.notes)
