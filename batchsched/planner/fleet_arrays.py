"""A problem of jobs and pools as a fleet of arrays: a replica of a pool is what they call a GPU, and links follow the pools."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from batchsched.planner.classes import WorkClass, slots_by
from batchsched.planner.cpsat import configurations
from batchsched.planner.fleet_model import FleetModel, Floats
from batchsched.planner.price import Prices, work_s
from batchsched.planner.problem import Configuration, Problem


class Mark(NamedTuple):
    """By the end of the first `slots` slots a job should be done; a second missing then costs `share` of a loss."""

    slots: int
    share: float


def arcs_of(groups: list[WorkClass], configs: list[Configuration]) -> list[tuple[int, str, int]]:
    """Class, its name for a configuration, and the number of that."""
    number = {config.name: k for k, config in enumerate(configs)}
    return [(c, key, number[group.configs[key].name]) for c, group in enumerate(groups) for key in sorted(group.configs)]


def arrays(problem: Problem, due: dict[str, float], groups: list[WorkClass], prices: Prices) -> FleetModel:
    """The arrays of a problem and its classes, late for a due time as for a deadline, which counts where there is no time for the
    other; arcs go by class and by its names of configurations."""
    ends = [slot.end_s for slot in problem.slots]
    jobs = [job for group in groups for job in group.jobs]
    marks = {job.batch_id: Mark(slots_by(ends, due[job.batch_id]) or slots_by(ends, job.deadline_s), 1.0) for job in jobs}
    return fleet_model(problem, marks, groups, configurations(groups), prices, idling=False)


def fleet_model(
    problem: Problem,
    marks: Mapping[str, Mark],
    groups: list[WorkClass],
    configs: list[Configuration],
    prices: Prices,
    idling: bool = True,
) -> FleetModel:
    """The arrays of a problem. A ready replica idles for whole slots there, and its work costs what comes on top of that; without
    `idling` it idles for nothing. A class's late work costs what it costs the one that may be late most cheaply, so that the
    arrays' bound holds; each batch its own."""
    arcs, names = arcs_of(groups, configs), list(problem.capacity)
    capacity = np.array(list(problem.capacity.values()), float).reshape(len(names), len(problem.slots))
    slot_s = np.array([slot.length_s for slot in problem.slots])
    wait = np.array(prices.wait_g_per_s)

    def gram(config: Configuration, power_w: float) -> list[float]:
        return [prices.replica_g(config, power_w, t) for t in range(len(slot_s))]

    load_s, power, moved, idle_w = np.zeros((4, len(configs)))
    for c, key, k in arcs:
        load_s[k] = max(load_s[k], groups[c].startup_s[key])
        power[k] = max(power[k], groups[c].power_w[key])
        moved[k] = max(moved[k], groups[c].load_g[key])
        idle_w[k] = max(idle_w[k], groups[c].idle_w[key]) if idling else 0.0
    second_g = np.array([gram(config, power[k]) for k, config in enumerate(configs)]) + wait
    idle = np.array([[prices.idle_g(config, idle_w[k], t) for t in range(len(slot_s))] for k, config in enumerate(configs)])
    idle_g = idle * slot_s
    transfer = np.array([groups[c].transfer_g_per_s[key] for c, key, _ in arcs])
    run_g = np.array([gram(configs[k], groups[c].power_w[key]) for c, key, k in arcs]) + transfer[:, None] + wait
    jobs = [(c, job, marks[job.batch_id]) for c, group in enumerate(groups) for job in group.jobs]
    lost_g = np.array([prices.loss_g_per_s * groups[c].weight * mark.share for c, _, mark in jobs])
    begins = np.cumsum([0, *(len(group.jobs) for group in groups)]).tolist()
    return FleetModel(
        slot_s=slot_s,
        capacity=capacity,
        room=_room(problem, configs, capacity),
        gpus=_gpus(problem, configs),
        loaded=np.array([problem.ready(config) for config in configs], np.int64),
        load_s=load_s,
        load_g=load_s[:, None] * (second_g - idle) + moved[:, None] + idle_g,
        hold_g=np.concatenate([idle_g[:, 1:], np.zeros((len(configs), 1))], axis=1),
        arc_class=np.array([c for c, _, _ in arcs], np.int64),
        arc_config=np.array([k for _, _, k in arcs], np.int64),
        rate=np.array([1.0 / groups[c].ratio[key] for c, key, _ in arcs]),
        run_g=np.maximum(0.0, run_g - idle[[k for _, _, k in arcs]]),
        late_g=np.array([lost_g[first:until].min() for first, until in pairwise(begins)]),
        batch_late_g=lost_g,
        batch_class=np.array([c for c, _, _ in jobs], np.int64),
        release=np.zeros(len(jobs), np.int64),
        due=np.array([mark.slots for _, _, mark in jobs], np.int64),
        work=np.array([work_s(job) for _, job, _ in jobs]),
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
