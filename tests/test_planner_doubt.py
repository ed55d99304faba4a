"""What may come on top of the expected work: errors of profiles, lengths and capacity, and failures."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from batchsched.planner import Problem, make_plan
from batchsched.planner.doubt import Doubt
from batchsched.planner.due import due_times
from batchsched.planner.latest_start import latest_safe_starts, open_pools
from batchsched.planner.problem import SURE, Supply
from batchsched.planner.verdict import verdict

from .planner_cases import job, pool, slots

WIDER = {
    "profile": ({"sigma": 0.1}, {"sigma": 0.4}, SURE, SURE),
    "lengths": ({"sigma_own": 0.1}, {"sigma_own": 0.4}, SURE, SURE),
    "capacity": ({}, {}, Supply(sigma=0.05), Supply(sigma=0.3)),
    "capacity of slots": ({}, {}, Supply(slot_sigma=0.1), Supply(slot_sigma=0.6)),
    "failures": ({}, {}, Supply(failures_per_replica_h=0.01, repair_s=900), Supply(failures_per_replica_h=0.2, repair_s=900)),
}


@pytest.mark.parametrize(
    "doubt", [Doubt(0.2, 0.1), Doubt(0.2, 0.1, 0.05, 0.4), Doubt(0.0, 0.1, 2.0, 0.1), Doubt(0.1, 0, 150, 0.01)]
)
def test_factors_and_probabilities_are_what_draws_show(doubt: Doubt) -> None:
    rng = np.random.default_rng(1)
    times = np.exp(rng.normal(-(doubt.spread**2) / 2, doubt.spread, 200_000)) + doubt.stop * rng.poisson(doubt.stops, 200_000)
    for asked in (0.9, 0.99):
        kept = (times <= doubt.factor(asked)).mean()
        assert asked - 0.002 <= kept <= asked + 0.7 * (1 - asked)  # never less than was asked, nor much more
    for most in (0.8, 1.1, 1.5):
        assert doubt.within(most) == pytest.approx((times <= most).mean(), abs=0.01)
    assert doubt.within(0) == 0
    assert doubt.within(math.inf) == 1


@pytest.mark.parametrize("name", WIDER)
def test_wider_means_earlier_and_less_likely(name: str) -> None:
    """Due times, latest safe starts and the verdict's probability, when one spread widens."""
    narrow, wide, sure, shaky = WIDER[name]
    found = []
    for own, supply in ((narrow, sure), (wide, shaky)):
        jobs = [job(f"j{i}", 6000.0, 14_400.0, **own) for i in range(2)]
        problem = Problem(slots(20), [pool("a", [100.0] * 20, supply=supply)], jobs)
        starts = latest_safe_starts(jobs, open_pools(problem))
        chance = verdict(problem, make_plan(problem, "greedy"), "j1").probability
        found.append((min(due_times(problem).values()), min(starts.values()), chance))
    assert found[0][0] > found[1][0]
    assert found[0][1] > found[1][1]
    assert found[0][2] > found[1][2]


def test_independent_errors_pool_and_common_ones_add_up() -> None:
    def due(count: int, supply: Supply, **own: float) -> float:
        jobs = [job(f"j{i}", 900.0, 18_000.0, **own) for i in range(count)]
        return 18_000 - min(due_times(Problem(slots(20), [pool("a", [100.0] * 20, supply=supply)], jobs)).values())

    failing = Supply(failures_per_replica_h=0.1, repair_s=300.0)
    for common, own in (({"sigma": 0.2}, {"sigma_own": 0.2}),):
        assert due(9, SURE, **common) == pytest.approx(9 * due(1, SURE, **common), rel=0.01)
        assert due(9, SURE, **own) < 4 * due(1, SURE, **own)
    assert due(9, Supply(sigma=0.2)) > 8.9 * due(1, Supply(sigma=0.2))
    assert due(9, failing) < 5 * due(1, failing)


def test_what_is_due_earlier_is_in_doubt_too() -> None:
    """A job behind others of the same, badly known model: their errors are its own."""
    jobs = [job(f"j{i}", 2000.0, 9000.0 + i, sigma=0.3) for i in range(4)]
    problem = Problem(slots(20), [pool("a", [100.0] * 20)], jobs)
    plan = make_plan(problem, "greedy")
    sure = msgspec.structs.replace(problem, jobs=[*(msgspec.structs.replace(j, sigma=0.0) for j in jobs[:3]), jobs[3]])
    rng = np.random.default_rng(3)
    common = np.exp(rng.normal(-0.045, 0.3, 100_000))
    assert verdict(problem, plan, "j3").probability == pytest.approx((8000 * common <= 9003).mean(), abs=0.01)
    assert verdict(sure, plan, "j3").probability == pytest.approx((6000 + 2000 * common <= 9003).mean(), abs=0.01)
