"""Plans that hold the grams of bad futures low: a quantile, or the mean beyond it (CVaR), beside the mean.

A measure of this kind is a mean with weights that favour the futures which turn out worst for the plan at hand, and a plan for
given weights is an ordinary plan at the intensities that they make. So plans for several weights are mixed: a small program says
how much of each, and its prices are the weights that the next plan is made for (Dantzig and Wolfe's way to solve the whole).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from batchsched.planner.cost import assess
from batchsched.planner.futures import Futures
from batchsched.planner.greedy import by_due, followed
from batchsched.planner.plan import Plan, key_of
from batchsched.planner.price import price
from batchsched.planner.problem import Problem, Risk
from batchsched.planner.verify import violations
from batchsched.units import JOULES_PER_KWH

ROUNDS = 6
"""Plans that are made beside the one for the mean."""
_NO_GAIN = 1e-4
_EPS = 1e-6
Array = NDArray[np.float64]


def measured(grams: Array, risk: Risk) -> float:
    """What a plan counts that comes to `grams` in futures that are equally likely."""
    mean = float(grams.mean())
    if risk.measure == "mean" or risk.weight <= 0:
        return mean
    if risk.measure == "quantile":
        return (1 - risk.weight) * mean + risk.weight * float(np.quantile(grams, risk.level))
    beyond = len(grams) * (1 - risk.level)
    worst = np.sort(grams)[::-1]
    share = np.clip(beyond - np.arange(len(grams)), 0.0, 1.0)
    return (1 - risk.weight) * mean + risk.weight * float(worst @ share) / beyond


def hedged(problem: Problem, due: dict[str, float], first: Plan, plan_of: Callable[[Problem, Plan], Plan]) -> Plan:
    """The plan that counts least by the problem's risk, `first` or better; all of them in the problem's slots.

    `plan_of`: plans a problem at other intensities, where the second argument is a plan that may be improved.
    """
    risk = problem.risk
    if risk.measure == "mean" or risk.weight <= 0 or (futures := Futures(problem)).certain:
        return first
    tried, counts = [first], [_count(futures, first, risk)]
    for _ in range(ROUNDS):
        shares, weights, least = _mix(futures, tried, risk)
        if sum(share > _EPS for share in shares) > 1:
            mixed = _mixed(problem, due, futures, tried, shares)
            if not violations(problem, mixed):
                tried.append(mixed)
                counts.append(_count(futures, mixed, risk))
        priced = _priced(problem, futures, weights)
        found = plan_of(priced, _again(priced, due, tried[int(np.argmin(counts))]))
        plan = _again(problem, due, found)
        tried.append(plan)
        counts.append(_count(futures, plan, risk))
        if float(weights @ futures.grams(plan.uses, plan.holds)) + _fixed(futures, plan) > least - _NO_GAIN * abs(least):
            break
    best = tried[int(np.argmin(counts))]
    if best is first:
        return first
    return msgspec.structs.replace(best, solver=first.solver, status=first.status, notes=first.notes)


def _again(problem: Problem, due: dict[str, float], plan: Plan) -> Plan:
    """The same allotments at this problem's prices."""
    return assess(problem, price(problem), due, plan.allotments, plan.loads)


def _fixed(futures: Futures, plan: Plan) -> float:
    """What of a plan's objective is the same in all futures: lateness, above all."""
    return plan.objective - float(futures.grams(plan.uses, plan.holds).mean())


def _count(futures: Futures, plan: Plan, risk: Risk) -> float:
    return _fixed(futures, plan) + measured(futures.grams(plan.uses, plan.holds), risk)


def _mix(futures: Futures, plans: Sequence[Plan], risk: Risk) -> tuple[Array, Array, float]:
    """How much of each plan counts least together; the weights of the futures there; and what it counts.

    Columns: the share of each plan, the quantile, and how far each future lies above it.
    """
    from batchsched.planner.linear import LinearProgram

    grams = np.array([futures.grams(plan.uses, plan.holds) for plan in plans])
    fixed = np.array([_fixed(futures, plan) for plan in plans])
    scale = float(np.abs(grams).max(initial=0.0)) or 1.0
    n, count = len(plans), futures.count
    program = LinearProgram()
    tail = np.full(count, risk.weight / (count * (1 - risk.level)))
    program.add_columns(((1 - risk.weight) * grams.mean(axis=1) + fixed) / scale, np.zeros(n), np.ones(n))
    program.add_columns(np.array([risk.weight]), np.array([-np.inf]), np.array([np.inf]))
    program.add_columns(tail, np.zeros(count), np.full(count, np.inf))
    program.add_rows(np.ones(1), np.ones(1))
    program.add_rows(np.zeros(count), np.full(count, np.inf))
    of_future = np.arange(1, count + 1)
    rows = [np.zeros(n, int), np.repeat(of_future, n), of_future, of_future]
    columns = [np.arange(n), np.tile(np.arange(n), count), np.full(count, n), n + of_future]
    values = [np.ones(n), -grams.T.ravel() / scale, np.ones(count), np.ones(count)]
    program.add_entries(np.concatenate(rows), np.concatenate(columns), np.concatenate(values))
    answer = program.solve()
    return answer.x[:n], (1 - risk.weight) / count + answer.price[1:], answer.cost * scale


def _priced(problem: Problem, futures: Futures, weights: Array) -> Problem:
    """The problem at the intensities, and for making hardware and moving files the grams, that these weights make."""
    gram, embodied = np.tensordot(weights, futures.gram, axes=1), weights @ futures.embodied
    pools = [
        msgspec.structs.replace(
            pool,
            intensity_g_per_kwh=[
                None if known is None else float(g) * JOULES_PER_KWH / pool.pue
                for known, g in zip(pool.intensity_g_per_kwh, gram[p], strict=True)
            ],
            embodied_g_per_s=float(embodied[p]),
            energy_g_per_kwh=0.0,  # it is among these
        )
        for p, pool in enumerate(problem.pools)
    ]
    links = [
        msgspec.structs.replace(link, embodied_g_per_s=float(embodied[len(pools) + at])) for at, link in enumerate(problem.links)
    ]
    moved = float(weights @ futures.transfer)
    jobs = [
        msgspec.structs.replace(
            job,
            transfer_g_on={key: moved * grams for key, grams in job.transfer_g_on.items()},
            load_g_on={key: moved * grams for key, grams in job.load_g_on.items()},
        )
        for job in problem.jobs
    ]
    ours = {"pools": pools, "links": links, "jobs": jobs}
    return msgspec.structs.replace(problem, **ours, scenarios={}, risk=Risk(), transfer_sigma=0.0)


def _mixed(problem: Problem, due: dict[str, float], futures: Futures, plans: Sequence[Plan], shares: Array) -> Plan:
    """So much of each plan, as far as it fits; engines start where that needs them, the rest goes where it is cheapest."""
    seconds: dict[tuple[str, str], dict[int, float]] = defaultdict(lambda: defaultdict(float))
    by_id = {job.batch_id: job for job in problem.jobs}
    for plan, share in zip(plans, shares, strict=True):
        for use in plan.uses if share > _EPS else []:
            key = key_of(by_id[use.batch_id], use)
            seconds[use.batch_id, key][use.slot_index] += float(share) * use.seconds
    order = by_due(problem.jobs, due)
    return followed(problem, futures.prices, due, order, seconds)
