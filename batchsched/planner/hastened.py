"""Jobs that were told to start now: planned for as soon as there is room, as far as that makes no other job late."""

from __future__ import annotations

import math

import msgspec

from batchsched.planner.at_once import at_once
from batchsched.planner.greedy import greedy
from batchsched.planner.plan import Plan
from batchsched.planner.problem import Problem

_EPS_S = 1e-6
_EPS_REQUESTS = 1e-3


def hastened(problem: Problem, due: dict[str, float]) -> dict[str, float]:
    """The due times, for jobs that are to start now no later than they could be done if only these were there; or else, if all
    were run at once.

    A due time is a wish that every solver heeds, dearer than any grams. Where all these wishes together would make some other job
    late or take from its margin, fewer of them count, those with the earliest deadlines; their deadlines hold all the same.
    `problem`: with slots cut at the due times.
    """
    told = sorted((job for job in problem.jobs if job.at_once), key=lambda job: (job.deadline_s, job.batch_id))
    if not told:
        return due
    alone = _soonest(msgspec.structs.replace(problem, jobs=told), due)
    others = [job.batch_id for job in problem.jobs if not job.at_once]
    if not others:
        return due | {name: min(due[name], at_s) for name, at_s in alone.items()}
    amid, before = _soonest(problem, due), _behind(greedy(problem, due), due)
    while told:
        for soon in (alone, amid):
            wished = due | {job.batch_id: min(due[job.batch_id], soon.get(job.batch_id, math.inf)) for job in told}
            plan = greedy(problem, wished)
            kept, met = _behind(plan, due), _behind(plan, wished)  # what cannot be met anyway would no longer hasten
            if all(kept[name] <= before[name] + _EPS_REQUESTS for name in others) and all(
                met[job.batch_id] <= before[job.batch_id] + _EPS_REQUESTS for job in told
            ):
                return wished
        told = told[: len(told) // 4]
    return due


def _soonest(problem: Problem, due: dict[str, float]) -> dict[str, float]:
    """The end of the slot in which each is done where all run at once; without those that would not be done."""
    plan = at_once(problem, due)
    done = (job.batch_id for job in problem.jobs if not {job.batch_id}.intersection(plan.late, plan.later))
    return {name: mine[-1].end_s for name in done if (mine := plan.of(name))}


def _behind(plan: Plan, due: dict[str, float]) -> dict[str, float]:
    """Requests of each job that are done after its due time, or not at all."""
    return {
        name: plan.late.get(name, 0.0)
        + plan.later.get(name, 0.0)
        + sum(a.requests for a in plan.of(name) if a.end_s > at_s + _EPS_S)
        for name, at_s in due.items()
    }
