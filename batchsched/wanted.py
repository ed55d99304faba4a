"""How many replicas of a pool the plan in force wants now, and which models those that run should keep ready.

A replica is wanted for the work, the engine starts and the engines kept ready that the plan has in a slot; a lead before the slot
begins, so that it is there with its model loaded; and wherever a batch can wait no longer and is not left to the plan.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection
from datetime import datetime, timedelta

import msgspec

from batchsched.planner import Allotment, Plan
from batchsched.planner.plan import Hold, Load
from batchsched.published import SLACK, Published


class Crew(msgspec.Struct, frozen=True):
    """What a pool should have at work."""

    replicas: int
    keep: frozenset[str] = frozenset()
    next_at: datetime | None = None


def crew(published: Published, pool: str, now: datetime, *, count: int, lead_s: float, unfinished: Collection[str]) -> Crew:
    """What the pool should have now. `count`: the most that it may have; `lead_s`: from the start of a worker to a worker that is
    there, to which each model adds the start of its engine; `unfinished`: batches of which something is left to be done or is
    being done."""
    planned = _planned(published, pool, (now - published.made_at).total_seconds(), lead_s, unfinished)
    pressing = _pressing(published, pool, now, lead_s, unfinished)
    next_at, _ = published.coming(pool, now, unfinished)
    return Crew(min(count, max(planned, pressing)), frozenset(published.kept(pool, now)), next_at)


def _planned(published: Published, pool: str, now_s: float, lead_s: float, unfinished: Collection[str]) -> int:
    """The most that any slot wants which is on, or close enough ahead that its replicas have to be started."""
    plan, near = published.plan, set[int]()
    for a in plan.on(pool):
        job = published.jobs[a.batch_id]
        if a.batch_id in unfinished and not a.crumb and a.start_s - now_s <= lead_s + job.startup_s_on[a.key] and now_s < a.end_s:
            near.add(a.slot_index)
    near |= {hold.slot_index for hold in plan.holds if hold.pool == pool and _on(plan, hold.slot_index, now_s)}
    seconds: dict[int, float] = defaultdict(float)
    uses: list[Allotment | Load | Hold] = [*plan.on(pool), *plan.loads, *plan.holds]
    for use in uses:
        if use.pool == pool and use.slot_index in near and use.batch_id in unfinished:
            seconds[use.slot_index] += use.seconds
    enough = (max(1, math.ceil(s / plan.slots[index].length_s - SLACK)) for index, s in seconds.items() if s > 0)
    return max(enough, default=0)


def _on(plan: Plan, index: int, now_s: float) -> bool:
    return plan.slots[index].start_s <= now_s < plan.slots[index].end_s


def _pressing(published: Published, pool: str, now: datetime, lead_s: float, unfinished: Collection[str]) -> int:
    """As many as batches that can wait no longer can use there: each chunk of theirs takes one."""
    wide = 0.0
    for name, job in published.jobs.items():
        if name in unfinished and pool in job.pools:
            startup_s = min(job.startup_s_on[key] for key in job.keys_on(pool))
            then = min(now + timedelta(seconds=lead_s + startup_s), max(now, published.latest_start_at.get(name) or now))
            if published.must(name, then) and not published.left_to_plan(name, pool, then):
                wide += job.max_replicas or math.inf
    return int(min(wide, 100_000))
