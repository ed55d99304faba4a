"""The free room of all pools while a simple policy places batches, and what their work emits in each place."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np

from batchsched.planner import Allotment, Job, Plan, Problem, prepared
from batchsched.planner.cost import assess
from batchsched.planner.fleet_model import Floats
from batchsched.planner.price import price
from batchsched.planner.sound import sound
from batchsched.units import JOULES_PER_KWH

PIECE_SHARE = 1 / 8
"""Of its window: how long a batch is to take with as many replicas as papers' jobs have, which cannot be given more or fewer."""
_EPS = 1e-9
Cell = tuple[str, int]
"""A job's name for a configuration, and a slot."""


class Rows:
    """Places work. Slots are cut at due times: by then, as for our own planner, the expected work is to be done, so that what may
    come on top of it still meets the deadline."""

    def __init__(self, problem: Problem) -> None:
        self.problem, self.due_s = prepared(sound(problem)[0])
        self.jobs = [job for job in self.problem.jobs if job.seconds_on and job.remaining_requests > 0 and self.problem.slots]
        """Those that can run."""
        self.pools = {pool.name: pool for pool in self.problem.pools}
        self.start_s = np.array([slot.start_s for slot in self.problem.slots])
        self.end_s = np.array([slot.end_s for slot in self.problem.slots])
        self.length_s = self.end_s - self.start_s
        self._prices = price(self.problem)
        self._intensity = {name: np.array(row) for name, row in self._prices.intensity.items()}
        self._room_s: dict[str, Floats] = {name: np.array(row) * self.length_s for name, row in self.problem.capacity.items()}
        self._busy_s: dict[str, Floats] = {}
        self._left: dict[str, float] = {}
        self._placed_s: dict[tuple[str, str, int], float] = {}

    # -- what a job finds --

    def second_g(self, job: Job, key: str) -> Floats:
        """Grams of a replica-second of its work, in each slot."""
        config = job.configuration(key)
        running = job.power_w_on[key] / JOULES_PER_KWH * self._intensity[config.pool]
        grams: Floats = running + (self._prices.besides_g(config) + job.transfer_g_per_s(key))
        return grams

    def grams(self, job: Job, key: str) -> Floats:
        """Of all its work, were it done in one slot, for each slot."""
        return self.second_g(job, key) * job.seconds_on[key]

    def free_s(self, job: Job, key: str) -> Floats:
        """Replica-seconds of each slot that it may take."""
        shares = job.configuration(key).shares
        room: Floats = np.minimum.reduce([self._room_s[name] / share for name, share in shares])
        mine: Floats = job.width * self.length_s - self._busy_s.get(job.batch_id, 0.0)
        free: Floats = np.maximum(np.minimum(room, mine), 0.0)
        return free

    def room_s(self, pool: str) -> Floats:
        """Replica-seconds of each slot that nobody has taken."""
        return self._room_s[pool]

    def left(self, job: Job) -> float:
        """The share of it that has no place yet."""
        return self._left.get(job.batch_id, 1.0)

    def in_time(self, job: Job) -> int:
        """How many slots, from the first on, end by its due time."""
        return int(np.searchsorted(self.end_s, self.due_s[job.batch_id] + 1e-6, side="right"))

    def width(self, job: Job, key: str) -> int:
        """Replicas that let it run in `PIECE_SHARE` of its window, of those that there are."""
        config = job.configuration(key)
        most = min(math.floor(self.pools[name].replicas / share) for name, share in config.takes.items())
        wanted = math.ceil(job.seconds_on[key] / max(job.deadline_s * PIECE_SHARE, 1.0))
        return max(1, min(wanted, job.width, most))

    def newest(self, job: Job) -> list[str]:
        """Its configurations, the newest hardware first; of the same age that at home."""
        return sorted(job.seconds_on, key=lambda key: (*self._age(job, key), key), reverse=True)

    def _age(self, job: Job, key: str) -> tuple[tuple[float, float], bool]:
        pool = self.pools[job.configuration(key).pool]
        return pool.newness, pool.home

    def cheapest(self, job: Job) -> list[Cell]:
        """Cells that end by its due time, those with the least grams first, of these the earliest."""
        keys, slots = fastest(job), self.in_time(job)
        if not keys or not slots:
            return []
        grams = np.array([self.grams(job, key)[:slots] for key in keys])
        order = np.argsort(grams.T, axis=None, kind="stable")
        return [(keys[n % len(keys)], n // len(keys)) for n in order.tolist()]

    # -- what is placed --

    def put(self, job: Job, key: str, slot: int, seconds: float = math.inf) -> float:
        """Give it so many replica-seconds of a slot, as far as they are free and it needs them; how many it took."""
        needed = self.left(job) * job.seconds_on[key]
        seconds = min(seconds, needed, float(self.free_s_at(job, key, slot)))
        if seconds <= _EPS:
            return 0.0
        for name, share in job.configuration(key).shares:
            self._room_s[name][slot] -= seconds * share
        self._busy_s.setdefault(job.batch_id, np.zeros(len(self.length_s)))[slot] += seconds
        self._left[job.batch_id] = self.left(job) - seconds / job.seconds_on[key]
        cell = (job.batch_id, key, slot)
        self._placed_s[cell] = self._placed_s.get(cell, 0.0) + seconds
        return seconds

    def free_s_at(self, job: Job, key: str, slot: int) -> float:
        """`free_s` of one slot."""
        room = min(self._room_s[name][slot] / share for name, share in job.configuration(key).shares)
        busy = self._busy_s.get(job.batch_id)
        mine = job.width * self.length_s[slot] - (0.0 if busy is None else busy[slot])
        return max(0.0, min(float(room), float(mine)))

    def placed_s(self, job: Job, key: str, slot: int) -> float:
        """Replica-seconds that it has there by now."""
        return self._placed_s.get((job.batch_id, key, slot), 0.0)

    def fill(self, job: Job, cells: Iterable[Cell]) -> None:
        """What of it has no place yet goes into these cells in order, as wide as it can."""
        for key, slot in cells:
            if self.left(job) * job.seconds_on[key] <= _EPS:
                return
            self.put(job, key, slot)

    def soonest(self, job: Job, keys: Sequence[str]) -> None:
        """What of it has no place yet goes into the first slots; in each of them onto these configurations in order."""
        late_s = math.inf if job.finish_late else job.deadline_s + 1e-6
        slots = int(np.searchsorted(self.end_s, late_s, side="right"))
        self.fill(job, ((key, slot) for slot in range(slots) for key in keys))

    def rest(self, job: Job) -> None:
        """What no rule has found a place for, or not by the due time, is run as soon as it can be, the fastest first."""
        self.soonest(job, fastest(job))

    def plan(self) -> Plan:
        """All that was placed. It says nothing of engines: they start where there is work and are stopped after it."""
        jobs = {job.batch_id: job for job in self.problem.jobs}
        found = [self._allotment(jobs[name], key, slot, s) for (name, key, slot), s in self._placed_s.items()]
        plan = assess(self.problem, self._prices, self.due_s, found, [])
        return msgspec.structs.replace(plan, holds=[], solver="simple", status="feasible")

    def _allotment(self, job: Job, key: str, slot: int, seconds: float) -> Allotment:
        at, pool = self.problem.slots[slot], job.configuration(key).pool
        requests = job.remaining_requests * seconds / job.seconds_on[key]
        return Allotment(job.batch_id, pool, slot, at.start_s, at.end_s, requests, seconds, "" if key == pool else key)


def fastest(job: Job) -> list[str]:
    """Its configurations, those with the least replica-seconds first."""
    return sorted(job.seconds_on, key=lambda key: (job.seconds_on[key], key))
