"""Better whole replicas: free the replicas of a neighbourhood, solve, round anew, keep what is cheaper.

Which kind of neighbourhood comes next is drawn by what each kind has lately saved for its work, in simplex steps, so that the
same instance and seed take the same way on any machine. A neighbourhood grows while it is solved quickly and shrinks otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from batchsched.planner.fleet_lp import Flags
from batchsched.planner.fleet_model import Floats, Ints
from batchsched.planner.fleet_replicas import Replicas, Solved
from batchsched.planner.fleet_round import round_up

MEMORY = 0.8
"""Weight of what is known of a kind against what it has just done."""
LEAST_CHANCE = 0.1
EASY = 800
"""Simplex steps of a neighbourhood of the right size."""
MOST = 4000
"""Simplex steps after which a solve is given up."""
SMALLEST, LARGEST = 0.5, 8.0


@dataclass
class Share:
    """What a kind of neighbourhood did."""

    tried: int = 0
    better: int = 0
    saved_g: float = 0.0
    work: int = 0
    size: float = 1.0
    chance: float = 1.0


class Portfolio:
    """The best replicas known, and the ways to better ones."""

    def __init__(self, replicas: Replicas, first: Solved, seed: int) -> None:
        self.replicas = replicas
        self.best = first
        self.shares = {name: Share() for name in ("pools", "window", "class", "idle", "late")}
        self._draw = np.random.default_rng(seed)

    def step(self) -> Solved | None:
        """Try one neighbourhood; what it found where it is cheaper."""
        name = self._choose()
        share, work = self.shares[name], self.replicas.lp.lp.iterations
        ready = np.round(self.best.ready)
        freed = self._freed(name, ready, share.size)
        lower, upper = np.where(freed, 0.0, ready), np.where(freed, np.inf, ready)
        found = round_up(self.replicas, lower, upper, self.best.cost_g * (1 - 1e-9), MOST)
        work = self.replicas.lp.lp.iterations - work
        saved = self.best.cost_g - found.cost_g if found is not None else 0.0
        share.tried += 1
        share.work += work
        share.size = min(LARGEST, max(SMALLEST, share.size * (1.15 if work < EASY else 0.8)))
        gain = saved / max(self.best.cost_g, 1e-12) * 1e6 / max(50, work)
        share.chance = MEMORY * share.chance + (1 - MEMORY) * (LEAST_CHANCE + gain)
        if found is None or saved <= 0:
            return None
        share.better += 1
        share.saved_g += saved
        self.best = found
        return found

    def _choose(self) -> str:
        assert self.best.relaxed is not None
        names = list(self.shares)
        chance = np.array([self.shares[name].chance for name in names])
        late = self.best.relaxed.late_units * self.replicas.model.late_g[:, None]
        if late.sum() <= 1e-6 * self.best.cost_g:
            chance[names.index("late")] = 0.0
        return names[int(self._draw.choice(len(names), p=chance / chance.sum()))]

    def _freed(self, name: str, ready: Floats, size: float) -> Flags:
        """[J] places whose replicas are free."""
        r, m, draw = self.replicas, self.replicas.model, self._draw
        if name == "pools":
            pools = draw.choice(m.capacity.shape[0], min(m.capacity.shape[0], max(1, round(2 * size))), replace=False)
            return np.asarray(np.any(m.gpus[:, pools] > 0, axis=1))[r.config]
        if name == "window":
            width = max(2, int(8 * size))
            begin = int(draw.integers(-width // 2, m.slots - width // 2))
            return np.asarray((r.slot >= begin) & (r.slot < begin + width))
        if name == "idle":
            return self._around_idle(ready, size)
        return self._of_class(name, size)

    def _of_class(self, name: str, size: float) -> Flags:
        """All configurations of a class for a while; of one with late work, all on its pools, before that is given up."""
        r, m = self.replicas, self.replicas.model
        assert self.best.relaxed is not None
        late = self.best.relaxed.late_units * m.late_g[:, None]
        if name == "late":
            c, until = divmod(int(self._draw.choice(late.size, p=late.ravel() / late.sum())), m.slots)
            begin, end = until - int(24 * size), until + 1
        else:
            c = int(self._draw.integers(m.classes))
            middle, half = int(self._draw.integers(m.slots)), int(12 * size)
            begin, end = middle - half, middle + half
        mine = np.zeros(m.configs, bool)
        mine[m.arc_config[m.arc_class == c]] = True
        if name == "late":  # what keeps it out may be any other model on its pools
            mine = np.asarray(np.any(m.gpus[:, np.any(m.gpus[mine] > 0, axis=0)] > 0, axis=1))
        return np.asarray(mine[r.config] & (r.slot >= begin) & (r.slot < end))

    def _around_idle(self, ready: Floats, size: float) -> Flags:
        """The pools of some replicas that idle, for a while around it."""
        r, m = self.replicas, self.replicas.model
        assert self.best.relaxed is not None
        busy = np.zeros(m.load_g.shape)
        np.add.at(busy, m.arc_config, self.best.relaxed.run)
        idle = np.maximum(0.0, ready - busy[r.config, r.slot] / m.slot_s[r.slot]) + 1e-3
        centres: Ints = self._draw.choice(r.places, min(r.places, 8), p=idle / idle.sum())
        freed = np.zeros(r.places, bool)
        for j in centres.tolist():
            shared = np.asarray(np.any(m.gpus[:, m.gpus[r.config[j]] > 0] > 0, axis=1))[r.config]
            freed |= shared & (np.abs(r.slot - r.slot[j]) <= int(3 * size))
        return freed
