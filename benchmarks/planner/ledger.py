"""The free room of a fleet while batches are placed one by one: what the simple policies plan with."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from benchmarks.planner.check import FleetPlan
from benchmarks.planner.instance import Floats, Instance, Ints


@dataclass(frozen=True)
class Cells:
    """Models, pools and slots side by side."""

    model: Ints
    pool: Ints
    slot: Ints

    def __len__(self) -> int:
        return len(self.slot)

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        return zip(self.model.tolist(), self.pool.tolist(), self.slot.tolist(), strict=True)

    def pick(self, order: Ints) -> Cells:
        """These of them, in that order."""
        return Cells(self.model[order], self.pool[order], self.slot[order])

    @property
    def at(self) -> tuple[Ints, Ints, Ints]:
        """As an index."""
        return self.model, self.pool, self.slot


@dataclass
class Ledger:
    """`free` GPUs [P, T]; `spare` requests that the replicas so far could still do [M, P, T]."""

    instance: Instance
    free: Ints = field(init=False)
    replicas: Ints = field(init=False)
    spare: Floats = field(init=False)
    left: Floats = field(init=False)
    _shares: list[tuple[int, int, int, int, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.free = self.instance.capacity.copy()
        self.replicas = np.zeros(self.instance.shape, np.int64)
        self.spare = np.zeros(self.instance.shape)
        self.left = self.instance.work.copy()

    def cells(self, batch: int) -> Cells:
        """Where and when a batch may run."""
        it = self.instance
        model, pool = np.nonzero(it.usable[batch])
        slots = np.arange(it.release[batch], it.deadline[batch])
        return Cells(np.repeat(model, len(slots)), np.repeat(pool, len(slots)), np.tile(slots, len(model)))

    def fits(self, cells: Cells) -> Ints:
        """How many more replicas have room in each."""
        found: Ints = self.free[cells.pool, cells.slot] // self.instance.need[cells.model, cells.pool]
        return found

    def place(self, batch: int, cells: Cells) -> None:
        """Serve a batch in cells in that order: in what their replicas have to spare, then by as many more as fit."""
        it = self.instance
        for m, p, t in cells.pick(np.flatnonzero(self.spare[cells.at] + self.fits(cells) > 0)):
            left, done, need = self.left[batch], it.done[m, p, t], it.need[m, p]
            if left <= 1e-9:
                return
            more = min(self.free[p, t] // need, math.ceil(max(0.0, left - self.spare[m, p, t]) / done - 1e-9))
            self.replicas[m, p, t] += more
            self.free[p, t] -= more * need
            room = self.spare[m, p, t] + more * done
            taken = min(left, room)
            self.spare[m, p, t] = room - taken
            self.left[batch] = left - taken
            self._shares.append((batch, m, p, t, taken))

    def plan(self) -> FleetPlan:
        """What was placed."""
        shares = np.array(self._shares or np.zeros((0, 5)))
        batch, model, pool, slot = shares[:, :4].T.astype(np.int64)
        return FleetPlan(self.replicas, batch, model, pool, slot, shares[:, 4])
