"""What a pool may lease by the plan at an instant, and which jobs may change places within it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping

from batchsched.planner.plan import Plan
from batchsched.planner.problem import Configuration, Job

_EPS = 1e-6
_LEAST = 0.5
"""Requests."""
ToBeHad = Callable[[Configuration], bool]
"""Is there now all that a configuration takes?"""


def request_s(job: Job, key: str) -> float:
    """Engine seconds that one request of a job is expected to take in a configuration, by the job's name for it."""
    return job.seconds_on.get(key, 0.0) / max(1, job.remaining_requests)


def key_now(plan: Plan, job: Job, pool: str, now_s: float, to_be_had: ToBeHad) -> str | None:
    """The job's name for the configuration in which a pool should work on it: by the plan that of its place there now, else of
    the next, else of the last; the fastest that can be had where it has no place; None where the pool may not work on it."""
    mine = plan.at(job.batch_id, pool)
    now = next((a for a in mine if now_s < a.end_s), mine[-1] if mine else None)
    return now.key if now else fastest_key(job, pool, to_be_had)


def fastest_key(job: Job, pool: str, to_be_had: ToBeHad) -> str | None:
    """The job's name for its fastest configuration on a pool of those that can be had, of all where none can; None where it has
    none there."""
    keys = job.keys_on(pool)
    return next((key for key in keys if to_be_had(job.configuration(key))), next(iter(keys), None))


def allowances(
    plan: Plan,
    jobs: Mapping[str, Job],
    pool: str,
    now_s: float,
    leased: Mapping[str, float],
    to_be_had: ToBeHad = lambda _: True,
) -> tuple[dict[str, float], dict[str, float]]:
    """Requests that each job may lease on a pool, and the engine seconds that the jobs of each model may lease together.

    A job whose place comes later may go first, where that later place is not too late for any job of its model that has a place
    now: the pool works in the same slots all the same, so neither grams nor deadlines change, and tenants can share by weight
    what the planner gave to the earliest deadline. Crumbs open nothing until they come to half a request: a chunk is more than
    that. `leased`: requests of each job leased so far, as the tally counts them.
    """
    asked = dict.fromkeys([*(a.batch_id for a in plan.on(pool)), *leased])
    keys = {name: key for name in asked if name in jobs and (key := key_now(plan, jobs[name], pool, now_s, to_be_had))}
    models = {name: jobs[name].configuration(key).model for name, key in keys.items()}
    begun: dict[str, float] = defaultdict(float)
    open_now: set[str] = set()
    crumbs: set[str] = set()
    for a in plan.on(pool):
        if a.start_s <= now_s and a.batch_id in jobs:
            begun[a.batch_id] += a.requests
            if now_s < a.end_s:
                (crumbs if a.crumb else open_now).add(a.batch_id)
    open_now |= {name for name in crumbs if begun[name] - leased.get(name, 0.0) >= _LEAST}
    room_s: dict[str, float] = defaultdict(float)
    by_s: dict[str, float] = {}
    for name in dict.fromkeys([*begun, *(name for name in leased if name in keys)]):  # in an order, since sums hang on it
        job, left, model = jobs[name], begun.get(name, 0.0) - leased.get(name, 0.0), models[name]
        room_s[model] += left * request_s(job, keys[name])
        if name in open_now and left > _EPS:
            by_s[model] = min(by_s.get(model, math.inf), plan.due_s.get(name, job.deadline_s))
    allowed = {name: begun[name] - leased.get(name, 0.0) for name in open_now}
    for a in plan.on(pool):
        same = a.start_s > now_s and a.key == keys.get(a.batch_id)
        if same and a.end_s <= by_s.get(models[a.batch_id], -math.inf):
            before = begun.get(a.batch_id, 0.0) - leased.get(a.batch_id, 0.0)
            allowed[a.batch_id] = allowed.get(a.batch_id, before) + a.requests
    return {name: requests for name, requests in allowed.items() if requests > _EPS}, dict(room_s)
