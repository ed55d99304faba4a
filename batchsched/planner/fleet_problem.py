"""A problem of jobs and pools as a fleet of arrays, and its plan as one of jobs again.

A replica of a pool is what the arrays call a GPU; a configuration is a model on a pool. What the arrays cannot say is left to who
places the rest job by job (disaggregate.py): work that comes too late for its due time, and jobs that are narrower than their
share.
"""

from __future__ import annotations

import msgspec
import numpy as np

from batchsched.planner.classes import WorkClass, slots_by
from batchsched.planner.disaggregate import disaggregate
from batchsched.planner.fleet import plans
from batchsched.planner.fleet_model import FleetModel, FleetPlan
from batchsched.planner.plan import Plan
from batchsched.planner.price import Prices, price, work_s
from batchsched.planner.problem import Problem

MOST_STEPS = 100
ENOUGH = 1e-3
"""A plan this close to its bound, as a share, is not improved further."""


def fleet_plan(problem: Problem, due: dict[str, float], groups: list[WorkClass], most_work: int, seed: int = 0) -> Plan | None:
    """The plan that the fleet's solver finds with about so many simplex steps; None where it finds none."""
    configs = sorted({(model, pool) for group in groups for pool, model in group.models.items()})
    model = fleet_model(problem, due, groups, configs, price(problem))
    found: FleetPlan | None = None
    for number, step in enumerate(plans(model, seed)):
        found = step.plan
        if step.work >= most_work or number >= MOST_STEPS or (found is not None and found.gap <= ENOUGH):
            break
    if found is None:
        return None
    pools = [pool for _, pool in configs]
    work = {
        (int(model.arc_class[a]), pools[model.arc_config[a]], int(t)): float(found.run[a, t])
        for a, t in np.argwhere(found.run > 0)
    }
    models = sorted({name for name, _ in configs})
    starts = {(models.index(configs[k][0]), pools[k], int(t)): int(found.starts[k, t]) for k, t in np.argwhere(found.starts > 0)}
    return msgspec.structs.replace(disaggregate(problem, due, groups, work, starts), solver="fleet", status="feasible")


def fleet_model(
    problem: Problem, due: dict[str, float], groups: list[WorkClass], configs: list[tuple[str, str]], prices: Prices
) -> FleetModel:
    """The arrays of a problem. `configs`: model and pool of each."""
    names = [pool.name for pool in problem.pools]
    index = {config: k for k, config in enumerate(configs)}
    arcs = [(c, pool, index[group.models[pool], pool]) for c, group in enumerate(groups) for pool in sorted(group.ratio)]
    capacity = np.array([pool.capacity for pool in problem.pools], float).reshape(len(names), len(problem.slots))
    slot_s = np.array([slot.length_s for slot in problem.slots])
    wait = np.array(prices.wait_g_per_s)

    def gram(pool: str, power_w: float) -> list[float]:
        return [prices.replica_g(pool, power_w, t) for t in range(len(slot_s))]

    load_s, power = np.zeros(len(configs)), np.zeros(len(configs))
    for c, pool, k in arcs:
        load_s[k] = max(load_s[k], groups[c].startup_s[pool])
        power[k] = max(power[k], groups[c].power_w[pool])
    second_g = np.array([gram(pool, power[k]) for k, (_, pool) in enumerate(configs)]) + wait
    jobs = [(c, job) for c, group in enumerate(groups) for job in group.jobs]
    ends = [slot.end_s for slot in problem.slots]
    return FleetModel(
        slot_s=slot_s,
        capacity=capacity,
        room=np.repeat(np.ceil(capacity.max(axis=1, initial=0.0))[:, None], len(slot_s), axis=1),
        gpus=np.array([[float(pool == name) for name in names] for _, pool in configs]),
        loaded=np.array([problem.pool(pool).loaded.count(model) for model, pool in configs], np.int64),
        load_s=load_s,
        load_g=load_s[:, None] * second_g,
        hold_g=np.zeros(second_g.shape),
        arc_class=np.array([c for c, _, _ in arcs], np.int64),
        arc_config=np.array([k for _, _, k in arcs], np.int64),
        rate=np.array([1.0 / groups[c].ratio[pool] for c, pool, _ in arcs]),
        run_g=np.array([gram(pool, groups[c].power_w[pool]) for c, pool, _ in arcs]) + wait,
        late_g=np.array([prices.loss_g_per_s * group.weight for group in groups]),
        batch_class=np.array([c for c, _ in jobs], np.int64),
        release=np.zeros(len(jobs), np.int64),
        due=np.array([slots_by(ends, due[job.batch_id]) for _, job in jobs], np.int64),
        work=np.array([work_s(job) for _, job in jobs]),
    )
