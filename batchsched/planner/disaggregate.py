"""From classes back to jobs: within a class, in each slot, the earliest deadline is served first.

The prefix rows of the class model are what makes this order meet every deadline that any order meets.
"""

from __future__ import annotations

from collections import defaultdict

from batchsched.planner.classes import WorkClass
from batchsched.planner.cost import assess
from batchsched.planner.greedy import Filler, allot
from batchsched.planner.plan import Allotment, Load, Plan
from batchsched.planner.price import price
from batchsched.planner.problem import Job, Problem

_EPS = 1e-9


def disaggregate(
    problem: Problem,
    due: dict[str, float],
    groups: list[WorkClass],
    work: dict[tuple[int, str, int], float],
    starts: dict[tuple[int, str, int], int],
) -> Plan:
    """The jobs' plan for classes' seconds (class, pool, slot) and engine starts (number of the model in order, pool, slot)."""
    allotments = [a for c, group in enumerate(groups) for a in _serve(problem, due, group, c, work)]
    models = sorted({model for group in groups for model in group.models.values()})
    loads = [
        load
        for (m, pool, slot), replicas in sorted(starts.items())
        for load in _load(problem, groups, allotments, models[m], pool, slot, replicas)
    ]
    prices = price(problem)
    filler = Filler(problem, prices)
    filler.resume(allotments, loads)
    done: dict[str, float] = defaultdict(float)
    for a in allotments:
        done[a.batch_id] += a.requests
    for job in sorted((job for group in groups for job in group.jobs), key=lambda j: (due[j.batch_id], j.deadline_s, j.batch_id)):
        left = 1.0 - done[job.batch_id] / job.remaining_requests
        if left > _EPS:  # rounding to units, and jobs too narrow for what their class was given
            filler.place(job, due[job.batch_id], left)
    return assess(problem, prices, due, filler.allotments, filler.loads)


def _serve(
    problem: Problem, due: dict[str, float], group: WorkClass, c: int, work: dict[tuple[int, str, int], float]
) -> list[Allotment]:
    left = {job.batch_id: 1.0 for job in group.jobs}
    jobs = sorted(group.jobs, key=lambda j: (due[j.batch_id], j.deadline_s, j.batch_id))
    by_slot: dict[int, dict[str, float]] = defaultdict(dict)
    for (owner, pool, t), seconds in sorted(work.items()):
        if owner == c:
            by_slot[t][pool] = seconds
    out: list[Allotment] = []
    for t in sorted(by_slot):
        slot, room = problem.slots[t], by_slot[t]
        for job in jobs:
            if left[job.batch_id] <= _EPS or (slot.end_s > job.deadline_s + 1e-6 and not job.finish_late):
                continue
            width_s = job.width * slot.length_s
            for pool in room:
                seconds = min(room[pool], left[job.batch_id] * job.seconds_on[pool], width_s)
                if seconds > _EPS:
                    room[pool] -= seconds
                    width_s -= seconds
                    left[job.batch_id] -= seconds / job.seconds_on[pool]
                    out.append(allot(problem, job, pool, t, seconds))
    return out


def _load(
    problem: Problem, groups: list[WorkClass], allotments: list[Allotment], model: str, pool: str, slot: int, replicas: int
) -> list[Load]:
    """The start-up time of engines, on the account of the first job that uses them; none where nobody does."""
    from batchsched.planner.cpsat import load_share

    mine = [group for group in groups if group.models.get(pool) == model]
    jobs: dict[str, Job] = {job.batch_id: job for group in mine for job in group.jobs}
    users = [a for a in allotments if a.pool == pool and a.slot_index >= slot and a.batch_id in jobs]
    if not users:
        return []
    first = min(users, key=lambda a: (a.slot_index, a.batch_id)).batch_id
    startup = max(group.startup_s[pool] for group in mine)
    return [Load(first, model, pool, t, seconds * replicas) for t, seconds in load_share(problem, slot, startup)]
