"""A problem of jobs and pools as a fleet of arrays, and its plan as one of jobs again.

A replica of a pool is what the arrays call a GPU, and links follow the pools. A job has one due time there: its own where it has
time between that and its deadline, and being late for it costs accordingly little; else its deadline; of a job that is late
already and finishes all the same, the next mark at which lateness costs again. What is missing then, and jobs that are narrower
than their share, are left to who places the rest job by job (disaggregate.py). So the arrays' bound holds for the problem too, as
far as its classes are alike.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

import msgspec
import numpy as np

from batchsched.planner.classes import WorkClass, slots_by
from batchsched.planner.cost import late_s
from batchsched.planner.cpsat import CUT_SHORT, configurations
from batchsched.planner.disaggregate import disaggregate
from batchsched.planner.fleet import Standing, plans
from batchsched.planner.fleet_model import FleetModel, FleetPlan, Floats
from batchsched.planner.last import standing_work
from batchsched.planner.plan import Plan
from batchsched.planner.price import RISK_SHARE, Prices, late_marks, price, work_s
from batchsched.planner.problem import Configuration, Job, Problem

ENOUGH = 1e-3
"""A plan this close to its bound, as a share, is not improved further."""
_ROUNDING = 0.01
"""Of late work: what whole units and narrow jobs may add to it when it is given to jobs."""


class _Mark(NamedTuple):
    """By the end of the first `slots` slots a job should be done; a second missing then costs `share` of a loss."""

    slots: int
    share: float


def fleet_plan(
    problem: Problem,
    due: dict[str, float],
    groups: list[WorkClass],
    most_work: int,
    seed: int = 0,
    start: Plan | None = None,
    wall_s: float = math.inf,
) -> Plan | None:
    """The plan that the fleet's solver finds with about so many simplex steps, from what stood; None where it finds none.

    `start`: a plan in the same slots, by which jobs that are late already are given a time; where nothing stood it is where the
    search begins. `wall_s`: by the clock, for an emergency; the plan then says so, as where something failed on the way.
    """
    until, stood = time.monotonic() + wall_s, _standing(problem, groups, configurations(groups), start)
    ends = [slot.end_s for slot in problem.slots]
    jobs = [job for group in groups for job in group.jobs]
    marks = {job.batch_id: _mark(problem, ends, job, due[job.batch_id], start) for job in jobs}
    first = _searched(problem, due, groups, marks, stood, most_work, seed, until)
    if first is None:
        return None
    plan, found = first
    last = {job.batch_id: max(marks[job.batch_id], _last(ends, job), key=lambda mark: mark.slots) for job in jobs}
    lost_s = sum(
        job.weight * late
        for job, late in zip(jobs, found.late, strict=True)
        if marks[job.batch_id].slots >= last[job.batch_id].slots
    )
    if late_s(problem, plan) > lost_s * (1 + _ROUNDING) + 1.0 and time.monotonic() < until:
        # What it left undone at due times takes room before deadlines: there is no time for both, and deadlines come first.
        second = _searched(problem, due, groups, last, Standing(found.run), most_work, seed, until)
        if second is not None and second[0].objective < plan.objective:
            bound_g = max(plan.bound or 0.0, second[0].bound or 0.0)
            plan = msgspec.structs.replace(second[0], bound=min(bound_g, second[0].objective))
    return plan


def _searched(
    problem: Problem,
    due: dict[str, float],
    groups: list[WorkClass],
    marks: Mapping[str, _Mark],
    stood: Standing | None,
    most_work: int,
    seed: int,
    until: float,
) -> tuple[Plan, FleetPlan] | None:
    """What the search finds for these marks, by jobs and by arrays."""
    configs = configurations(groups)
    model = fleet_model(problem, marks, groups, configs, price(problem))
    found: FleetPlan | None = None
    bound_g, notes = 0.0, list[str]()
    try:
        for step in plans(model, seed, stood, most_work, until):
            found, bound_g = step.plan, max(bound_g, step.bound_g)
            if step.failed:
                notes.append(f"The linear program failed ({step.failed}); the search went on without it")
            if time.monotonic() >= until:
                notes.append(CUT_SHORT)
                break
            if step.work >= most_work or (found is not None and found.gap <= ENOUGH):
                break
    except Exception as error:  # the last plan is as good as it was
        if found is None:
            raise
        notes.append(f"The fleet's solver failed on the way ({type(error).__name__}: {error})")
    if found is None:
        return None
    keys = [key for _, key, _ in _arcs(groups, configs)]
    work = {(int(model.arc_class[a]), keys[a], int(t)): float(found.run[a, t]) for a, t in np.argwhere(found.run > 0)}
    starts = {(configs[k].name, int(t)): int(found.starts[k, t]) for k, t in np.argwhere(found.starts > 0)}
    plan = disaggregate(problem, due, groups, work, starts)
    plan = msgspec.structs.replace(plan, solver="fleet", status="feasible", bound=min(bound_g, plan.objective))
    return msgspec.structs.replace(plan, notes=[*plan.notes, *notes]), found


def _last(ends: list[float], job: Job) -> _Mark:
    """Of a job as if it had no due time: its deadline, or the horizon's end."""
    return _Mark(slots_by(ends, job.deadline_s), RISK_SHARE if job.deadline_s > ends[-1] else 1.0)


