"""What the last plan leaves for the next one: the work that it had still before it, in the new problem's time and slots."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict

from batchsched.planner.plan import Plan
from batchsched.planner.problem import Problem, Stood


def standing(plan: Plan, passed_s: float) -> list[Stood]:
    """Its allotments after so many seconds; of what is under way the rest."""
    found = []
    for a in plan.allotments:
        start, end = a.start_s - passed_s, a.end_s - passed_s
        if end > 0:
            share = 1.0 if start >= 0 else end / (end - start)
            found.append(Stood(a.batch_id, a.key, max(0.0, start), end, a.seconds * share))
    return found


def standing_work(problem: Problem) -> dict[tuple[str, str, int], float]:
    """Replica-seconds by job, configuration and slot: no more of any job than is left of it, in time."""
    jobs = {job.batch_id: job for job in problem.jobs}
    begins = [slot.start_s for slot in problem.slots]
    left: dict[str, float] = defaultdict(lambda: 1.0)
    work: dict[tuple[str, str, int], float] = defaultdict(float)
    for stood in sorted(problem.standing, key=lambda each: each.start_s):
        job = jobs.get(stood.batch_id)
        if job is None or not job.seconds_on.get(stood.key) or not (stood.end_s > stood.start_s and stood.seconds > 0):
            continue
        whole = job.seconds_on[stood.key]
        seconds = min(stood.seconds, left[stood.batch_id] * whole)
        left[stood.batch_id] -= seconds / whole
        for t in range(max(0, bisect_right(begins, stood.start_s) - 1), len(begins)):
            slot = problem.slots[t]
            common = min(stood.end_s, slot.end_s) - max(stood.start_s, slot.start_s)
            if common <= 0:
                break
            work[stood.batch_id, stood.key, t] += seconds * common / (stood.end_s - stood.start_s)
    return work
