"""From classes back to jobs: within a class, in each slot, the earliest deadline is served first.

The prefix rows of the class model are what makes this order meet every deadline that any order meets.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict

from batchsched.planner.classes import WorkClass
from batchsched.planner.cost import assess
from batchsched.planner.engines import load_share
from batchsched.planner.greedy import Filler, allot, by_due, loads
from batchsched.planner.plan import Allotment, Load, Plan
from batchsched.planner.price import price
from batchsched.planner.problem import Configuration, Problem

_EPS = 1e-9


def disaggregate(
    problem: Problem,
    due: dict[str, float],
    groups: list[WorkClass],
    work: dict[tuple[int, str, int], float],
    starts: dict[tuple[str, int], int],
) -> Plan:
    """The jobs' plan for classes' seconds (class, their name for a configuration, slot) and engine starts (name of a
    configuration, slot)."""
    by_class: dict[int, dict[int, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for (c, key, t), seconds in sorted(work.items()):
        by_class[c][t][key] = seconds
    allotments = [a for c, group in enumerate(groups) for a in _serve(problem, due, group, by_class[c])]
    prices = price(problem)
    filler = Filler(problem, prices)
    filler.resume(allotments, _loads(problem, groups, allotments, starts))
    done: dict[str, float] = defaultdict(float)
    for a in allotments:
        done[a.batch_id] += a.requests
    for job in by_due((job for group in groups for job in group.jobs), due):
        left = 1.0 - done[job.batch_id] / job.remaining_requests
        if left > _EPS:  # rounding to units, and jobs too narrow for what their class was given
            filler.place(job, due[job.batch_id], left)
    filler.spare()
    return assess(problem, prices, due, filler.allotments, filler.loads)


def _serve(problem: Problem, due: dict[str, float], group: WorkClass, by_slot: dict[int, dict[str, float]]) -> list[Allotment]:
    """`by_slot`: seconds of the class by slot and configuration."""
    left = {job.batch_id: 1.0 for job in group.jobs}
    jobs = by_due(group.jobs, due)
    out: list[Allotment] = []
    for t in sorted(by_slot):
        slot, room = problem.slots[t], by_slot[t]
        jobs = [job for job in jobs if left[job.batch_id] > _EPS and (slot.end_s <= job.deadline_s + 1e-6 or job.finish_late)]
        for job in jobs:
            if max(room.values()) <= _EPS:
                break
            width_s = job.width * slot.length_s
            for key in room:
                seconds = min(room[key], left[job.batch_id] * job.seconds_on[key], width_s)
                if seconds > _EPS:
                    room[key] -= seconds
                    width_s -= seconds
                    left[job.batch_id] -= seconds / job.seconds_on[key]
                    out.append(allot(problem, job, key, t, seconds))
    return out


def _loads(
    problem: Problem, groups: list[WorkClass], allotments: list[Allotment], starts: dict[tuple[str, int], int]
) -> list[Load]:
    """The start-up time of engines, on the account of the first job that uses them; none where nobody does."""
    lengths = [slot.length_s for slot in problem.slots]
    configs: dict[str, Configuration] = {}
    startup: dict[str, float] = defaultdict(float)
    name_of: dict[tuple[str, str], str] = {}
    for group in groups:
        for key, config in group.configs.items():
            configs[config.name] = config
            startup[config.name] = max(startup[config.name], group.startup_s[key])
            name_of |= {(job.batch_id, key): config.name for job in group.jobs}
    users: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for a in allotments:
        users[name_of[a.batch_id, a.key]].append((a.slot_index, a.batch_id))
    for mine in users.values():
        mine.sort()
    out: list[Load] = []
    for (name, slot), replicas in sorted(starts.items()):
        mine = users[name]
        first = bisect_left(mine, (slot, ""))
        if first < len(mine):
            out += loads(mine[first][1], configs[name], replicas, load_share(lengths, slot, startup[name]))
    return out