def _mark(problem: Problem, ends: list[float], job: Job, due_s: float, start: Plan | None) -> _Mark:
    if job.deadline_s > problem.end_s:
        return _Mark(len(ends), RISK_SHARE)
    planned, last = slots_by(ends, due_s), slots_by(ends, job.deadline_s)
    if planned > 0:
        return _Mark(planned, RISK_SHARE if planned < last else 1 + RISK_SHARE)
    if last > 0 or not job.finish_late:
        return _Mark(last, 1.0)
    done_s = max((a.end_s for a in start.of(job.batch_id)), default=problem.end_s) if start else problem.end_s
    return _Mark(next((slots_by(ends, at) for at in late_marks(problem, job) if at >= done_s), len(ends)), 1.0)


def _arcs(groups: list[WorkClass], configs: list[Configuration]) -> list[tuple[int, str, int]]:
    """Class, its name for a configuration, and the number of that."""
    number = {config.name: k for k, config in enumerate(configs)}
    return [(c, key, number[group.configs[key].name]) for c, group in enumerate(groups) for key in sorted(group.configs)]


def _standing(problem: Problem, groups: list[WorkClass], configs: list[Configuration], start: Plan | None) -> Standing | None:
    """What stood, or else `start`, by arc."""
    if problem.standing:
        work = standing_work(problem)
    elif start is not None:
        work = {(a.batch_id, a.key, a.slot_index): a.seconds for a in start.allotments}
    else:
        return None
    of_class = {job.batch_id: c for c, group in enumerate(groups) for job in group.jobs}
    arc = {(c, key): a for a, (c, key, _) in enumerate(_arcs(groups, configs))}
    run = np.zeros((len(arc), len(problem.slots)))
    for (job, key, t), seconds in work.items():
        if job in of_class:
            run[arc[of_class[job], key], t] += seconds
    return Standing(run)


def arrays(problem: Problem, due: dict[str, float], groups: list[WorkClass], prices: Prices) -> FleetModel:
    """The arrays of a problem and its classes, late for a due time as for a deadline, which counts where there is no time for the
    other; arcs go by class and by its names of configurations."""
    ends = [slot.end_s for slot in problem.slots]
    jobs = [job for group in groups for job in group.jobs]
    marks = {job.batch_id: _Mark(slots_by(ends, due[job.batch_id]) or slots_by(ends, job.deadline_s), 1.0) for job in jobs}
    return fleet_model(problem, marks, groups, configurations(groups), prices, idling=False)


def fleet_model(
    problem: Problem,
    marks: Mapping[str, _Mark],
    groups: list[WorkClass],
    configs: list[Configuration],
    prices: Prices,
    idling: bool = True,
) -> FleetModel:
    """The arrays of a problem. A ready replica idles for whole slots there, and its work costs what comes on top of that; without
    `idling` it idles for nothing. A class's late work costs what it costs the one that may be late most cheaply, so that the
    arrays' bound holds; each batch its own."""
    arcs, names = _arcs(groups, configs), list(problem.capacity)
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
