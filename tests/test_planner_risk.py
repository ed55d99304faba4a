"""What uncertain grams do to a plan: its interval widens, and as far as risk weighs, it turns to what is surer and spreads."""

from __future__ import annotations

import math
import random
from typing import Any, Literal

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings

from batchsched.planner import Plan, PoolState, Problem, make_plan
from batchsched.planner.futures import Futures
from batchsched.planner.problem import Risk
from batchsched.planner.risk import measured
from batchsched.planner.verify import violations

from .planner_cases import fleet_problem, job, pool, seeds, slots

FUTURES = 40


def futures_of(pools: list[PoolState], spread: float, seed: int = 1) -> dict[str, list[list[float]]]:
    """Zones that err independently, whole futures at a time."""
    rng = np.random.default_rng(seed)
    found = {}
    for state in pools:
        off = np.exp(rng.permutation(np.linspace(-2, 2, FUTURES)) * spread)
        found[state.zone] = [[float(o * (g or 0.0)) for g in state.intensity_g_per_kwh] for o in off]
    return found


def at(risk: float, problem: Problem, measure: Literal["mean", "quantile", "cvar"] = "cvar", level: float = 0.9) -> Problem:
    return msgspec.structs.replace(problem, risk=Risk(risk, measure, level))


def counted(problem: Problem, plan: Plan, risk: Risk) -> float:
    """On the problem in the plan's slots."""
    from batchsched.planner.problem import cut

    fine = cut(problem, [slot.end_s for slot in plan.slots])
    assert len(fine.slots) == len(plan.slots)
    return measured(Futures(fine).grams(plan.uses), risk)


def share_on(plan: Plan, name: str) -> float:
    return sum(a.requests for a in plan.on(name)) / sum(a.requests for a in plan.allotments)


def two_zones(spread: float, second: float = 110.0) -> Problem:
    """A slightly dirtier zone beside a clean one, with room for all in each."""
    pools = [pool("a", [100.0] * 8, 4), pool("b", [second] * 8, 4)]
    return Problem(slots(8), pools, [job("x", {"a": 7200.0, "b": 7200.0}, 7200.0)], futures_of(pools, spread))


def test_wider_intensity_spreads_over_zones_as_far_as_risk_weighs() -> None:
    assert share_on(make_plan(two_zones(0.5)), "a") == 1
    assert share_on(make_plan(at(1.0, two_zones(0.01))), "a") == pytest.approx(1, abs=0.01)
    wide = two_zones(0.5)
    plan = make_plan(at(1.0, wide))
    assert 0.2 < share_on(plan, "a") < 0.8
    assert violations(wide, plan) == []
    cvar = Risk(1.0)
    assert counted(wide, plan, cvar) < 0.95 * counted(wide, make_plan(wide), cvar)
    assert share_on(make_plan(at(1.0, wide, "mean")), "a") == 1
    quantile = make_plan(at(1.0, wide, "quantile"))
    assert counted(wide, quantile, Risk(1.0, "quantile")) < counted(wide, make_plan(wide), Risk(1.0, "quantile"))


@pytest.mark.parametrize("what", ["energy", "embodied", "communication"])
def test_wider_energy_embodied_and_communication_widen_the_interval_and_turn_to_the_surer(what: str) -> None:
    def problem(sigma: float) -> Problem:
        of_pool: dict[str, dict[str, Any]] = {
            "energy": {"energy_sigma": sigma},
            "embodied": {"embodied_sigma": sigma, "embodied_g_per_s": 0.05},
            "communication": {},
        }
        making = of_pool[what].get("embodied_g_per_s", 0.0)
        pools = [pool("a", [100.0] * 8, 4, **of_pool[what]), pool("b", [115.0] * 8, 4, embodied_g_per_s=making)]
        moved = {"transfer_g_on": {"a": 100.0}} if what == "communication" else {}
        if moved:
            pools = [pool("a", [100.0] * 8, 4), pool("b", [160.0] * 8, 4)]
        task = job("x", {"a": 7200.0, "b": 7200.0}, 7200.0, **moved)
        return Problem(slots(8), pools, [task], transfer_sigma=sigma)

    narrow, wide = make_plan(problem(0.1)).grams_interval, make_plan(problem(0.6)).grams_interval
    assert narrow is not None
    assert wide is not None
    assert wide.expected == pytest.approx(narrow.expected)
    assert wide.p90 - wide.p10 > 3 * (narrow.p90 - narrow.p10)
    assert share_on(make_plan(problem(0.6)), "a") == 1
    assert share_on(make_plan(at(1.0, problem(0.6))), "a") < 0.6


