"""Engines between their uses: what keeping them ready weighs, and where starting them again weighs less.

A replica idles in a slot where it was ready before, is kept for later, and is not at work. One that begins in the slot, or is let
go in it, does its work in one piece and idles not at all.
"""

from __future__ import annotations

import math
import operator
from bisect import bisect_left
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate

from batchsched.planner.engines import Engines
from batchsched.planner.plan import Allotment, Hold, Load
from batchsched.planner.price import Prices
from batchsched.planner.problem import Configuration, Job, Problem

_EPS_S = 1e-6
_NEXT_TO_NOTHING = 1e-6
"""Of a replica's slot."""


class Stay:
    """One configuration through a plan: its work, its starts, its users."""

    def __init__(self, problem: Problem, prices: Prices, config: Configuration) -> None:
        self.config = config
        self.lengths = [slot.length_s for slot in problem.slots]
        self._prices = prices
        self.busy = [0.0] * len(self.lengths)
        """Replica-seconds of work and of starting, by slot."""
        self.starts = [0] * len(self.lengths)
        self.users: list[tuple[int, str]] = []
        """Slot and batch of each use of work."""
        self.idle_w = self.power_w = self.startup_s = self.load_g = 0.0

    def work(self, job: Job, use: Allotment) -> None:
        """Enter one use."""
        key = use.key
        self.busy[use.slot_index] += use.seconds
        self.users.append((use.slot_index, use.batch_id))
        self.idle_w = max(self.idle_w, job.idle_w(key))
        self.power_w = max(self.power_w, job.power_w_on[key])
        self.startup_s = max(self.startup_s, job.startup_s_on[key])
        self.load_g = max(self.load_g, job.load_g_on.get(key, 0.0))

    def start(self, load: Load) -> None:
        """The same of a start."""
        self.busy[load.slot_index] += load.seconds
        self.starts[load.slot_index] += load.starts

    def needed(self) -> list[int]:
        """Replicas that are at work or starting in each slot."""
        pairs = zip(self.busy, self.lengths, strict=True)
        return [math.ceil(seconds / length - _NEXT_TO_NOTHING) for seconds, length in pairs]

    def held(self) -> list[int]:
        """Replicas kept as each slot ends: no more than later work needs."""
        out, kept, needed = [0] * len(self.lengths), 0, self.needed()
        for t in range(len(out) - 1, 0, -1):
            kept = out[t - 1] = max(0, needed[t] - self.starts[t], kept - self.starts[t])
        return out

    def idle_s(self, slot: int, held: int, restarts: int = 0) -> float:
        """Replica-seconds in which those wait that were ready before a slot and stay until its end; `restarts` begin in it."""
        through = held - self.starts[slot] - restarts
        spent = self.busy[slot] + restarts * self.startup_s
        return max(0.0, through * self.lengths[slot] - spent) if through > 0 else 0.0

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


def stays(problem: Problem, prices: Prices, allotments: Sequence[Allotment], loads: Sequence[Load]) -> list[Stay]:
    """Of each configuration at work that idles at some power, by its name."""
    if not any(job.idle_w_on for job in problem.jobs):
        return []
    jobs = {job.batch_id: job for job in problem.jobs}
    found: dict[str, Stay] = {}
    for use in allotments:
        job = jobs[use.batch_id]
        config = job.configuration(use.key)
        if (stay := found.get(config.name)) is None:
            stay = found[config.name] = Stay(problem, prices, config)
        stay.work(job, use)
    for load in loads:
        if load.config in found:
            found[load.config].start(load)
    return [stay for _, stay in sorted(found.items()) if stay.idle_w > 0]


def holds(problem: Problem, prices: Prices, allotments: Sequence[Allotment], loads: Sequence[Load]) -> tuple[list[Hold], float]:
    """Where models are kept ready without work, and all that it weighs."""
    out: list[Hold] = []
    weighs = 0.0
    for stay in stays(problem, prices, allotments, loads):
        config = stay.config
        for t, held in enumerate(stay.held()):
            seconds = stay.idle_s(t, held)
            if seconds > _EPS_S:
                weighs += seconds * stay.idle_g(t)
                out.append(Hold(stay.next_user(t + 1), config.model, config.pool, t, seconds, config.name, stay.idle_w))
    return sorted(out, key=lambda hold: (hold.slot_index, hold.pool, hold.config)), weighs


class Thrift:
    """Starts replicas again where keeping them through a gap weighs more."""

    def __init__(self, stay: Stay, engines: Engines) -> None:
        self._stay, self._engines = stay, engines
        self._held, self._needed = stay.held(), stay.needed()
        self._second_g = [stay.idle_g(t) for t in range(len(stay.lengths))]
        self._all_g = list(accumulate(map(operator.mul, stay.lengths, self._second_g), initial=0.0))
        """Of one replica that idles until each slot."""

    def restarts(self) -> list[tuple[int, int]]:
        """Slots, latest first, in which so many replicas are to start that are let go before; they are entered in the engines."""
        found: list[tuple[int, int]] = []
        for back in range(len(self._held) - 1, 0, -1):
            slot = back
            while slot > 0 and slot >= back - 1:
                gap = self._gap(slot)
                if gap and (replicas := self._worth(slot, gap)):
                    self._start(slot, gap, replicas)
                    found.append((slot, replicas))
                    slot = back
                else:
                    slot -= 1
        if found:
            self._engines.settle()
        return found

    def _gap(self, slot: int) -> list[int]:
        """Slots, latest first, at whose ends fewer are held if more start in `slot`: back to where all that are kept work."""
        out: list[int] = []
        for t in range(slot - 1, -1, -1):
            if self._held[t] <= 0:
                break
            out.append(t)
            if self._needed[t] >= self._held[t]:
                break
        return out

    def _worth(self, slot: int, gap: list[int]) -> int:
        """How many to start again in a slot: as long as each saves more than its start weighs, of those with the same gap."""
        stay, start_g = self._stay, self._stay.start_g(slot)
        length_s, startup_s = stay.lengths[slot], stay.startup_s
        if not 0 < startup_s <= length_s or self._all_g[slot + 1] - self._all_g[gap[-1]] <= start_g:
            return 0
        free_s = (self._held[slot - 1] + stay.starts[slot]) * length_s - stay.busy[slot]
        inner = (self._held[t] - self._needed[t] for t in gap if self._needed[t] < self._held[t])
        most = min(self._held[gap[-1]], int(min(free_s, self._engines.room[slot]) / startup_s + _EPS_S), *inner)
        for count in range(most, 0, -1):  # each saves no more than the one before, and mostly all the same
            if self._idle_g(slot, gap, count - 1) - self._idle_g(slot, gap, count) > start_g:
                return count
        return 0

    def _idle_g(self, slot: int, gap: list[int], restarts: int) -> float:
        """Grams of idling in the gap and in its last slot, if so many start again there."""
        stay = self._stay
        grams = stay.idle_s(slot, self._held[slot], restarts) * self._second_g[slot]
        for t in gap:
            grams += stay.idle_s(t, self._held[t] - restarts) * self._second_g[t]
        return grams

    def _start(self, slot: int, gap: list[int], replicas: int) -> None:
        stay = self._stay
        for t in gap:
            self._held[t] -= replicas
        stay.starts[slot] += replicas
        stay.busy[slot] += replicas * stay.startup_s
        self._needed[slot] = math.ceil(stay.busy[slot] / stay.lengths[slot] - _NEXT_TO_NOTHING)
        self._engines.begin_again(slot, replicas, stay.startup_s)
