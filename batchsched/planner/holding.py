"""Engines between their uses: what keeping them ready weighs, and where starting them again weighs less.

A replica idles in a slot where it was ready before, is kept for later, and is not at work. One that begins in the slot, or is let
go in it, does its work in one piece and idles not at all.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property

from batchsched.planner.engines import Engines
from batchsched.planner.plan import Allotment, Hold, Load, key_of
from batchsched.planner.price import Prices
from batchsched.planner.problem import Configuration, Job, Problem

_EPS_S = 1e-6
_NEXT_TO_NOTHING = 1e-6
"""Of a replica's slot."""


class Stay:
    """One configuration through a plan: its work, its starts, its users."""

    def __init__(self, problem: Problem, prices: Prices, config: Configuration) -> None:
        self.config = config
        self._problem, self._prices = problem, prices
        self.busy: dict[int, float] = defaultdict(float)
        self.starts: dict[int, int] = defaultdict(int)
        self.users: list[tuple[int, str]] = []
        """Slot and batch of each use of work."""
        self.idle_w = self.power_w = self.startup_s = self.load_g = 0.0

    def add(self, job: Job, key: str, use: Allotment | Load) -> None:
        """Enter one use."""
        self.busy[use.slot_index] += use.seconds
        self.idle_w = max(self.idle_w, job.idle_w(key))
        self.power_w = max(self.power_w, job.power_w_on[key])
        self.startup_s = max(self.startup_s, job.startup_s_on[key])
        self.load_g = max(self.load_g, job.load_g_on.get(key, 0.0))
        if isinstance(use, Load):
            self.starts[use.slot_index] += use.starts
        else:
            self.users.append((use.slot_index, use.batch_id))

    def needed(self, slot: int) -> int:
        """Replicas that are at work or starting in a slot."""
        return math.ceil(self.busy.get(slot, 0.0) / self._problem.slots[slot].length_s - _NEXT_TO_NOTHING)

    def held(self) -> list[int]:
        """Replicas kept as each slot ends: no more than later work needs."""
        out, kept = [0] * len(self._problem.slots), 0
        for t in range(len(out) - 1, 0, -1):
            kept = max(0, self.needed(t) - self.starts.get(t, 0), kept - self.starts.get(t, 0))
            out[t - 1] = kept
        return out

    def idle_s(self, slot: int, held: int) -> float:
        """Replica-seconds in which those wait that were ready before a slot and stay until its end."""
        through = held - self.starts.get(slot, 0)
        return max(0.0, through * self._problem.slots[slot].length_s - self.busy.get(slot, 0.0)) if through > 0 else 0.0

    def idle_g(self, slot: int) -> float:
        """Grams of such a second."""
        return self._prices.idle_g(self.config, self.idle_w, slot)

    def start_g(self, slot: int) -> float:
        """Grams of one start within a slot."""
        second_g = self._prices.replica_g(self.config, self.power_w, slot) + self._prices.wait_g_per_s[slot]
        return self.startup_s * second_g + self.load_g

    def next_user(self, slot: int) -> str:
        """The batch that first works from a slot on."""
        return self._sorted[min(bisect_left(self._sorted, (slot, "")), len(self._sorted) - 1)][1]

    @cached_property
    def _sorted(self) -> list[tuple[int, str]]:
        return sorted(self.users)


def stays(problem: Problem, prices: Prices, uses: Sequence[Allotment | Load]) -> dict[str, Stay]:
    """Of each configuration at work that idles at some power, by its name."""
    jobs = {job.batch_id: job for job in problem.jobs}
    if not any(job.idle_w_on for job in problem.jobs):
        return {}
    found: dict[str, Stay] = {}
    for use in uses:
        job = jobs[use.batch_id]
        key = key_of(job, use)
        config = job.configuration(key)
        stay = found.get(config.name) or found.setdefault(config.name, Stay(problem, prices, config))
        stay.add(job, key, use)
    return {name: stay for name, stay in found.items() if stay.idle_w > 0 and stay.users}


def holds(problem: Problem, prices: Prices, uses: Sequence[Allotment | Load]) -> tuple[list[Hold], float]:
    """Where models are kept ready without work, and all that it weighs."""
    out: list[Hold] = []
    weighs = 0.0
    for _, stay in sorted(stays(problem, prices, uses).items()):
        config = stay.config
        for t, held in enumerate(stay.held()):
            seconds = stay.idle_s(t, held)
            if seconds > _EPS_S:
                weighs += seconds * stay.idle_g(t)
                out.append(Hold(stay.next_user(t + 1), config.model, config.pool, t, seconds, config.name, stay.idle_w))
    return sorted(out, key=lambda hold: (hold.slot_index, hold.pool, hold.config)), weighs


class Thrift:
    """Starts a replica again where keeping it through a gap weighs more."""

    def __init__(self, stay: Stay, engines: Engines, lengths: Sequence[float]) -> None:
        self._stay, self._engines, self._lengths = stay, engines, lengths
        self._held = stay.held()

    def restarts(self) -> list[int]:
        """Slots in which one replica is to start that is let go before, latest first; they are entered in the engines."""
        found: list[int] = []
        for back in range(len(self._held) - 1, 0, -1):
            while self._held[back - 1] > 0 and (slot := self._worth(back)) is not None:
                self._start(slot)
                found.append(slot)
        if found:
            self._engines.settle()
        return found

    def _worth(self, before: int) -> int | None:
        """Where to start one replica fewer kept until slot `before`, if that weighs less."""
        for slot in (before, before - 1):
            if slot > 0 and self._held[slot - 1] > 0 and self._fits(slot) and self._saved(slot) > self._stay.start_g(slot):
                return slot
        return None

    def _fits(self, slot: int) -> bool:
        """Is there time for a start within the slot, on the pool and on the replica beside what it does there?"""
        stay, startup_s, length_s = self._stay, self._stay.startup_s, self._lengths[slot]
        ready = self._held[slot - 1] + stay.starts.get(slot, 0)
        free = ready * length_s - stay.busy.get(slot, 0.0)
        return 0 < startup_s <= min(length_s, free, self._engines.room[slot])

    def _saved(self, slot: int) -> float:
        """Grams of idling that one start in a slot saves before it, and in it."""
        stay, saved = self._stay, 0.0
        now = stay.idle_s(slot, self._held[slot])
        through = max(0, self._held[slot] - stay.starts.get(slot, 0) - 1)
        then = max(0.0, through * self._lengths[slot] - stay.busy.get(slot, 0.0) - stay.startup_s)
        saved += (now - then) * stay.idle_g(slot)
        for t in self._gap(slot):
            saved += (stay.idle_s(t, self._held[t]) - stay.idle_s(t, self._held[t] - 1)) * stay.idle_g(t)
        return saved

    def _gap(self, slot: int) -> list[int]:
        """Slots, latest first, at whose ends one fewer is held if one more starts in `slot`."""
        out: list[int] = []
        for t in range(slot - 1, -1, -1):
            if self._held[t] <= 0:
                break
            out.append(t)
            if self._stay.needed(t) >= self._held[t]:
                break
        return out

    def _start(self, slot: int) -> None:
        for t in self._gap(slot):
            self._held[t] -= 1
        self._stay.starts[slot] += 1
        self._stay.busy[slot] += self._stay.startup_s
        self._engines.begin_again(slot, self._stay.startup_s)
