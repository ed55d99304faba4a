"""The free room of a fleet while batches are placed one by one: what the simple policies plan with."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from batchsched.planner.fleet_model import FleetPlan, Ints
from benchmarks.planner.instance import Instance


@dataclass(frozen=True)
class Cells:
    """Arcs and slots side by side; `config` is the arcs'."""

    arc: Ints
    config: Ints
    slot: Ints

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        return zip(self.arc.tolist(), self.config.tolist(), self.slot.tolist(), strict=True)

    def pick(self, order: Ints) -> Cells:
        """These of them, in that order."""
        return Cells(self.arc[order], self.config[order], self.slot[order])


class Ledger:
    """Whole replicas, each for a whole slot; one that was not there in the slot before spends its start there."""

    def __init__(self, instance: Instance) -> None:
        model = instance.model
        self.instance = instance
        self.free = np.floor(model.capacity).astype(np.int64)
        """[P, T] GPUs."""
        self.ready = np.zeros(model.load_g.shape, np.int64)
        """[K, T] replicas."""
        self.spare_s = np.zeros(model.load_g.shape)
        """[K, T] seconds that they have left."""
        self.run = np.zeros(model.run_g.shape)
        self.left = model.work.copy()
        self._need = model.gpus.max(axis=1).astype(np.int64)

    def cells(self, batch: int) -> Cells:
        """Where and when a batch may run."""
        model = self.instance.model
        arcs = self.instance.arcs[model.batch_class[batch]]
        slots = np.arange(model.release[batch], model.due[batch])
        arc = np.repeat(arcs, len(slots))
        return Cells(arc, model.arc_config[arc], np.tile(slots, len(arcs)))

    def fits(self, cells: Cells) -> Ints:
        """How many more replicas have room in each."""
        found: Ints = self.free[self.instance.pool[cells.config], cells.slot] // self._need[cells.config]
        return found

    def place(self, batch: int, cells: Cells) -> None:
        """Serve a batch in cells in that order: in what their replicas have to spare, then by as many more as fit."""
        model = self.instance.model
        able = self.spare_s[cells.config, cells.slot] + self.fits(cells) > 0
        for a, k, t in cells.pick(np.flatnonzero(able)):
            asked_s = self.left[batch] / model.rate[a]
            if asked_s <= 1e-9:
                return
            while self.spare_s[k, t] < asked_s - 1e-9 and self._add(k, t, asked_s - self.spare_s[k, t]):
                pass
            taken_s = min(asked_s, self.spare_s[k, t])
            self.spare_s[k, t] -= taken_s
            self.run[a, t] += taken_s
            self.left[batch] -= taken_s * model.rate[a]

    def _add(self, k: int, t: int, wanted_s: float) -> bool:
        """As many replicas as do so many seconds and have room: first those that were there before, then cold ones."""
        model, p = self.instance.model, self.instance.pool[k]
        room = int(self.free[p, t] // self._need[k])
        if room <= 0:
            return False
        warm = max(0, int(self.ready[k, t - 1] if t else model.loaded[k]) - int(self.ready[k, t]))
        each_s = model.slot_s[t] if warm else model.slot_s[t] - model.load_s[k]
        count = min(room, math.ceil(wanted_s / each_s - 1e-9), warm or room)
        self.ready[k, t] += count
        self.free[p, t] -= count * self._need[k]
        self.spare_s[k, t] += count * each_s
        return True

    def plan(self) -> FleetPlan:
        """What was placed."""
        late = np.where(self.left > 1e-9 * self.instance.model.work, self.left, 0.0)
        return self.instance.plan(self.run, self.ready, late)
