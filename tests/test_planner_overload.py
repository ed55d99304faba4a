"""Where not everything can be in time: never an infeasible answer, as little late as can be, and a stated rule which it is."""

from __future__ import annotations

import math
from typing import Literal

import pytest

from batchsched.planner import Problem, make_plan, prepared
from batchsched.planner.classes import classes
from batchsched.planner.fairness import Turns, Want, contested
from batchsched.planner.fleet_problem import fleet_plan
from batchsched.planner.greedy import greedy
from batchsched.planner.latest_start import OpenPool, latest_safe_starts
from batchsched.planner.verify import violations

from .planner_cases import job, pool, slots

Solver = Literal["cp-sat", "greedy"]


def late_s(problem: Problem, solver: Solver) -> dict[str, float]:
    """Seconds of each job that the plan counts as late."""
    plan = make_plan(problem, solver)
    each = {j.batch_id: j.seconds_on["a"] / j.remaining_requests for j in problem.jobs}
    return {name: requests * each[name] for name, requests in plan.late.items()}


@pytest.mark.parametrize("solver", ["greedy", "cp-sat"])
@pytest.mark.parametrize("finish_late", [False, True])
def test_no_more_is_late_than_there_is_no_room_for(solver: Solver, finish_late: bool) -> None:
    jobs = [job(f"j{i}", 1500.0, 3600.0, finish_late=finish_late) for i in range(4)]
    problem = Problem(slots(8), [pool("a", [100.0] * 8)], jobs)
    assert sum(late_s(problem, solver).values()) == pytest.approx(4 * 1500 - 3600, rel=0.02)
    plan = make_plan(problem, solver)
    after = sum(a.seconds for a in plan.allotments if a.start_s >= 3600)
    assert after == pytest.approx(2400 if finish_late else 0, rel=0.02)  # the rest is given up, or done as soon as it can be


@pytest.mark.parametrize("solver", ["greedy", "cp-sat"])
def test_what_weighs_most_is_late_last(solver: Solver) -> None:
    jobs = [job(f"j{i}", 1500.0, 3600.0, weight=weight) for i, weight in enumerate((1.0, 3.0, 1.0, 3.0))]
    late = late_s(Problem(slots(8), [pool("a", [100.0] * 8)], jobs), solver)
    assert set(late) == {"j0", "j2"}
    assert sum(late.values()) == pytest.approx(2400, rel=0.02)


def test_deadlines_within_reach_go_first_and_the_rest_is_shared_by_weight() -> None:
    """A hopeless batch takes nothing from one that can make it; where some must be late, tenants share by weight."""
    pools = [OpenPool("a", 1, [(-1e6, 1e6)])]
    jobs = [job("hopeless", 9000.0, 3000.0, tenant="x"), job("tight", 3000.0, 3500.0, tenant="y")]
    starts, out = latest_safe_starts(jobs, pools), contested(jobs, pools)
    assert out == {"hopeless"}
    assert all(at <= 500 for at in starts.values())
    due = [Want(j.batch_id, j.tenant, "m", j.deadline_s, 0, 1e9, 1.0, 0.0, j.batch_id not in out) for j in jobs]
    first, _ = Turns(due, {"y": 1e6}, {"x": 9.0}).pick(["m"])
    assert first is not None
    assert first.batch_id == "tight"

    rivals = [job("p", 5000.0, 6000.0, tenant="x"), job("q", 5000.0, 6000.0, tenant="y")]
    assert contested(rivals, pools) == {"p", "q"}
    turns = Turns([Want(j.batch_id, j.tenant, "m", j.deadline_s, 0, 1e9, 1.0, 0.0, False) for j in rivals], {}, {"x": 3.0})
    served = dict.fromkeys("pq", 0)
    for _ in range(400):
        took, _ = turns.pick(["m"])
        assert took is not None
        turns.took(took, 10)
        served[took.batch_id] += 10
    assert served["p"] / served["q"] == pytest.approx(3, rel=0.02)


@pytest.mark.slow
def test_due_times_are_given_up_before_deadlines_are() -> None:
    """There is work for all of the time, and half of it is unsure."""
    on = {"a": 6480.0, "b": 6480.0}
    jobs = [
        job(
            f"b{i:02}",
            on,
            21600 * (0.335 + 0.035 * i),
            sigma=0.3 * (i % 2),
            model=f"m{i % 2}",
            startup_s_on=dict.fromkeys(on, 30.0),
        )
        for i in range(20)
    ]
    waves = ([300 + 200 * wave(t / 4) for t in range(24)] for wave in (math.sin, math.cos))
    fine, due = prepared(Problem(slots(24), [pool(name, wave, 3) for name, wave in zip("ab", waves, strict=True)], jobs))
    start = greedy(fine, due)
    plan = fleet_plan(fine, due, classes(fine, due), 6000, 0, start)
    assert plan is not None
    assert violations(fine, plan) == []
    assert sum(plan.late.values()) < 0.7 * sum(start.late.values())
