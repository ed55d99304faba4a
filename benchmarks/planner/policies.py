"""Simple policies that others plan by, each a function from an instance to a plan, under the instance's rules.

- EDF on the cheapest slot: earliest deadline first, into the slots that emit least for a request.
- Lowest window (Wiesner et al., Let's Wait Awhile): in order of release, each batch in one piece where its hours emit least.
- Carbon-time (GAIA): the same, where the grams saved against an immediate start are most for the time until it is finished.
- Marginal allocation (CarbonScaler): in order of release, each batch's replicas one by one where they do most for a gram.
- Run now: in order of release, at once, on the newest pools.

A batch in one piece has as many replicas as let it run in an eighth of its window. What then finds no room in one piece, and what
is left over, goes into the cheapest slots.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from benchmarks.planner.check import FleetPlan
from benchmarks.planner.instance import Floats, Instance, Ints
from benchmarks.planner.ledger import Cells, Ledger

PIECE_SHARE = 1 / 8
Score = Callable[[Floats, Ints, float], Floats]
"""Of the grams and the slots until the finish, by start, and of the grams of starting at once on the newest pool; the least wins."""


def earliest_deadline(instance: Instance) -> FleetPlan:
    """EDF on the cheapest slot."""
    ledger = Ledger(instance)
    for batch in np.lexsort((instance.release, instance.deadline)).tolist():
        _cheapest(ledger, batch)
    return ledger.plan()


def run_now(instance: Instance) -> FleetPlan:
    """At once, on the newest pools."""
    ledger = Ledger(instance)
    for batch in np.lexsort((instance.deadline, instance.release)).tolist():
        cells = ledger.cells(batch)
        order = np.lexsort((-instance.done[cells.at], -instance.newness[cells.pool], cells.slot))
        ledger.place(batch, cells.pick(order))
    return ledger.plan()


def marginal(instance: Instance) -> FleetPlan:
    """What replicas have to spare is free; one more costs its grams, and a load where it has no neighbour that is idle."""
    ledger = Ledger(instance)
    for batch in np.lexsort((instance.deadline, instance.release)).tolist():
        cells = ledger.cells(batch)
        padded = np.pad(ledger.replicas, ((0, 0), (0, 0), (1, 1)))
        m, p, t = cells.at
        here, before, after = padded[m, p, t + 1], padded[m, p, t], padded[m, p, t + 2]
        loads = (here >= before).astype(int) - (here < after)
        price = (instance.replica_g[cells.at] + loads * instance.load_g[cells.at]) / instance.done[cells.at]
        ledger.place(batch, cells.pick(np.argsort(np.where(ledger.spare[cells.at] > 0, 0.0, price), kind="stable")))
    return ledger.plan()


def lowest_window(instance: Instance) -> FleetPlan:
    """In one piece, where that emits least."""
    return _in_pieces(instance, lambda grams, *_: grams)


def carbon_time(instance: Instance) -> FleetPlan:
    """In one piece, where most is saved for the time until it is finished."""
    return _in_pieces(instance, lambda grams, finish, now_g: (grams - now_g) / finish)


def _cheapest(ledger: Ledger, batch: int) -> None:
    it, cells = ledger.instance, ledger.cells(batch)
    ledger.place(batch, cells.pick(np.argsort(it.replica_g[cells.at] / it.done[cells.at], kind="stable")))


def _in_pieces(instance: Instance, score: Score) -> FleetPlan:
    ledger = Ledger(instance)
    for batch in np.lexsort((instance.deadline, instance.release)).tolist():
        places = np.argwhere(instance.usable[batch])
        newest = places[np.argmax(instance.newness[places[:, 1]])]
        at = (*newest, instance.release[batch])
        now_g = float(instance.work[batch] * instance.replica_g[at] / instance.done[at])
        found = [(*_piece(ledger, batch, int(m), int(p), score, now_g), int(m), int(p)) for m, p in places]
        best, slots, m, p = min(found, key=lambda item: item[0])
        if math.isfinite(best):
            same = np.full(len(slots), m), np.full(len(slots), p)
            ledger.place(batch, Cells(*same, slots))
        if ledger.left[batch] > 0:
            _cheapest(ledger, batch)
    return ledger.plan()


def _piece(
    ledger: Ledger, batch: int, m: int, p: int, score: Score, now_g: float
) -> tuple[float, Ints]:
    """The best start of a batch on one pool: its score, infinite where there is none, and the slots from it on."""
    it = ledger.instance
    a, b = int(it.release[batch]), int(it.deadline[batch])
    done = it.done[m, p, a:b]
    width = max(1, math.ceil(it.work[batch] / max(done.sum() * PIECE_SHARE, 1e-9)))
    reached = np.append(0.0, np.cumsum(done)) * width
    ends = np.searchsorted(reached, reached[:-1] + it.work[batch] * (1 - 1e-9))
    open_ = ledger.free[p, a:b] // it.need[m, p] >= width
    shut = np.append(0, np.cumsum(~open_))
    starts = np.flatnonzero(ends < len(reached))
    starts = starts[shut[ends[starts]] == shut[starts]]
    if not len(starts):
        return math.inf, starts
    spent = np.append(0.0, np.cumsum(it.replica_g[m, p, a:b])) * width
    values = score(spent[ends[starts]] - spent[starts], ends[starts], now_g)
    best = int(starts[int(np.argmin(values))])
    return float(values.min()), np.arange(a + best, a + int(ends[best]))
