"""Will a job make it, if all that is due earlier goes first and nothing waits? Open time is set against doubted work."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from statistics import NormalDist
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from batchsched.planner.doubt import Doubt
from batchsched.planner.problem import Configuration, Job, Problem

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
    found = dict(each_chance(problem, variants))
    return [found[n] for n in range(len(variants))]


def each_chance(problem: Problem, variants: Sequence[Job]) -> Iterator[tuple[int, float]]:
    """The same one by one, with the number of each, in the order of their deadlines: who has found what they seek may stop."""
    walk = _Walk(problem)
    others = sorted((job for job in problem.jobs if job.batch_id != variants[0].batch_id), key=_order, reverse=True)
    for n in sorted(range(len(variants)), key=lambda n: variants[n].deadline_s):
        while others and _order(others[-1]) < _order(variants[n]):
            walk.waiting.append(others.pop())
        walk.go()
        yield n, walk.room(variants[n], variants[n].deadline_s).probability


class _Usable(NamedTuple):
    """The places of a job, the fastest first."""

    rows: NDArray[np.intp]
    seconds: Array
    """That it can use of each slot, by place."""
    per_second: Array
    """What share of its work a second does there."""


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
        self._loaded = {pool.name: frozenset(pool.loaded) for pool in problem.pools}
        supplies = [pool.supply for pool in problem.pools]
        self._lasting, self._passing, self._steady_s, self._failures_per_h, self._repair_s = (
            np.array([(s.sigma, s.slot_sigma, s.steady_s, s.failures_per_replica_h, s.repair_s) for s in supplies], float)
            .reshape(-1, 5)
            .T
        )
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
        rate = usable.per_second @ usable.seconds
        left, self._relative[n] = _at_most(job.spread, float(rate.sum()))
        used = np.clip((left - np.cumsum(rate) + rate) / np.maximum(rate, _EPS), 0.0, 1.0)
        taken = usable.seconds * used
        self._free[usable.rows] -= taken
        self._seconds[n, usable.rows] = taken.sum(axis=1)
        self._common[n] = job.sigma / job.spread if job.spread > 0 else 0.0
        self._model[n] = self._models.setdefault(job.model, len(self._models))
        self._count += 1

    def _usable(self, job: Job, until_s: float) -> _Usable:
        """What it can use until an instant: all that is free on the fastest place, of the next as far as it is wider, etc."""
        lengths = np.clip(until_s - self._starts, 0.0, self._lengths)
        places = sorted((seconds, name) for name, seconds in job.work_on.items() if seconds > 0 and name in self._index)
        rows = np.array([self._index[name] for _, name in places], np.intp)
        free = np.minimum(self._free[rows], self._capacity[rows] * lengths)
        so_far = np.minimum(np.cumsum(free, axis=0), job.width * lengths)
        seconds = np.maximum(np.diff(so_far, axis=0, prepend=0.0), 0.0)
        return _Usable(rows, seconds, 1.0 / np.array([seconds for seconds, _ in places], float))

    def room(self, job: Job, until_s: float) -> Room:
        """What is open to it after all that has been taken."""
        usable = self._usable(job, until_s)
        per_second, shares = np.zeros(len(self._index)), np.zeros(len(self._index))
        beyond = max(1.0, until_s / self._problem.end_s) if self._problem.end_s > 0 else 0.0
        open_s = usable.seconds.sum(axis=1)
        after_s = np.maximum(np.cumsum(open_s) - self._startup_s(job), 0.0)  # an engine start takes the first of it
        per_second[usable.rows] = usable.per_second
        shares[usable.rows] = np.minimum(np.diff(after_s, prepend=0.0), open_s) * usable.per_second * beyond
        taken = self._seconds[: self._count] * per_second
        worth = taken.sum(axis=1) * (self._relative[: self._count] > 0)
        doubt = self._doubt(job, worth, shares + taken.sum(axis=0), per_second, float(shares.sum()), until_s)
        return Room(float(shares.sum()), float(worth.sum()), doubt, job.remaining_requests > 0)

    def _startup_s(self, job: Job) -> float:
        """Of one engine start, where it is shortest."""
        able = {name for name, seconds in job.work_on.items() if seconds > 0 and name in self._index}
        configs = {key: config for key in job.seconds_on if (config := job.configuration(key)).pool in able}
        starts = (0.0 if self._ready(config) else job.startup_s_on[key] for key, config in configs.items())
        return min(starts, default=0.0)

    def _ready(self, config: Configuration) -> bool:
        return (config.model if config.plain else config.name) in self._loaded[config.pool]

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
        if room > 0 and len(here := np.flatnonzero(open_to > 0)):
            share, each = open_to[here] / room, per_second[here]
            slots = np.maximum(1.0, min(until_s, self._problem.end_s) / self._steady_s[here])
            spread += float(((share * self._lasting[here]) ** 2).sum())
            own += float(((share * self._passing[here]) ** 2 / slots).sum())
            failures = self._failures_per_h[here] * open_to[here] / each / 3600
            stops, lost = float(failures.sum()), float((failures * self._repair_s[here] * each).sum())
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
