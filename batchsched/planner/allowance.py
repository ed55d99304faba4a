"""What a pool may lease by the plan at an instant, and which jobs may change places within it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping

from batchsched.planner.plan import Plan
from batchsched.planner.problem import Job

_EPS = 1e-6


def request_s(job: Job, pool: str) -> float:
    """Engine seconds that one request of a job is expected to take on a pool."""
    return job.seconds_on.get(pool, 0.0) / max(1, job.remaining_requests)


def allowances(
    plan: Plan, jobs: Mapping[str, Job], pool: str, now_s: float, leased: Mapping[str, float]
) -> tuple[dict[str, float], dict[str, float]]:
    """Requests that each job may lease on a pool, and the engine seconds that the jobs of each model may lease together.

    A job whose place comes later may go first, where that later place is not too late for any job of its model that has a place
    now: the pool works in the same slots all the same, so neither grams nor deadlines change, and tenants can share by weight
    what the planner gave to the earliest deadline. `leased`: requests of each job leased so far, as the tally counts them.
    """
    begun: dict[str, float] = defaultdict(float)
    open_now: set[str] = set()
    for a in plan.on(pool):
        if a.start_s <= now_s and a.batch_id in jobs:
            begun[a.batch_id] += a.requests
            if now_s < a.end_s:
                open_now.add(a.batch_id)
    room_s: dict[str, float] = defaultdict(float)
    by_s: dict[str, float] = {}
    for name in {*begun, *(leased.keys() & jobs.keys())}:
        job, left = jobs[name], begun.get(name, 0.0) - leased.get(name, 0.0)
        room_s[job.model_at(pool)] += left * request_s(job, pool)
        if name in open_now and left > _EPS:
            by_s[job.model_at(pool)] = min(by_s.get(job.model_at(pool), math.inf), plan.due_s.get(name, job.deadline_s))
    allowed = {name: begun[name] - leased.get(name, 0.0) for name in open_now}
    for a in plan.on(pool):
        if a.start_s > now_s and a.batch_id in jobs and a.end_s <= by_s.get(jobs[a.batch_id].model_at(pool), -math.inf):
            before = begun.get(a.batch_id, 0.0) - leased.get(a.batch_id, 0.0)
            allowed[a.batch_id] = allowed.get(a.batch_id, before) + a.requests
    return {name: requests for name, requests in allowed.items() if requests > _EPS}, dict(room_s)
