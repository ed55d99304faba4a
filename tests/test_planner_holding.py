"""Engines between their uses: kept ready where that weighs less than starting them again, and the plan says so."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given, settings

from batchsched.planner import Plan, Problem, make_plan, prepared
from batchsched.planner.classes import classes
from batchsched.planner.cost import assess
from batchsched.planner.cpsat import configurations
from batchsched.planner.fleet_problem import fleet_plan
from batchsched.planner.price import price
from batchsched.planner.verify import violations
from batchsched.published import Published
from batchsched.units import JOULES_PER_KWH

from .planner_cases import fleet_problem, job, pool, seeds, slots

NOW = datetime(2026, 5, 1, tzinfo=UTC)
IDLE_W, START_S, DIRTY, CLEAN = 200.0, 100.0, 900.0, 100.0


def gap(empty: int, idle_w: float = IDLE_W) -> Problem:
    """A clean slot, so many dirty ones, and two clean ones; three slots of work: a start weighs what idling in 500 s does."""
    levels = [CLEAN, *[DIRTY] * empty, CLEAN, CLEAN]
    one = job("x", 2400.0, 900.0 * len(levels), startup_s_on={"a": START_S}, idle_w_on={"a": idle_w})
    return Problem(slots(len(levels)), [pool("a", levels)], [one])


def idle_s(plan: Plan) -> float:
    return sum(hold.seconds for hold in plan.holds)


@pytest.mark.parametrize("solver", ["greedy", "cp-sat"])
def test_an_engine_starts_again_after_a_long_gap(solver: str) -> None:
    plan = make_plan(gap(4), solver, 0.2)  # type: ignore[arg-type]
    assert sum(load.starts for load in plan.loads) == 2
    assert idle_s(plan) == 0.0
    assert not plan.late


@pytest.mark.parametrize("solver", ["greedy", "cp-sat"])
def test_an_engine_is_kept_where_that_weighs_less(solver: str) -> None:
    problem = gap(1, idle_w=5.0)
    plan = make_plan(problem, solver, 0.2)  # type: ignore[arg-type]
    assert sum(load.starts for load in plan.loads) == 1
    (hold,) = plan.holds
    assert (hold.batch_id, hold.model, hold.pool, hold.slot_index, hold.power_w) == ("x", "m", "a", 1, 5.0)
    free = make_plan(gap(1, idle_w=0.0), solver, 0.2)  # type: ignore[arg-type]
    idle_g = 5.0 * hold.seconds / JOULES_PER_KWH * DIRTY
    assert plan.grams_expected["x"] == pytest.approx((free.grams_expected["x"] or 0.0) + idle_g)
    assert plan.objective == pytest.approx(free.objective + idle_g, rel=1e-3)
    assert plan.grams_interval is not None
    assert plan.grams_interval.expected == pytest.approx(plan.grams_expected["x"])


def test_greedy_leaves_time_for_another_start_where_it_will_not_wait() -> None:
    """Three clean slots, full with their work and two starts."""
    one = job("x", 2500.0, 900.0 * 7, startup_s_on={"a": START_S}, idle_w_on={"a": IDLE_W})
    plan = make_plan(Problem(slots(7), [pool("a", [CLEAN, *[DIRTY] * 4, CLEAN, CLEAN])], [one]), "greedy")
    assert [(load.slot_index, load.starts) for load in plan.loads] == [(0, 1), (5, 1)]
    assert {a.slot_index for a in plan.allotments} == {0, 5, 6}
    assert plan.holds == []


def test_what_runs_through_does_not_idle() -> None:
    busy = Problem(slots(3), [pool("a", [CLEAN] * 3)], [job("x", 2000.0, 2700.0, idle_w_on={"a": IDLE_W})])
    assert idle_s(make_plan(busy, "greedy")) == 0.0


def test_the_verifier_counts_what_waits() -> None:
    problem = gap(1, idle_w=5.0)
    plan = make_plan(problem, "greedy")
    assert violations(problem, plan) == []
    broken = violations(problem, msgspec.structs.replace(plan, holds=[]))
    assert any("waits in slot 1" in text for text in broken), broken


def idling(seed: int, idle_w: float = 150.0) -> Problem:
    problem = fleet_problem(seed)
    jobs = [msgspec.structs.replace(one, idle_w_on=dict.fromkeys(one.seconds_on, idle_w)) for one in problem.jobs]
    return msgspec.structs.replace(problem, jobs=jobs)


@settings(max_examples=30, deadline=None)
@given(seeds)
def test_greedy_plans_say_what_waits(seed: int) -> None:
    make_plan(idling(seed), "greedy")  # it is verified


@settings(max_examples=4, deadline=None)
@given(seeds)
def test_a_solved_plan_weighs_no_more(seed: int) -> None:
    problem = idling(seed)
    greedy, solved = make_plan(problem, "greedy"), make_plan(problem, "cp-sat", 0.3)
    assert not [note for note in solved.notes if "failed" in note or "unsafe" in note]
    assert solved.objective <= greedy.objective * (1 + 1e-9)


@pytest.mark.slow
def test_a_solver_that_knows_of_idling_beats_one_that_does_not() -> None:
    known = blind = 0.0
    for seed in range(3):
        problem = idling(seed, 600.0)
        fine, due = prepared(problem)
        free = make_plan(idling(seed, 0.0), "cp-sat", 0.3)
        known += make_plan(problem, "cp-sat", 0.3).objective
        blind += assess(fine, price(fine), due, free.allotments, free.loads).objective
    assert known < blind


@pytest.mark.slow
def test_the_fleets_solver_weighs_idling() -> None:
    problem = idling(3)
    fine, due = prepared(problem)
    groups = classes(fine, due)
    assert configurations(groups)
    plan = fleet_plan(fine, due, groups, 200)
    assert plan is not None
    assert violations(problem, plan) == []


@pytest.mark.parametrize(("idle_w", "kept"), [(5.0, {"m": 1}), (IDLE_W, {})])
def test_a_worker_keeps_the_engine_that_the_plan_counts_on(idle_w: float, kept: dict[str, int]) -> None:
    problem = gap(1 if idle_w < IDLE_W else 4, idle_w)
    plan = make_plan(problem, "greedy")
    published = Published(NOW, problem, plan, {})
    assert published.kept("a", NOW + timedelta(seconds=1000)) == kept
    assert published.kept("a", NOW + timedelta(days=1)) == {}
    assert published.kept("b", NOW) == {}
