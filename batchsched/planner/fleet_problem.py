"""A problem of jobs and pools as a fleet of arrays, and its plan as one of jobs again.

A replica of a pool is what the arrays call a GPU, and links follow the pools. What the arrays cannot say is left to who
places the rest job by job (disaggregate.py): work that comes too late for its due time, and jobs that are narrower than their
share.
"""

from __future__ import annotations

import msgspec
import numpy as np

from batchsched.planner.classes import WorkClass, slots_by
from batchsched.planner.cpsat import configurations
from batchsched.planner.disaggregate import disaggregate
from batchsched.planner.fleet import plans
from batchsched.planner.fleet_model import FleetModel, FleetPlan, Floats
from batchsched.planner.plan import Plan
from batchsched.planner.price import Prices, price, work_s
from batchsched.planner.problem import Configuration, Problem

MOST_STEPS = 100
ENOUGH = 1e-3
"""A plan this close to its bound, as a share, is not improved further."""


def fleet_plan(problem: Problem, due: dict[str, float], groups: list[WorkClass], most_work: int, seed: int = 0) -> Plan | None:
    """The plan that the fleet's solver finds with about so many simplex steps; None where it finds none."""
    configs = configurations(groups)
    model = fleet_model(problem, due, groups, configs, price(problem))
    found: FleetPlan | None = None
    for number, step in enumerate(plans(model, seed)):
        found = step.plan
        if step.work >= most_work or number >= MOST_STEPS or (found is not None and found.gap <= ENOUGH):
            break
    if found is None:
        return None
    keys = [key for _, key, _ in _arcs(groups, configs)]
    work = {(int(model.arc_class[a]), keys[a], int(t)): float(found.run[a, t]) for a, t in np.argwhere(found.run > 0)}
    starts = {(configs[k].name, int(t)): int(found.starts[k, t]) for k, t in np.argwhere(found.starts > 0)}
    return msgspec.structs.replace(disaggregate(problem, due, groups, work, starts), solver="fleet", status="feasible")


def _arcs(groups: list[WorkClass], configs: list[Configuration]) -> list[tuple[int, str, int]]:
    """Class, its name for a configuration, and the number of that."""
    number = {config.name: k for k, config in enumerate(configs)}
    return [(c, key, number[group.configs[key].name]) for c, group in enumerate(groups) for key in sorted(group.configs)]


def arrays(problem: Problem, due: dict[str, float], groups: list[WorkClass], prices: Prices) -> FleetModel:
    """The arrays of a problem and its classes; arcs go by class and by its names of configurations."""
    return fleet_model(problem, due, groups, configurations(groups), prices)


def fleet_model(
    problem: Problem, due: dict[str, float], groups: list[WorkClass], configs: list[Configuration], prices: Prices
) -> FleetModel:
    """The arrays of a problem."""
    arcs, names = _arcs(groups, configs), list(problem.capacity)
    capacity = np.array(list(problem.capacity.values()), float).reshape(len(names), len(problem.slots))
    slot_s = np.array([slot.length_s for slot in problem.slots])
    wait = np.array(prices.wait_g_per_s)

    def gram(config: Configuration, power_w: float) -> list[float]:
        return [prices.replica_g(config, power_w, t) for t in range(len(slot_s))]

    load_s, power, moved = np.zeros((3, len(configs)))
    for c, key, k in arcs:
        load_s[k] = max(load_s[k], groups[c].startup_s[key])
        power[k] = max(power[k], groups[c].power_w[key])
        moved[k] = max(moved[k], groups[c].load_g[key])
    second_g = np.array([gram(config, power[k]) for k, config in enumerate(configs)]) + wait
    transfer = np.array([groups[c].transfer_g_per_s[key] for c, key, _ in arcs])
    jobs = [(c, job) for c, group in enumerate(groups) for job in group.jobs]
    ends = [slot.end_s for slot in problem.slots]
    return FleetModel(
        slot_s=slot_s,
        capacity=capacity,
        room=_room(problem, configs, capacity),
        gpus=_gpus(problem, configs),
        loaded=np.array([problem.ready(config) for config in configs], np.int64),
        load_s=load_s,
        load_g=load_s[:, None] * second_g + moved[:, None],
        hold_g=np.zeros(second_g.shape),
        arc_class=np.array([c for c, _, _ in arcs], np.int64),
        arc_config=np.array([k for _, _, k in arcs], np.int64),
        rate=np.array([1.0 / groups[c].ratio[key] for c, key, _ in arcs]),
        run_g=np.array([gram(configs[k], groups[c].power_w[key]) for c, key, k in arcs]) + transfer[:, None] + wait,
        late_g=np.array([prices.loss_g_per_s * group.weight for group in groups]),
        batch_class=np.array([c for c, _ in jobs], np.int64),
        release=np.zeros(len(jobs), np.int64),
        due=np.array([slots_by(ends, due[job.batch_id]) for _, job in jobs], np.int64),
        work=np.array([work_s(job) for _, job in jobs]),
    )


def _gpus(problem: Problem, configs: list[Configuration]) -> Floats:
    """[K, P] what a replica takes of each pool and link."""
    number = {name: p for p, name in enumerate(problem.capacity)}
    gpus = np.zeros((len(configs), len(number)))
    for k, config in enumerate(configs):
        for name, taken in config.shares:
            gpus[k, number[name]] = taken
    return gpus


def _room(problem: Problem, configs: list[Configuration], capacity: Floats) -> Floats:
    """[P, T] what may be kept ready: replicas of pools; on links whatever those could ask for: what only waits takes none."""
    room: Floats = np.repeat(np.ceil(capacity.max(axis=1, initial=0.0))[:, None], capacity.shape[1], axis=1)
    pools = len(problem.pools)
    least = min((taken for config in configs for taken in config.takes.values()), default=1.0)
    most = max((taken for config in configs for taken in config.links.values()), default=0.0)
    room[pools:] = room[:pools].sum(axis=0) / least * most
    return room
