"""The search for cheaper plans of a fleet: from an answer of the linear program or an older plan to a safe one, and on.

Work is counted in places looked at, so that the same instance, seed and work take the same way on any machine.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from batchsched.planner.fleet_bound import FleetPrices
from batchsched.planner.fleet_deal import deal
from batchsched.planner.fleet_model import FleetModel, FleetPlan, Floats, Ints
from batchsched.planner.fleet_part import Pieces
from batchsched.planner.search_load import adopt, fill, put
from batchsched.planner.search_ruin import KINDS, improve
from batchsched.planner.search_state import FREE, PIECES, RANDOM, WORK, State, nothing_placed, used_pieces, with_more_pieces

ROUND_UP = 0.8
"""Of the replicas that the linear program asks for: fractions from this on make one more."""

HEAT = 0.002
"""By how much a try may make the plan dearer at first, about: as a share of what a batch costs on average."""
COOLED = 30_000_000
"""Places after which it is half as much."""


@dataclass
class Share:
    """What a kind of improvement did."""

    tried: int = 0
    better: int = 0
    saved_g: float = 0.0
    work: int = 0


class Search:
    """A state of whole replicas and placed work, safe at any time."""

    def __init__(self, model: FleetModel, prices: FleetPrices | None = None, seed: int = 0) -> None:
        self.model = model
        self._prices, self._seed = prices, seed
        self._state = self._empty(4096)
        self._chance = np.ones(len(KINDS))
        self._tally = np.zeros((len(KINDS), 4))
        self._best = self._plan()

    @property
    def cost_g(self) -> float:
        """Of the cheapest plan so far, late work included."""
        return self._best.cost_g

    @property
    def work(self) -> int:
        """Places looked at."""
        return int(self._state.counts[WORK])

    @property
    def shares(self) -> dict[str, Share]:
        """What each kind of ruin did."""
        return {name: Share(int(n), int(b), float(g), int(w)) for name, (n, b, g, w) in zip(KINDS, self._tally, strict=True)}

    def load(self, run: Floats, starts: Ints | None = None, held: Ints | None = None, round_up: float = ROUND_UP) -> None:
        """Take over replica-seconds [A, T] and replicas [K, T] as far as they fit; the rest goes where it costs least.

        Without `starts` and `held` as many replicas as `run` asks for, a fraction from `round_up` on as a whole one.
        """
        rows, seconds, _ = deal(self.model, run)
        if starts is None or held is None:
            starts, held = self._replicas(run, round_up)
        self._load(rows, seconds, starts, held)
        self._best = self._plan()

    def offer(self, pieces: Pieces, starts: Ints, held: Ints) -> None:
        """Take this over where it is cheaper than what is being searched."""
        old = self._state
        self._load(np.stack(pieces[:3], axis=1), pieces.seconds, starts, held)
        if not self._state.cost[0] < old.cost[0] * (1 - 1e-9):
            old.counts[WORK] = self._state.counts[WORK]
            self._state = old
        elif self._state.cost[0] < self.cost_g:
            self._best = self._plan()
        self._state.cost[2] = min(self._state.cost[0], self.cost_g)

    def pieces(self) -> tuple[Pieces, Ints, Ints]:
        """What is being searched: its work, starts and held replicas [K, T]."""
        used, cell = used_pieces(self._state), self._state.cell
        pieces = Pieces(used["batch"], used["arc"], used["slot"], used["seconds"])
        return pieces, cell["starts"].astype(np.int64), cell["held"].astype(np.int64)

    def _load(self, rows: Ints, seconds: Floats, starts: Ints, held: Ints) -> None:
        old = self._state
        self._state = self._empty(4 * (len(rows) + self.model.work.size) + 4096)
        self._state.counts[WORK], self._state.counts[RANDOM] = old.counts[WORK], old.counts[RANDOM]
        adopt(self._state, starts, held)
        put(self._state, rows, seconds)
        self._fill()
        self._state.cost[2] = self._state.cost[0]

    def improve(self, most_work: int) -> bool:
        """Look at so many places for something cheaper; whether it was found."""
        done = self.work + most_work
        heat = HEAT * self.cost_g / max(1, self.model.work.size)
        while self.work < done:
            self._grow()
            improve(self._state, self._chance, self._tally, min(done - self.work, 10_000_000), heat, COOLED)
        if not self._state.cost[0] < self.cost_g * (1 - 1e-12):
            return False
        self._best = self._plan()
        return True

    def plan(self, bound_g: float = 0.0) -> FleetPlan:
        """The cheapest plan so far."""
        return replace(self._best, bound_g=bound_g)

    def _plan(self) -> FleetPlan:
        """The plan as it stands."""
        s, m = self._state, self.model
        run = np.zeros(m.run_g.shape)
        used = used_pieces(s)
        np.add.at(run, (used["arc"], used["slot"]), used["seconds"])
        starts, held, late = s.cell["starts"].astype(np.int64), s.cell["held"].astype(np.int64), s.batch["left"].copy()
        cost = (m.run_g * run).sum() + (m.load_g * starts).sum() + (m.hold_g * held).sum() + m.lost_g @ late
        return FleetPlan(run, starts, held, late, float(cost), 0.0)

    def _empty(self, pieces: int) -> State:
        return nothing_placed(self.model, self._prices, pieces, self._seed)

    def _fill(self) -> None:
        m = self.model
        choice = (m.due - m.release) * np.bincount(m.arc_class, minlength=m.classes)[m.batch_class]
        order = np.argsort(choice, kind="stable")
        while True:
            fill(self._state, order)
            if self._state.counts[FREE] >= 0:
                return
            self._grow()

    def _grow(self) -> None:
        """Twice as many pieces where half are used."""
        if self._state.counts[PIECES] * 2 >= len(self._state.piece):
            self._state = with_more_pieces(self._state)

    def _replicas(self, run: Floats, round_up: float) -> tuple[Ints, Ints]:
        m = self.model
        busy = np.zeros(m.load_g.shape)
        np.add.at(busy, m.arc_config, run)
        asked = np.floor(busy / m.slot_s + 1 - round_up + 1e-9).astype(np.int64)
        before = np.concatenate([m.loaded[:, None], asked[:, :-1]], axis=1)
        kept = np.minimum(before, asked)
        held = np.concatenate([kept[:, 1:], np.zeros((m.configs, 1), np.int64)], axis=1)
        return asked - kept, held
