"""make_plan against brute force on tiny problems: what it finds is optimal or within the gap that it proves."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings

from batchsched.planner import Problem, make_plan
from batchsched.planner import cpsat as solvers
from batchsched.planner.due import due_times
from batchsched.planner.problem import cut

from .brute_plan import least_objective
from .planner_cases import job, pool, seeds, slots

ROUNDING = 0.05
"""Work is counted in thousandths of a slot, speeds too: where a job fills odd slots to the brim, a little of it spills."""


def tiny(seed: int) -> Problem:
    """Two pools, four slots, up to four jobs of two models, some of them impossible."""
    draw = random.Random(seed)
    pools = [
        pool(
            name,
            [draw.choice([20.0, 100.0, 300.0, 301.0]) for _ in range(4)],
            2,
            capacity=[draw.choice([0.0, 1.0, 2.0]) for _ in range(4)],
            loaded=draw.choice([[], ["m"], ["n", "n"]]),
        )
        for name in "ab"
    ]
    startup = draw.choice([0.0, 60.0, 400.0])
    slow, sigma = draw.choice([1.0, 2.0]), draw.choice([0.0, 0.0, 0.1])
    jobs = []
    for i in range(draw.randint(1, 4)):
        work = draw.choice([200.0, 500.0, 900.0, 1800.0])
        on = {name: work * (slow if name == "b" else 1.0) for name in draw.choice(["a", "ab", "ab"])}
        late = draw.random() < 0.25
        more = {"sigma": sigma, "weight": draw.choice([1.0, 1.0, 4.0]), "finish_late": late, "model": draw.choice("mn")}
        jobs.append(
            job(
                f"j{i}", on, draw.choice([900.0, 1300.0, 2700.0, 3600.0, 7200.0]), startup_s_on=dict.fromkeys(on, startup), **more
            )
        )
    return Problem(slots(4), pools, jobs)


def least(problem: Problem) -> float:
    """By brute force, in the slots that make_plan uses too."""
    due = due_times(problem)
    instants = {at for one in problem.jobs for at in (due[one.batch_id], one.deadline_s) if at > 0}
    return least_objective(cut(problem, instants), due)


@settings(max_examples=40, deadline=None)
@given(seeds)
def test_plans_are_optimal_or_within_their_gap(seed: int) -> None:
    problem = tiny(seed)
    best = least(problem)
    plan, greedy = make_plan(problem, work_s=3.0), make_plan(problem, "greedy")
    room = ROUNDING * best + 1e-6
    assert plan.bound is not None
    assert plan.bound <= best + room, "no plan costs less than its bound"
    assert best - room <= plan.objective <= greedy.objective + 1e-9
    assert plan.objective <= best + (plan.objective - plan.bound) + room
    assert greedy.objective >= plan.bound - room, "greedy beats the planner by no more than its gap"


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(seeds)
def test_the_fleets_solver_keeps_to_its_bound(seed: int) -> None:
    problem = tiny(seed)
    best = least(problem)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(solvers, "MOST_VARIABLES", 0)
        plan = make_plan(problem, work_s=1.0)
    assert plan.bound is not None
    assert plan.bound <= best + ROUNDING * best + 1e-6
    assert plan.objective >= best - ROUNDING * best - 1e-6
