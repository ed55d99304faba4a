"""A complete, feasible start for CP-SAT from a plan: without one it may find nothing at all in the time it has.

Goes on in order of time, starts engines when they are needed, and trims work that then no longer fits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import msgspec

Key = tuple[int, str, int]
"""Class, its name for a configuration, slot."""
Engine = tuple[int, int]
"""Number of a configuration, slot."""
Row = tuple[str, int]
"""Pool or link, slot."""


class FleetHint(msgspec.Struct):
    """Everything while time goes by, in units. `takes`: of each configuration, what a unit of it takes of each pool and link;
    `places`: of each pool, what may be held there; `held`: replicas of each configuration now; `room`: what is left of pools and
    links; `carry`: what engine starts still take of a configuration's ready time; `ready`: what is left of that."""

    takes: list[list[tuple[str, int]]]
    places: dict[str, int]
    held: dict[int, int]
    room: dict[Row, int]
    carry: dict[Engine, int] = {}
    ready: dict[Engine, int] = {}

    def free(self, k: int, t: int) -> int:
        """Units that could still be worked in a configuration in a slot with no further engine start."""
        return max(0, min(self.fits(k, t), self.ready.get((k, t), 0)))

    def fits(self, k: int, t: int) -> int:
        """Units for which there is room on all that it takes."""
        return min(self.room.get((name, t), 0) // taken for name, taken in self.takes[k])

    def take(self, k: int, t: int, units: int) -> None:
        """Use some of that."""
        self.occupy(k, t, units)
        self.ready[k, t] -= units

    def occupy(self, k: int, t: int, units: int) -> None:
        """Room that is taken."""
        for name, taken in self.takes[k]:
            self.room[name, t] = self.room.get((name, t), 0) - units * taken


def walk(
    state: FleetHint,
    unit_slot: Sequence[int],
    wanted: Mapping[Key, int],
    users: Mapping[int, list[tuple[int, str]]],
    may_load: Callable[[int, int], int],
    loading: Callable[[int, int], list[tuple[int, int]]],
) -> tuple[dict[Key, int], dict[Engine, int], dict[Engine, int]]:
    """Work by class, engine starts and held replicas by configuration.

    `unit_slot`: units of one replica in each slot; `wanted`: units of work; `users`: classes of each configuration, with their
    names for it; `may_load(k, slot)`: most starts; `loading(k, slot)`: slots and units that one takes.
    """
    work: dict[Key, int] = {}
    starts: dict[Engine, int] = {}
    held: dict[Engine, int] = {}
    on = {name: {k: n for k, taken in enumerate(state.takes) for at, n in taken if at == name} for name in state.places}
    for t, length in enumerate(unit_slot):
        busy: set[int] = set()
        for k, classes in users.items():
            mine = {(c, key, t): wanted.get((c, key, t), 0) for c, key in classes}
            need = math.ceil(sum(mine.values()) / length) if length else 0
            begun = max(0, min(need, may_load(k, t)) - state.held[k]) if need else 0
            begun = _begin(state, k, begun, loading(k, t)) if begun else 0
            if begun:
                starts[k, t] = begun
                state.held[k] += begun
            state.ready[k, t] = state.held[k] * length - state.carry.get((k, t), 0)
            for key, units in mine.items():
                taken = min(units, state.free(k, t))
                if taken:
                    work[key] = taken
                    state.take(k, t, taken)
                    busy.add(k)
        _evict(state, on, busy, t)
        held.update({(k, t): state.held[k] for k in users})
    return work, starts, held


def _begin(state: FleetHint, k: int, begun: int, spread: list[tuple[int, int]]) -> int:
    """Take the time of as many of these starts as there is room for."""
    while begun and not all(begun * units <= state.fits(k, slot) for slot, units in spread):
        begun -= 1
    for slot, units in spread if begun else []:
        state.occupy(k, slot, begun * units)
        state.carry[k, slot] = state.carry.get((k, slot), 0) + begun * units
    return begun


def _evict(state: FleetHint, on: Mapping[str, Mapping[int, int]], busy: set[int], t: int) -> None:
    """What is neither busy nor loading goes first where more is held than there are replicas."""
    for name, most in state.places.items():
        here = on[name]
        over = sum(state.held[k] * n for k, n in here.items()) - most
        for k in sorted(here if over > 0 else (), key=lambda k: (k in busy, (k, t + 1) in state.carry, k)):
            gone = max(0, min(math.ceil(over / here[k]), state.held[k]))
            state.held[k] -= gone
            over -= gone * here[k]
