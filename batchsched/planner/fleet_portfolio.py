"""Improvers of a fleet's plan side by side: each gets the more of the work, the more it has lately saved for it.

Ruin and recreate (search.py) has kinds of its own. Beside it a part of the plan (fleet_part.py), drawn by chance, is set anew:
its work on the replicas that stand, by a linear program, or its replicas too, by CP-SAT. Parts grow where they are solved within
their work, and shrink where not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from batchsched.planner.fleet_cpsat import choose
from batchsched.planner.fleet_model import FleetModel, Floats
from batchsched.planner.fleet_part import Flags, Part, part
from batchsched.planner.linear import Limit
from batchsched.planner.search import Search, Share

PLACES_A_STEP = 12_000
"""Places that the search looks at in the time of a simplex step."""
MOST_STEPS = 800
"""Simplex steps of one program of work; small ones as these take a third of the usual time for each."""
STEPS_OF_PART = 1 / 3
CPSAT_S = 0.05
"""CP-SAT's deterministic seconds for one part."""
STEPS_A_CPSAT_S = 15_000
"""Simplex steps in the time of one of them."""
STEPS_A_CELL = 0.1
"""Beside the solve, for each freed cell and slot of the plan: what building and taking over cost."""
LEAST_SHARE, MOST_SHARE = 0.02, 0.25
"""Of all work, for one that saves nothing, and at most."""
MEMORY = 0.7
"""Weight of what is known of an improver against what it has just done."""


@dataclass
class _Improver:
    """How much it has lately saved, and how large its parts are."""

    cells: float
    whole: bool
    saved_g: float = 0.0
    """Grams and simplex steps, what lies back weighing less."""
    spent: float = 0.0

    @property
    def rate(self) -> float:
        return self.saved_g / self.spent if self.spent > 0 else 0.0

    def learn(self, saved_g: float, spent: float) -> None:
        self.saved_g, self.spent = MEMORY * self.saved_g + saved_g, MEMORY * self.spent + spent


class Portfolio:
    """The search and what helps it."""

    def __init__(self, search: Search, seed: int) -> None:
        self.search = search
        self.model: FleetModel = search.model
        self._rng = np.random.default_rng([seed, 1])
        self._others = {"program": _Improver(8.0 * self.model.configs, False), "cp-sat": _Improver(12.0, True)}
        self._usual = _Improver(0, False)
        self._shares = {name: Share() for name in self._others}
        self._begun = search.work

    @property
    def work(self) -> int:
        """Of all, in simplex steps."""
        return self.search.work // PLACES_A_STEP + sum(share.work for share in self._shares.values())

    @property
    def shares(self) -> dict[str, Share]:
        """What each improver did, in simplex steps."""
        return {
            **{name: replace(share, work=share.work // PLACES_A_STEP) for name, share in self.search.shares.items()},
            **self._shares,
        }

    def improve(self, places: int) -> bool:
        """One step of whoever is due; whether the plan became cheaper."""
        before_g, before = self.search.cost_g, self.work
        name = next((name for name in self._others if self._is_due(name)), None)
        if name is not None:
            self._part(name)
        else:
            self.search.improve(places)
        saved, spent = before_g - self.search.cost_g, self.work - before
        (self._others[name] if name else self._usual).learn(saved, spent)
        if name is not None:
            share = self._shares[name]
            share.tried, share.better, share.saved_g = (
                share.tried + 1,
                share.better + (saved > 1e-9 * before_g),
                share.saved_g + saved,
            )
        return saved > 0

    def _is_due(self, name: str) -> bool:
        rates = sum(each.rate for each in (*self._others.values(), self._usual))
        share = self._others[name].rate / rates if rates > 0 else 0.0
        done = self._shares[name].work
        if self.search.work == self._begun:
            return False  # ruin and recreate comes first
        return done <= min(MOST_SHARE, max(LEAST_SHARE, share)) * (self.work - self._begun // PLACES_A_STEP)

    def _part(self, name: str) -> None:
        """A part set anew, taken over where that is cheaper."""
        improver, share = self._others[name], self._shares[name]
        freed = self._drawn(improver.cells, improver.whole)
        share.work += 1 + int(STEPS_A_CELL * freed.sum())
        pieces, starts, held = self.search.pieces()
        if not pieces.batch.size:
            return
        asked = part(self.model, pieces, starts, held, freed)
        solved = self._by_cpsat(asked, share) if improver.whole else self._by_program(asked, asked.now[asked.works :], share)
        improver.cells = min(float(freed.size), improver.cells * 1.3) if solved else max(8.0, improver.cells / 1.3)

    def _by_cpsat(self, asked: Part, share: Share) -> bool:
        try:
            found, proven = choose(asked, CPSAT_S, share.tried)
        except OverflowError:
            return False
        share.work += math.ceil(STEPS_A_CPSAT_S * CPSAT_S)
        if found is not None and not np.array_equal(found, asked.now[asked.works :]):
            self._by_program(asked, found, share)
        return proven

    def _by_program(self, asked: Part, whole: Floats, share: Share) -> bool:
        limit = Limit(MOST_STEPS)
        grams, x = asked.work_g(whole, limit)
        share.work += math.ceil(limit.taken * STEPS_OF_PART)
        if grams < asked.now_g * (1 - 1e-9):
            self.search.offer(*asked.plan(x))
        return math.isfinite(grams)

    def _drawn(self, cells: float, few: bool) -> Flags:
        """About so many cells: slots in a row of all configurations, or of those of one pool or of a few."""
        m = self.model
        pools = m.capacity.shape[0]
        count = int(self._rng.choice([1, 2, 3, pools])) if few else pools
        on = (m.gpus[:, self._rng.permutation(pools)[:count]] > 0).any(axis=1)
        width = min(m.slots, max(2, round(cells / max(1, int(on.sum())))))
        begin = int(self._rng.integers(m.slots - width + 1))
        freed = np.zeros(m.load_g.shape, bool)
        freed[on, begin : begin + width] = True
        return freed
