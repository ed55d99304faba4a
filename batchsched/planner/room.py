"""Will a job make it, if all that is due earlier goes first and nothing waits? Open time is set against doubted work."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from batchsched.planner.doubt import Doubt
from batchsched.planner.problem import SURE, Job, PoolState, Problem

_EPS = 1e-9


class Room(msgspec.Struct, frozen=True):
    """What is open to a job until an instant, in units of its own expected work."""

    times: float
    """How many times its work fits after the expected work of the jobs that are due earlier."""
    earlier: float
    """What of that work is in doubt."""
    doubt: Doubt
    """Of its own work and `earlier` together, and of the places where they are done; in shares of their sum."""

    @property
    def probability(self) -> float:
        """That it is done by then."""
        return self.doubt.within((self.times + self.earlier) / (1.0 + self.earlier)) if self.times > 0 else 0.0


def room(problem: Problem, job: Job, until_s: float) -> Room:
    """What is open to a job of the problem until an instant. Time beyond the horizon is taken to be as open as the horizon is on
    average."""
    ends = np.array([slot.end_s for slot in problem.slots])
    starts = np.array([slot.start_s for slot in problem.slots])
    lengths = np.clip(np.minimum(ends, until_s) - starts, 0.0, None)
    pools = {pool.name: pool for pool in problem.pools}
    free = {name: np.array(pool.capacity) * lengths for name, pool in pools.items()}
    taken = _taken(problem, job, free, starts, lengths)
    shares = _shares(job, pools, free, lengths)
    beyond = max(1.0, until_s / problem.end_s) if problem.end_s > 0 else 0.0
    times = sum(shares.values()) * beyond
    open_to = {name: share * beyond for name, share in shares.items()}
    doubted: list[tuple[Job, float]] = []
    for other, on, whole in taken:
        worth = {name: seconds / job.seconds_on[name] for name, seconds in on.items() if job.seconds_on.get(name, 0.0) > 0}
        for name, share in worth.items():
            open_to[name] = open_to.get(name, 0.0) + share
        if other.spread > 0 and whole:  # what takes all that it can get takes no more
            doubted.append((other, sum(worth.values())))
    return Room(times, sum(share for _, share in doubted), _doubt(problem, job, doubted, open_to, times, until_s))


def _taken(
    problem: Problem, job: Job, free: dict[str, NDArray[np.float64]], starts: NDArray[np.float64], lengths: NDArray[np.float64]
) -> list[tuple[Job, dict[str, float], bool]]:
    """Jobs with earlier deadlines, the seconds that each takes of its places, which `free` loses, and whether that is enough."""
    found: list[tuple[Job, dict[str, float], bool]] = []
    earlier = [other for other in problem.jobs if _before(other, job) and not job.seconds_on.keys().isdisjoint(other.seconds_on)]
    for other in sorted(earlier, key=lambda o: (o.deadline_s, o.batch_id)):
        left, on = 1.0, dict[str, float]()
        slots = int(np.searchsorted(starts, other.deadline_s))
        for name in sorted(set(other.seconds_on) & free.keys(), key=lambda n: (other.seconds_on[n], n)):
            work = other.seconds_on[name]
            if left <= _EPS or work <= 0:
                continue
            some = np.minimum(free[name][:slots], other.width * lengths[:slots])
            some = np.diff(np.minimum(np.cumsum(some), left * work), prepend=0.0)
            free[name][:slots] -= some
            on[name] = float(some.sum())
            left -= on[name] / work
        found.append((other, on, left <= _EPS))
    return found


def _shares(
    job: Job, pools: Mapping[str, PoolState], free: dict[str, NDArray[np.float64]], lengths: NDArray[np.float64]
) -> dict[str, float]:
    """How many times its work fits in each place, the fastest first, after one engine start."""
    places = sorted(set(job.seconds_on) & free.keys(), key=lambda n: (job.seconds_on[n], n))
    loaded = {name for name in places if job.model_at(name) in pools[name].loaded}
    startup = min((0.0 if name in loaded else job.startup_s_on[name] for name in places), default=0.0)
    width_s = job.width * lengths
    found: dict[str, float] = {}
    for name in places:
        seconds = np.minimum(free[name], width_s)
        width_s = width_s - seconds
        open_s = float(seconds.sum())
        waste = min(startup, open_s)
        startup -= waste
        found[name] = (open_s - waste) / job.seconds_on[name] if job.seconds_on[name] > 0 else math.inf
    return found


def _doubt(
    problem: Problem, job: Job, doubted: Sequence[tuple[Job, float]], open_to: Mapping[str, float], times: float, until_s: float
) -> Doubt:
    """Of the job's work and that of others, by their shares of it, on places with so much room until then."""
    total = 1.0 + sum(share for _, share in doubted)
    common: dict[str, float] = defaultdict(float)
    own = 0.0
    for other, share in [(job, 1.0), *doubted]:
        common[other.model] += share / total * _relative(other.sigma)
        own += (share / total * _relative(other.sigma_own)) ** 2
    spread, own = sum(math.log1p(share**2) for share in common.values()), math.log1p(own)
    room = times + total - 1.0
    if not 0 < room < math.inf:
        return Doubt(math.sqrt(spread), math.sqrt(own))
    stops = lost = 0.0
    for pool in problem.pools:
        if (here := open_to.get(pool.name, 0.0)) > 0 and pool.supply != SURE:
            slots = max(1.0, min(until_s, problem.end_s) / pool.supply.steady_s)
            spread += (here / room * pool.supply.sigma) ** 2
            own += (here / room * pool.supply.slot_sigma) ** 2 / slots
            failures = pool.supply.failures_per_replica_h * here * job.seconds_on[pool.name] / 3600
            stops += failures
            lost += failures * pool.supply.repair_s / job.seconds_on[pool.name]
    return Doubt(math.sqrt(spread), math.sqrt(own), stops, lost / stops / total if stops > 0 else 0.0)


def _relative(sigma: float) -> float:
    """The standard deviation of a lognormal over its mean."""
    return math.sqrt(math.expm1(sigma * sigma))


def _before(other: Job, job: Job) -> bool:
    return (other.deadline_s, other.batch_id) < (job.deadline_s, job.batch_id) and other.deadline_s > 0
