"""Will a job make it, if all that is due earlier goes first and nothing waits? Open time is set against doubted work."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from statistics import NormalDist

import msgspec
import numpy as np
from numpy.typing import NDArray

from batchsched.planner.doubt import Doubt
from batchsched.planner.problem import SURE, Job, Problem

_EPS = 1e-9
Array = NDArray[np.float64]


class Room(msgspec.Struct, frozen=True):
    """What is open to a job until an instant, in units of its own expected work."""

    times: float
    """How many times its work fits after the expected work of the jobs that are due earlier."""
    earlier: float
    """What those are expected to take of its places."""
    doubt: Doubt
    """Of its own work and `earlier` together, and of the places where they are done; in shares of their sum."""

    left: bool = True
    """Is there any work?"""

    @property
    def probability(self) -> float:
        """That it is done by then."""
        if not self.left:
            return 1.0
        return self.doubt.within((self.times + self.earlier) / (1.0 + self.earlier)) if self.times > 0 else 0.0


def room(problem: Problem, job: Job, until_s: float) -> Room:
    """What is open to a job of the problem until an instant. Time beyond the horizon is taken to be as open as the horizon is on
    average."""
    walk = _Walk(problem)
    for other in problem.jobs if until_s > 0 else []:
        if _order(other) < _order(job):
            walk.waiting.append(other)
    walk.go()
    return walk.room(job, until_s)


def rooms(problem: Problem, only: Collection[str], aside: Sequence[Job] = ()) -> dict[str, Room]:
    """What is open to each of these jobs until its deadline, in one walk over all. `aside`: jobs that are not the problem's, each
    judged beside those that are; they take nothing from each other."""
    walk, apart = _Walk(problem), {job.batch_id for job in aside}
    found: dict[str, Room] = {}
    for job in sorted([*problem.jobs, *aside], key=_order):
        if job.batch_id in only or job.batch_id in apart:
            walk.go()
            found[job.batch_id] = walk.room(job, job.deadline_s)
        if job.batch_id not in apart:
            walk.waiting.append(job)
    return found


def probabilities(problem: Problem, only: Collection[str], aside: Sequence[Job] = ()) -> dict[str, float]:
    """That each of these jobs is done by its deadline, as `rooms` sees it."""
    return {name: room.probability for name, room in rooms(problem, only, aside).items()}


def chances(problem: Problem, variants: Sequence[Job]) -> list[float]:
    """What each of these variants of one job would be promised beside all other jobs, in one walk."""
    walk, found = _Walk(problem), dict[int, float]()
    others = sorted((job for job in problem.jobs if job.batch_id != variants[0].batch_id), key=_order, reverse=True)
    for n in sorted(range(len(variants)), key=lambda n: variants[n].deadline_s):
        while others and _order(others[-1]) < _order(variants[n]):
            walk.waiting.append(others.pop())
        walk.go()
        found[n] = walk.room(variants[n], variants[n].deadline_s).probability
    return [found[n] for n in range(len(variants))]


class _Walk:
    """Jobs take their expected work in the order of their deadlines, each on all of its places at once."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._starts = np.array([slot.start_s for slot in problem.slots])
        self._lengths = np.array([slot.length_s for slot in problem.slots])
        self._index = {pool.name: p for p, pool in enumerate(problem.pools)}
        shape = (len(problem.pools), len(problem.slots))
        self._capacity = np.array([pool.capacity for pool in problem.pools], float).reshape(shape)
        self._free = self._capacity * self._lengths
        self._models: dict[str, int] = {}
        self.waiting: list[Job] = []
        # Of each job that has taken its work: seconds by pool, deviation over mean, its model's part of that, its model.
        self._seconds = np.zeros((len(problem.jobs), len(problem.pools)))
        self._relative, self._common = np.zeros((2, len(problem.jobs)))
        self._model = np.zeros(len(problem.jobs), int)
        self._count = 0

    def go(self) -> None:
        """Those who wait take what they are expected to: nobody more than is open to it before its own deadline."""
        for job in sorted(self.waiting, key=_order):
            if job.deadline_s > 0 and job.remaining_requests > 0:
                self._take(job)
        self.waiting.clear()

    def _take(self, job: Job) -> None:
        usable, n = self._usable(job, job.deadline_s), self._count
        work = job.work_on
        rate = sum((seconds / work[name] for name, seconds in usable.items()), np.zeros(len(self._starts)))
        left, self._relative[n] = _at_most(job.spread, float(rate.sum()))
        used = np.clip((left - np.cumsum(rate) + rate) / np.maximum(rate, _EPS), 0.0, 1.0)
        for name, seconds in usable.items():
            self._free[self._index[name]] -= seconds * used
            self._seconds[n, self._index[name]] = float((seconds * used).sum())
        self._common[n] = job.sigma / job.spread if job.spread > 0 else 0.0
        self._model[n] = self._models.setdefault(job.model, len(self._models))
        self._count += 1

    def _usable(self, job: Job, until_s: float) -> dict[str, Array]:
        """Seconds that it can use of each slot on its places, the fastest first, as far as it is wide."""
        lengths = np.clip(until_s - self._starts, 0.0, self._lengths)
        width_s, found, work = job.width * lengths, dict[str, Array](), job.work_on
        for name in sorted(work.keys() & self._index.keys(), key=lambda n: (work[n], n)):
            if work[name] > 0:
                p = self._index[name]
                found[name] = np.minimum(np.minimum(self._free[p], self._capacity[p] * lengths), width_s)
                width_s = width_s - found[name]
        return found

    def room(self, job: Job, until_s: float) -> Room:
        """What is open to it after all that has been taken."""
        usable = self._usable(job, until_s)
        per_second, shares = np.zeros(len(self._index)), np.zeros(len(self._index))
        startup, work = self._startup_s(job, usable), job.work_on
        beyond = max(1.0, until_s / self._problem.end_s) if self._problem.end_s > 0 else 0.0
        for name, seconds in usable.items():
            p, open_s = self._index[name], float(seconds.sum())
            waste = min(startup, open_s)
            startup -= waste
            per_second[p] = 1.0 / work[name]
            shares[p] = (open_s - waste) * per_second[p] * beyond
        taken = self._seconds[: self._count] * per_second
        worth = taken.sum(axis=1) * (self._relative[: self._count] > 0)
        doubt = self._doubt(job, worth, shares + taken.sum(axis=0), per_second, float(shares.sum()), until_s)
        return Room(float(shares.sum()), float(worth.sum()), doubt, job.remaining_requests > 0)

    def _startup_s(self, job: Job, usable: Collection[str]) -> float:
        """Of one engine start, where it is shortest."""
        configs = {key: config for key in job.seconds_on if (config := job.configuration(key)).pool in usable}
        starts = (0.0 if self._problem.ready(config) else job.startup_s_on[key] for key, config in configs.items())
        return min(starts, default=0.0)

    def _doubt(self, job: Job, worth: Array, open_to: Array, per_second: Array, times: float, until_s: float) -> Doubt:
        """Of the job's work and that of the earlier ones (`worth`), on places with so much room."""
        total, n = 1.0 + float(worth.sum()), self._count
        each = worth / total * self._relative[:n]
        by_model = np.zeros(len(self._models) + 1)
        np.add.at(by_model, self._model[:n], each * self._common[:n])
        mine, of_model = math.sqrt(math.expm1(job.spread**2)) / total, job.sigma / job.spread if job.spread > 0 else 0.0
        by_model[self._models.get(job.model, len(self._models))] += mine * of_model
        spread = float(np.log1p(by_model**2).sum())
        own = math.log1p(float((each**2 * (1 - self._common[:n] ** 2)).sum()) + mine**2 * (1 - of_model**2))
        stops = lost = 0.0
        room = times + total - 1.0
        for p, pool in enumerate(self._problem.pools):
            here, supply = float(open_to[p]), pool.supply
            if here > 0 and room > 0 and supply != SURE:
                slots = max(1.0, min(until_s, self._problem.end_s) / supply.steady_s)
                spread += (here / room * supply.sigma) ** 2
                own += (here / room * supply.slot_sigma) ** 2 / slots
                failures = supply.failures_per_replica_h * here / float(per_second[p]) / 3600
                stops += failures
                lost += failures * supply.repair_s * float(per_second[p])
        return Doubt(math.sqrt(spread), math.sqrt(own), stops, lost / stops / total if stops > 0 else 0.0)


def _at_most(sigma: float, most: float) -> tuple[float, float]:
    """A lognormal of mean 1 that is cut off at `most`: its mean, and its standard deviation over that."""
    if most <= 0 or sigma <= 0:
        return min(1.0, max(0.0, most)), 0.0
    z, normal = (math.log(most) + sigma * sigma / 2) / sigma, NormalDist()
    above = 1.0 - normal.cdf(z)
    mean = normal.cdf(z - sigma) + most * above
    square = math.exp(sigma * sigma) * normal.cdf(z - 2 * sigma) + most * most * above
    return mean, math.sqrt(max(0.0, square - mean * mean)) / mean if mean > 0 else 0.0


def _order(job: Job) -> tuple[float, str]:
    return job.deadline_s, job.batch_id
