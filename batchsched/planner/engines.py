"""Which replicas are ready while work is placed: starts are paid for, and what is ready later was held until then."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import le

from batchsched.planner.problem import PoolState, Problem

_EPS = 1e-9
_MANY = 10.0**9
_NEXT_TO_NOTHING = 1e-6
"""Of a replica's slot: rounding that needs no further replica."""


class Room:
    """What is left of a pool or a link in each slot: `seconds` that it is open; `hold`: replicas that may yet hold a model at its
    end, on a link any number."""

    def __init__(self, problem: Problem, capacity: Sequence[float], hold: float = math.inf) -> None:
        self.seconds = [c * slot.length_s for c, slot in zip(capacity, problem.slots, strict=True)]
        self.hold = [hold] * len(problem.slots)
        self._first = 0

    def first(self) -> int:
        """The first slot with seconds left."""
        while self._first < len(self.seconds) and self.seconds[self._first] <= _EPS:
            self._first += 1
        return self._first


class _Seconds:
    """Replica-seconds that all of these have room for, by slot; of each a replica takes so much."""

    def __init__(self, shares: Sequence[tuple[Room, float]]) -> None:
        self._shares = shares

    def __getitem__(self, slot: int) -> float:
        return min(room.seconds[slot] / taken for room, taken in self._shares)


class _Places(_Seconds):
    """Replicas that may yet be kept ready on all of these as a slot ends."""

    def __getitem__(self, slot: int) -> int:
        return math.floor(min(room.hold[slot] / taken for room, taken in self._shares) + _EPS)