def test_the_interval_holds_eight_of_ten_and_counts_profiles_and_lengths() -> None:
    rng = np.random.default_rng(5)
    pools = [pool("a", [200.0] * 8, 4, energy_sigma=0.3)]
    jobs = [job(f"j{i}", 1800.0, 7200.0, sigma=0.2, sigma_own=0.3) for i in range(3)]
    found = make_plan(Problem(slots(8), pools, jobs)).grams_interval
    assert found is not None
    common = np.exp(rng.normal(0, math.hypot(0.3, 0.2), 50_000) - (0.3**2 + 0.2**2) / 2)
    grams = 100.0 * common * sum(np.exp(rng.normal(0, 0.3, 50_000) - 0.045) for _ in jobs)
    assert found.expected == pytest.approx(300.0)
    assert (grams < found.p10).mean() == pytest.approx(0.1, abs=0.025)
    assert (grams > found.p90).mean() == pytest.approx(0.1, abs=0.025)
    assert make_plan(Problem(slots(8), [pool("a", [None] * 8)], jobs)).grams_interval is None


@settings(max_examples=15, deadline=None)
@given(seeds)
def test_never_worse_than_the_plan_for_the_mean(seed: int) -> None:
    problem = fleet_problem(seed, jobs=5, count=12)
    problem = msgspec.structs.replace(problem, scenarios=futures_of(problem.pools, 0.4, seed))
    for measure in ("cvar", "quantile"):
        risky = at(0.7, problem, measure)
        plan, mean = make_plan(risky, "greedy"), make_plan(problem, "greedy")
        assert violations(problem, plan) == []
        fixed = mean.objective - counted(problem, mean, Risk())  # lateness, the same in all futures
        least = counted(problem, plan, risky.risk) + plan.objective - counted(problem, plan, Risk())
        assert least <= (counted(problem, mean, risky.risk) + fixed) * (1 + 1e-6)
        assert make_plan(risky, "greedy") == plan


@pytest.mark.parametrize("seed", range(4))
def test_near_the_true_optimum(seed: int) -> None:
    """One divisible job over three zones: the best split by brute force over a grid."""
    draw = random.Random(seed)
    pools = [pool(name, [draw.uniform(90, 130)] * 8, 8) for name in "abc"]
    problem = Problem(
        slots(8), pools, [job("x", dict.fromkeys("abc", 7200.0), 7200.0)], futures_of(pools, draw.uniform(0.1, 0.6), seed)
    )
    risk = Risk(draw.uniform(0.3, 1.0))
    plan = make_plan(msgspec.structs.replace(problem, risk=risk))
    grams = {p.name: Futures(problem).gram[:, i, 0] * 7200.0 * 1000.0 for i, p in enumerate(pools)}
    steps = np.linspace(0, 1, 41)
    best = min(
        measured(a * grams["a"] + b * grams["b"] + (1 - a - b) * grams["c"], risk) for a in steps for b in steps if a + b <= 1
    )
    assert best * 0.999 - 1e-9 <= counted(problem, plan, risk) <= best * 1.01


def test_many_jobs_spread_too() -> None:
    """Zones alike but for a few per cent: what is at stake in the worst futures falls by more than the mean rises."""
    draw, names = random.Random(2), "abcd"
    pools = [pool(name, [300 + 100 * math.sin(draw.uniform(0, 6) + t / 4) for t in range(24)], 3) for name in names]
    jobs = [
        job(
            f"j{i}",
            dict.fromkeys(names, draw.uniform(600, 5000)),
            draw.uniform(7200, 21_600),
            startup_s_on=dict.fromkeys(names, 60),
        )
        for i in range(8)
    ]
    problem = Problem(slots(24), pools, jobs, futures_of(pools, 0.35))
    mean, plan = make_plan(problem, "greedy"), make_plan(at(1.0, problem), "greedy")
    assert not mean.late
    assert not plan.late
    saved = counted(problem, mean, Risk(1.0)) - counted(problem, plan, Risk(1.0))
    assert saved > 0.02 * counted(problem, mean, Risk(1.0))
    assert saved > counted(problem, plan, Risk()) - counted(problem, mean, Risk())


def test_risk_costs_nothing_where_nothing_is_uncertain() -> None:
    problem = fleet_problem(3)
    assert make_plan(at(1.0, problem), "greedy") == make_plan(problem, "greedy")


def test_where_risk_cannot_be_weighed_the_plan_for_the_mean_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no program")

    monkeypatch.setattr("batchsched.planner.risk._mix", broken)
    problem = two_zones(0.5)
    plan = make_plan(at(1.0, problem), "greedy")
    assert plan.allotments == make_plan(problem, "greedy").allotments
    assert any("Risk could not be weighed" in note for note in plan.notes)
