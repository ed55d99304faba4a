"""Which running chunks take much longer than was thought, so that the plan is made anew."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import msgspec

from batchsched.planner.allowance import request_s
from batchsched.published import Published
from batchsched.queue.rows import Row

SLOWER = 1.5
"""A chunk that has run this many times as long as its work was expected to take is slower than thought."""
LEAST_S = 20.0
"""Sooner nothing is said: what comes to life slowly is not slow."""
STRETCH_S = 60.0
STRETCH_REQUESTS = 8.0
"""A chunk may run for an hour. Of each stretch so long, in which so many requests were expected, it is said by itself."""
STRETCHES = 5
"""Of one lease: after so many slow ones each must be twice as long as the one before, for no plan has made it better."""


class _Lease(msgspec.Struct):
    since: datetime
    left: int
    told: bool = False
    stretch_since: datetime | None = None
    """None until its first answers: before them it comes to life."""
    stretch_left: int = 0
    slow_stretches: int = 0


class Pace:
    """Remembers of each worker's leases when this server heard of them first; each is told once, and each slow stretch of it."""

    def __init__(self) -> None:
        self._seen: dict[str, dict[tuple[str, int], _Lease]] = {}

    def slow(
        self, worker_id: str, held: Iterable[Row], published: Published | None, now: datetime, *, spare: bool = False
    ) -> bool:
        """A worker says which chunks it holds: is one of them slower than the plan in force thinks, of which that was not told
        yet? Of `spare` capacity no stretches are told: there it is online users who come and go."""
        before, mine = self._seen.pop(worker_id, {}), dict[tuple[str, int], _Lease]()
        running = [chunk for chunk in held if chunk["completed"] + chunk["failed"] < chunk["lines"]]
        for chunk in running:
            key = (chunk["id"], chunk["token"])
            mine[key] = before.get(key) or _Lease(now, _left(chunk))
        if mine:
            self._seen[worker_id] = mine
        slow = False
        for chunk, lease in zip(running, mine.values(), strict=True):
            each_s = _request_s(chunk, published, now) * len(mine)  # several chunks of one worker share its engine
            if not lease.told and _late(lease, each_s, now):
                slow = lease.told = True
            slow |= not spare and _slow_stretch(lease, _left(chunk), each_s, now)
        return slow


def _left(chunk: Row) -> int:
    left: int = chunk["lines"] - chunk["completed"] - chunk["failed"]
    return left


def _request_s(chunk: Row, published: Published | None, now: datetime) -> float:
    """Seconds that the plan in force expects one of its requests to take; 0 where it does not say."""
    job = published.jobs.get(chunk["batch_id"]) if published else None
    if published is None or job is None:
        return 0.0
    key = published.key(job.batch_id, chunk["pool"], now)
    return request_s(job, key) if key else 0.0


def _late(lease: _Lease, each_s: float, now: datetime) -> bool:
    expected_s = lease.left * each_s
    return expected_s > 0 and (now - lease.since).total_seconds() > max(LEAST_S, SLOWER * expected_s)


def _slow_stretch(lease: _Lease, left: int, each_s: float, now: datetime) -> bool:
    """Did a stretch of it end just now that was slow?"""
    if lease.stretch_since is None:
        if left < lease.left:
            lease.stretch_since, lease.stretch_left = now, left
        return False
    seconds = (now - lease.stretch_since).total_seconds()
    expected = min(seconds / each_s, lease.stretch_left) if each_s > 0 else 0.0
    if seconds < STRETCH_S * 2 ** max(0, lease.slow_stretches - STRETCHES + 1) or expected < STRETCH_REQUESTS:
        return False
    done, lease.stretch_since, lease.stretch_left = lease.stretch_left - left, now, left
    slow = expected > SLOWER * done
    lease.slow_stretches = lease.slow_stretches + 1 if slow else 0
    return slow
