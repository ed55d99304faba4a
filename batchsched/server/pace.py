"""Which running chunks take much longer than was thought, so that the plan is made anew."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import msgspec

from batchsched.planner.allowance import key_now, request_s
from batchsched.published import Published
from batchsched.queue.rows import Row

SLOWER = 1.5
"""A chunk that has run this many times as long as all of its work was expected to take is slower than thought."""
LEAST_S = 20.0
"""Sooner nothing is said: what comes to life slowly is not slow."""


class _Lease(msgspec.Struct):
    since: datetime
    left: int
    told: bool = False


class Pace:
    """Remembers of each worker's leases when this server heard of them first; each is told once."""

    def __init__(self) -> None:
        self._seen: dict[str, dict[tuple[str, int], _Lease]] = {}

    def slow(self, worker_id: str, held: Iterable[Row], published: Published | None, now: datetime) -> bool:
        """A worker says which chunks it holds: is one of them slower than thought, of which that was not told yet?"""
        before, mine = self._seen.pop(worker_id, {}), dict[tuple[str, int], _Lease]()
        running = [chunk for chunk in held if chunk["completed"] + chunk["failed"] < chunk["lines"]]
        for chunk in running:
            key = (chunk["id"], chunk["token"])
            mine[key] = before.get(key) or _Lease(now, chunk["lines"] - chunk["completed"] - chunk["failed"])
        if mine:
            self._seen[worker_id] = mine
        slow = False
        for chunk, lease in zip(running, mine.values(), strict=True):
            if not lease.told and _late(chunk, lease, len(mine), published, now):
                slow = lease.told = True
        return slow


def _late(chunk: Row, lease: _Lease, beside: int, published: Published | None, now: datetime) -> bool:
    """Several chunks of one worker share its engine."""
    job = published.jobs.get(chunk["batch_id"]) if published else None
    if published is None or job is None:
        return False
    key = key_now(published.plan, job, chunk["pool"], (now - published.made_at).total_seconds())
    expected_s = lease.left * request_s(job, key) * beside if key else 0.0
    return expected_s > 0 and (now - lease.since).total_seconds() > max(LEAST_S, SLOWER * expected_s)
