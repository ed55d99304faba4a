"""Crumbs: so little work in a slot that no request is done there. Yet an engine would start for it, hours too early perhaps.

What a solver's rounding leaves of a batch somewhere goes to where that batch runs anyway.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import msgspec

from batchsched.planner.cost import assess
from batchsched.planner.engines import load_share
from batchsched.planner.greedy import Filler, allot
from batchsched.planner.plan import Load, Plan, is_crumb
from batchsched.planner.price import price
from batchsched.planner.problem import Job, Problem

_EPS = 1e-9
_Cell = tuple[str, int]
"""A job's name for a configuration, and a slot."""


def swept(problem: Problem, due: dict[str, float], plan: Plan) -> Plan:
    """The plan with its crumbs moved, no batch later for it, as far as its other replicas are ready and free; and without the
    engine starts that nothing needs then. `problem`: in the plan's slots."""
    jobs = {job.batch_id: job for job in problem.jobs}
    found = sorted({a.batch_id for a in plan.allotments if a.crumb and len(plan.of(a.batch_id)) > 1})
    if not found:
        return plan
    cells: dict[str, dict[_Cell, float]] = {name: defaultdict(float) for name in found}
    for name in found:
        for a in plan.of(name):
            cells[name][a.key, a.slot_index] += a.seconds
    prices = price(problem)
    filler = Filler(problem, prices)
    filler.resume(plan.allotments, plan.loads)
    left: set[str] = set()  # configurations
    moved = True
    while moved:  # what moved made room where it was
        moved = False
        for name in found:
            moved |= _moved(filler, jobs[name], due[name], cells[name], left)
    kept = [a for a in plan.allotments if a.batch_id not in cells]
    for name in found:
        kept += [allot(problem, jobs[name], key, t, seconds) for (key, t), seconds in sorted(cells[name].items())]
    loads = _needed(filler, jobs, plan.loads, left)
    best = assess(problem, prices, due, kept, loads)
    bound = None if plan.bound is None else min(plan.bound, best.objective)
    return msgspec.structs.replace(best, solver=plan.solver, status=plan.status, notes=plan.notes, bound=bound)


def _crumbs(problem: Problem, job: Job, mine: dict[_Cell, float]) -> list[_Cell]:
    """The smallest first."""
    found = [
        (seconds, key, t)
        for (key, t), seconds in mine.items()
        if is_crumb(job.remaining_requests * seconds / job.seconds_on[key], seconds, problem.slots[t].length_s)
    ]
    return [(key, t) for _, key, t in sorted(found)]


def _moved(filler: Filler, job: Job, due_s: float, mine: dict[_Cell, float], left: set[str]) -> bool:
    """Move those of a job that fit elsewhere; was there one? `left`: is told the configurations that they were moved from."""
    slots, any_moved = filler.problem.slots, False
    limit_s = due_s if due_s > 0 else job.deadline_s
    for cell in _crumbs(filler.problem, job, mine):
        key, t = cell
        latest_s = max(slots[t].end_s, limit_s) + _EPS
        others = [other for other in mine if other != cell and slots[other[1]].end_s <= latest_s]
        others.sort(key=lambda other: (-mine[other] / job.seconds_on[other[0]], other))
        filler.take(job, key, t, -mine[cell])
        share, parts = mine[cell] / job.seconds_on[key], dict[_Cell, float]()
        for other in others:
            seconds = min(share * job.seconds_on[other[0]], filler.free(job, *other))
            if seconds > _EPS:
                filler.take(job, *other, seconds)
                parts[other] = seconds
                share -= seconds / job.seconds_on[other[0]]
        if share > _EPS:  # all of it, or it stays
            for other, seconds in parts.items():
                filler.take(job, *other, -seconds)
            filler.take(job, key, t, mine[cell])
            continue
        del mine[cell]
        for other, seconds in parts.items():
            mine[other] += seconds
        left.add(job.configuration(key).name)
        any_moved = True
    return any_moved


def _needed(filler: Filler, jobs: dict[str, Job], loads: list[Load], configs: Iterable[str]) -> list[Load]:
    """The starts without those that these configurations can do without, the earliest of them first."""
    lengths = [slot.length_s for slot in filler.problem.slots]
    found = {(load.batch_id, load.config, load.slot_index, load.starts > 0): load for load in loads}
    if len(found) < len(loads):
        return loads  # several accounts of one start: not ours
    for load in sorted(loads, key=lambda load: (load.slot_index, load.batch_id)):
        if load.config not in configs:
            continue
        job = jobs[load.batch_id]
        key = job.key_of(load.config)
        spread = load_share(lengths, load.slot_index, job.startup_s_on[key])
        parts = [(load.batch_id, load.config, t, n == 0) for n, (t, _) in enumerate(spread)]
        for _ in range(load.starts):
            if not all(part in found and found[part].seconds >= s - _EPS for part, (_, s) in zip(parts, spread, strict=True)):
                break
            if not filler.engines_of(job.configuration(key)).do_without(load.slot_index, spread):
                break
            for part, (_, seconds) in zip(parts, spread, strict=True):
                old = found[part]
                found[part] = msgspec.structs.replace(old, seconds=old.seconds - seconds, starts=old.starts - part[3])
    return [load for load in found.values() if load.seconds > _EPS or load.starts]
