"""A plan that shifts nothing: earliest deadline first, each job where it is done soonest, whatever the grid says."""

from __future__ import annotations

import msgspec

from batchsched.planner.cost import assess
from batchsched.planner.greedy import Filler, greedy
from batchsched.planner.plan import Plan
from batchsched.planner.price import price
from batchsched.planner.problem import Job, PoolState, Problem


def at_once(problem: Problem, due: dict[str, float]) -> Plan:
    """The plan, priced as it will be. `problem`: with slots cut at the due times."""
    pools = [_hurried(problem, pool) for pool in problem.pools]
    hurried = msgspec.structs.replace(problem, pools=pools, jobs=[_alike(job) for job in problem.jobs])
    placed = greedy(hurried, due)
    filler = Filler(problem, price(problem))
    filler.resume(placed.allotments, placed.loads)
    filler.spare()
    plan = assess(problem, filler.prices, due, filler.allotments, filler.loads)
    return msgspec.structs.replace(plan, solver="at-once", status="feasible")


def _hurried(problem: Problem, pool: PoolState) -> PoolState:
    """With time for a price: the later, the dearer."""
    late: list[float | None] = [slot.end_s for slot in problem.slots]
    return msgspec.structs.replace(
        pool, pue=1.0, intensity_g_per_kwh=late, embodied_g_per_s=0.0, energy_g_per_kwh=0.0, price_g_per_s=0.0
    )


def _alike(job: Job) -> Job:
    return msgspec.structs.replace(
        job, power_w_on=dict.fromkeys(job.power_w_on, 1000.0), transfer_g_on={}, load_g_on={}, idle_w_on={}
    )
