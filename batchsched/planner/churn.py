"""A limit on churn: what stood is kept where the new plan saves too little to turn everything over."""

from __future__ import annotations

from collections import defaultdict

import msgspec

from batchsched.planner import with_interval
from batchsched.planner.cost import late_s, lateness_g
from batchsched.planner.crumbs import swept
from batchsched.planner.due import due_times
from batchsched.planner.greedy import by_due, followed
from batchsched.planner.hastened import hastened
from batchsched.planner.last import standing_work
from batchsched.planner.plan import Plan
from batchsched.planner.price import price
from batchsched.planner.problem import Problem, Slot, cut
from batchsched.planner.sound import sound
from batchsched.planner.verify import violations

CALM = 0.05
"""While a better plan is sought, what stood is kept where it costs up to this share more than the greedy plan."""


def carried_on(problem: Problem, first: Plan) -> Plan:
    """What stood, with what is new beside it, or `first`, the greedy plan: what can be had at once."""
    return settled(msgspec.structs.replace(problem, churn=max(CALM, problem.churn)), first)


def settled(problem: Problem, found: Plan) -> Plan:
    """`found`, or what stood carried on, where that leaves no more work late, by weight, and is dearer by at most the share
    `problem.churn` of what the found plan costs without its lateness.

    What is new is placed beside it where it is cheapest.
    """
    if problem.churn <= 0 or not problem.standing or not found.slots:
        return found
    problem = sound(problem)[0]
    fine = cut(problem, [slot.end_s for slot in found.slots[:-1]])
    if not _same(fine.slots, found.slots):
        return found
    kept = _carried(fine)
    dearer_g = kept.objective - found.objective
    if dearer_g > problem.churn * (found.objective - lateness_g(fine, price(fine), found)):
        return found
    if late_s(fine, kept) > late_s(fine, found) + 1e-6 or violations(problem, kept):
        return found
    kept = msgspec.structs.replace(kept, solver="standing", status="feasible", bound=found.bound, notes=found.notes)
    return with_interval(fine, kept)


def _same(ours: list[Slot], theirs: list[Slot]) -> bool:
    return len(ours) == len(theirs) and all(abs(a.start_s - b.start_s) < 1e-6 for a, b in zip(ours, theirs, strict=True))


def _carried(fine: Problem) -> Plan:
    due, prices = hastened(fine, due_times(fine)), price(fine)
    told = {job.batch_id for job in fine.jobs if job.at_once}  # these follow nothing that stood
    by_key: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    for (batch_id, key, t), seconds in standing_work(fine).items():
        if batch_id not in told:
            by_key[batch_id, key][t] = seconds
    runnable = [job for job in fine.jobs if job.seconds_on and job.remaining_requests > 0]
    return swept(fine, due, followed(fine, prices, due, by_due(runnable, due), by_key))
