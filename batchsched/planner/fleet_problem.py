"""A problem of jobs and pools solved as a fleet of arrays, and its plan as one of jobs again.

A job has one due time there: its own where it has time between that and its deadline, and being late for it costs accordingly
little; else its deadline; of a job that is late already and finishes all the same, the next mark at which lateness costs again.
What is missing then, and jobs that are narrower than their share, are left to who places the rest job by job (disaggregate.py).
So the arrays' bound holds for the problem too, as far as its classes are alike.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import msgspec
import numpy as np

from batchsched.planner.classes import WorkClass, slots_by
from batchsched.planner.cost import late_s
from batchsched.planner.cpsat import CUT_SHORT, configurations
from batchsched.planner.disaggregate import disaggregate
from batchsched.planner.fleet import Standing, plans
from batchsched.planner.fleet_arrays import Mark, arcs_of, fleet_model
from batchsched.planner.fleet_model import FleetPlan
from batchsched.planner.last import standing_work
from batchsched.planner.plan import Plan
from batchsched.planner.price import RISK_SHARE, late_marks, price
from batchsched.planner.problem import Configuration, Job, Problem

ENOUGH = 1e-3
"""A plan this close to its bound, as a share, is not improved further."""
_ROUNDING = 0.01
"""Of late work: what whole units and narrow jobs may add to it when it is given to jobs."""


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
    marks: Mapping[str, Mark],
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
    keys = [key for _, key, _ in arcs_of(groups, configs)]
    work = {(int(model.arc_class[a]), keys[a], int(t)): float(found.run[a, t]) for a, t in np.argwhere(found.run > 0)}
    starts = {(configs[k].name, int(t)): int(found.starts[k, t]) for k, t in np.argwhere(found.starts > 0)}
    plan = disaggregate(problem, due, groups, work, starts)
    plan = msgspec.structs.replace(plan, solver="fleet", status="feasible", bound=min(bound_g, plan.objective))
    return msgspec.structs.replace(plan, notes=[*plan.notes, *notes]), found


def _last(ends: list[float], job: Job) -> Mark:
    """Of a job as if it had no due time: its deadline, or the horizon's end."""
    return Mark(slots_by(ends, job.deadline_s), RISK_SHARE if job.deadline_s > ends[-1] else 1.0)


def _mark(problem: Problem, ends: list[float], job: Job, due_s: float, start: Plan | None) -> Mark:
    if job.deadline_s > problem.end_s:
        return Mark(len(ends), RISK_SHARE)
    planned, last = slots_by(ends, due_s), slots_by(ends, job.deadline_s)
    if planned > 0:
        return Mark(planned, RISK_SHARE if planned < last else 1 + RISK_SHARE)
    if last > 0 or not job.finish_late:
        return Mark(last, 1.0)
    done_s = max((a.end_s for a in start.of(job.batch_id)), default=problem.end_s) if start else problem.end_s
    return Mark(next((slots_by(ends, at) for at in late_marks(problem, job) if at >= done_s), len(ends)), 1.0)


def _standing(problem: Problem, groups: list[WorkClass], configs: list[Configuration], start: Plan | None) -> Standing | None:
    """What stood, or else `start`, by arc."""
    if problem.standing:
        work = standing_work(problem)
    elif start is not None:
        work = {(a.batch_id, a.key, a.slot_index): a.seconds for a in start.allotments}
    else:
        return None
    of_class = {job.batch_id: c for c, group in enumerate(groups) for job in group.jobs}
    arc = {(c, key): a for a, (c, key, _) in enumerate(arcs_of(groups, configs))}
    run = np.zeros((len(arc), len(problem.slots)))
    for (job, key, t), seconds in work.items():
        if job in of_class:
            run[arc[of_class[job], key], t] += seconds
    return Standing(run)