class Engines:
    """The replicas of one configuration. `held[t]` are kept ready as slot t ends: no more than is needed later."""

    def __init__(self, problem: Problem, shares: Sequence[tuple[Room, float]], loaded: int) -> None:
        """`shares`: what one replica takes."""
        self._lengths = [slot.length_s for slot in problem.slots]
        self._shares = shares
        (first, taken), alone = shares[0], len(shares) == 1
        self.room: list[float] | _Seconds = first.seconds if alone and taken == 1 else _Seconds(shares)
        """Replica-seconds that there is room for in each slot."""
        self._free: list[float] | _Places = first.hold if alone and taken == 1 else _Places(shares)
        self._loaded = loaded
        self.busy = [0.0] * len(self._lengths)
        """Replica-seconds of work and of starting up."""
        self.starts = [0] * len(self._lengths)
        self.held = [0] * len(self._lengths)

    def ready(self, slot: int) -> int:
        """Replicas that may work in a slot, starting ones included."""
        return (self.held[slot - 1] if slot else self._loaded) + self.starts[slot]

    def needed(self, slot: int, seconds: float) -> int:
        """Replicas that must be ready for so many further seconds."""
        return math.ceil((self.busy[slot] + seconds) / self._lengths[slot] - _NEXT_TO_NOTHING)

    def reach(self, slot: int, need: int, patience_s: float = math.inf) -> int:
        """How many replicas, up to `need`, could be ready in a slot with no further start, were they held until then, though for
        no longer than so many seconds."""
        held, starts, free = self.held, self.starts, self._free
        best = held[slot - 1] if slot else self._loaded
        most, waits_s = need - starts[slot], 0.0
        for before in range(slot - 1, -1, -1):
            if waits_s > patience_s:
                break
            waits_s += self._lengths[before]
            most = min(most, held[before] + int(free[before]))
            if most <= best:
                break
            ready = (held[before - 1] if before else self._loaded) + starts[before]
            if ready > best:
                best = min(most, ready)
        return best + starts[slot]

    def keep(self, slot: int, replicas: int) -> None:
        """Hold until a slot what `reach` said could be ready in it."""
        want = replicas - self.starts[slot]
        for before in range(slot - 1, -1, -1):
            if self.held[before] >= want:
                return
            self._hold(before, want)
            if self.ready(before) >= want:
                return

    def startable(self, slot: int, startup_s: float, until: int) -> tuple[int, list[tuple[int, float]]]:
        """How many can start in a slot, to be of use before slot `until`; and the seconds of one start by slot."""
        spread = load_share(self._lengths, slot, startup_s)
        last, seconds = spread[-1]
        if last + (seconds >= self._lengths[last] - _EPS) >= until:
            return 0, spread
        fit = min(self.room[t] / s if s > 0 else _MANY for t, s in spread)
        held = min((self._free[t] for t, _ in spread[:-1]), default=_MANY)
        return int(min(fit, held) + _EPS), spread

    def start(self, slot: int, replicas: int, spread: list[tuple[int, float]]) -> None:
        """Begin so many; their seconds are taken from the pool, and they are held until they are ready."""
        self.starts[slot] += replicas
        for t, _ in spread[:-1]:
            self._hold(t, self.held[t] + replicas)
        for t, seconds in spread:
            self.work(t, replicas * seconds)

    def work(self, slot: int, seconds: float) -> None:
        """So many seconds are used."""
        self.busy[slot] += seconds
        for room, taken in self._shares:
            room.seconds[slot] -= seconds * taken

    def do_without(self, slot: int, spread: list[tuple[int, float]]) -> bool:
        """Leave out one start, if no more has to be held for that anywhere; was it left out?"""
        if len(spread) == 1:
            needed = max(self.needed(slot, -spread[0][1]), self.held[slot])
            if needed > self.ready(slot) - 1:
                return False
        before = list(self.held)
        self._restart(slot, -1, spread)
        if self.held[0] <= self._loaded + self.starts[0] >= self.needed(0, 0.0) and all(map(le, self.held, before)):
            return True
        self._restart(slot, 1, spread)
        return False

    def _restart(self, slot: int, replicas: int, spread: list[tuple[int, float]]) -> None:
        self.starts[slot] += replicas
        for t, seconds in spread:
            self.work(t, replicas * seconds)
        self.settle()

    def _hold(self, slot: int, replicas: int) -> None:
        for room, taken in self._shares:
            room.hold[slot] -= (replicas - self.held[slot]) * taken
        self.held[slot] = replicas

    def begin_again(self, slot: int, replicas: int, startup_s: float) -> None:
        """Start so many within a slot, in the place of as many that were held until then; `settle` lets those go."""
        self.starts[slot] += replicas
        self.work(slot, replicas * startup_s)

    def drop(self, first: int, last: int, replicas: int, startup_s: float) -> None:
        """Take away so many that start in one slot and are let go in another; below 0: bring them back."""
        self.begin_again(first, -replicas, startup_s)
        for t in range(first, last):
            self._hold(t, self.held[t] - replicas)

    def prolonged_s(self, slot: int) -> float:
        """Seconds that are free in a slot if what is let go as it begins stays on."""
        more = min(self.ready(slot - 1) - self.held[slot - 1], self._free[slot - 1]) if slot else 0
        return min(self.room[slot], (self.ready(slot) + more) * self._lengths[slot] - self.busy[slot])

    def prolong(self, slot: int, seconds: float) -> None:
        """Let so many stay on as that many seconds in a slot need, of those; `settle` undoes it where they do not work."""
        if (more := self.needed(slot, seconds) - self.ready(slot)) > 0:
            self._hold(slot - 1, self.held[slot - 1] + more)

    def settle(self) -> None:
        """Hold what the seconds and the starts that were entered so far need, and no more."""
        held = 0
        for t in range(len(self.held) - 1, 0, -1):
            held = max(0, self.needed(t, 0.0) - self.starts[t], held - self.starts[t])
            self._hold(t - 1, held)


def hold_room(pool: PoolState) -> int:
    """Replicas of a pool that can hold a model at once."""
    return max(math.ceil(max(pool.capacity, default=0.0)), len(pool.loaded))


def load_share(lengths: list[float], slot: int, startup_s: float) -> list[tuple[int, float]]:
    """Seconds that an engine start beginning with a slot takes from that slot and the following ones."""
    shares = [(slot, min(startup_s, lengths[slot]))]
    while (startup_s := startup_s - shares[-1][1]) > _EPS and slot + len(shares) < len(lengths):
        t = slot + len(shares)
        shares.append((t, min(startup_s, lengths[t])))
    return shares
