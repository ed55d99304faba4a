"""A complete, feasible start for CP-SAT from a plan: without one it may find nothing at all in the time it has.

Goes through each pool in order of time, starts engines when they are needed, and trims work that then no longer fits.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping

import msgspec

Key = tuple[int, str, int]


class PoolHint(msgspec.Struct):
    """One pool while time goes by. `carry`: units that engine starts still take, by model and slot. `room`, `ready`: units left
    of the pool, and of the replicas that hold a model, in each slot."""

    name: str
    replicas: int
    held: dict[int, int]
    carry: dict[tuple[int, int], int] = {}
    room: dict[int, int] = {}
    ready: dict[tuple[int, int], int] = {}

    def free(self, m: int, t: int) -> int:
        """Units that could still be worked on a model in a slot with no further engine start."""
        return max(0, min(self.room.get(t, 0), self.ready.get((m, t), 0)))

    def take(self, m: int, t: int, units: int) -> None:
        """Use some of that."""
        self.room[t] -= units
        self.ready[m, t] -= units


def walk_pool(
    pool: PoolHint,
    capacity: list[int],
    unit_slot: list[int],
    wanted: Mapping[Key, int],
    users: Mapping[int, list[int]],
    may_load: Callable[[int, int], bool],
    loading: Callable[[int, int], list[tuple[int, int]]],
) -> tuple[dict[Key, int], dict[Key, int], dict[Key, int]]:
    """Work by class, engine starts and held replicas by model, for one pool.

    `capacity`, `unit_slot`: units of the pool and of one replica in each slot; `wanted`: units of work by class; `users`: the
    classes of each model on this pool; `loading(model, slot)`: slots and units that a start takes.
    """
    work: dict[Key, int] = {}
    starts: dict[Key, int] = {}
    held: dict[Key, int] = {}
    for t, cap in enumerate(capacity):
        room = cap - sum(pool.carry.get((m, t), 0) for m in users)
        for m, classes in users.items():
            mine = {c: wanted.get((c, pool.name, t), 0) for c in classes}
            need = math.ceil(sum(mine.values()) / unit_slot[t]) if unit_slot[t] else 0
            begun = max(0, min(need, pool.replicas) - pool.held.get(m, 0)) if may_load(m, t) else 0
            spread = loading(m, t)
            while begun and not _fits(pool, capacity, spread, begun, t, room):
                begun -= 1
            if begun:
                starts[m, pool.name, t] = begun
                for slot, units in spread:
                    pool.carry[m, slot] = pool.carry.get((m, slot), 0) + begun * units
                room -= begun * spread[0][1] if spread else 0
            pool.held[m] = pool.held.get(m, 0) + begun
            limit = min(room, pool.held[m] * unit_slot[t] - pool.carry.get((m, t), 0))
            for c, units in mine.items():
                take = max(0, min(units, limit))
                limit -= take
                room -= take
                if take:
                    work[c, pool.name, t] = take
            pool.ready[m, t] = limit
        pool.room[t] = room
        _evict(pool, {m for m, classes in users.items() if any((c, pool.name, t) in work for c in classes)}, t)
        held.update({(m, pool.name, t): pool.held[m] for m in users})
    return work, starts, held


def _fits(pool: PoolHint, capacity: list[int], spread: list[tuple[int, int]], begun: int, t: int, room: int) -> bool:
    taken: dict[int, int] = defaultdict(int)
    for (_, slot), units in pool.carry.items():
        taken[slot] += units
    return all(begun * units <= (room if slot == t else capacity[slot] - taken[slot]) for slot, units in spread)


def _evict(pool: PoolHint, busy: set[int], t: int) -> None:
    """What is neither busy nor loading goes first when more is held than there are replicas."""
    over = sum(pool.held.values()) - pool.replicas
    for m in sorted(pool.held, key=lambda k: (k in busy, (k, t + 1) in pool.carry, k)):
        gone = max(0, min(over, pool.held[m]))
        pool.held[m] -= gone
        over -= gone
