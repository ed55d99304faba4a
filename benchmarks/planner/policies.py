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

from batchsched.planner.fleet_model import FleetPlan, Floats, Ints
from benchmarks.planner.instance import Instance
from benchmarks.planner.ledger import Cells, Ledger

Policy = Callable[[Instance], FleetPlan]
PIECE_SHARE = 1 / 8
Score = Callable[[Floats, Ints, float], Floats]
"""Of grams and slots until the finish, by start, and of the grams of starting at once on the newest pool; the least wins."""


def earliest_deadline(instance: Instance) -> FleetPlan:
    """EDF on the cheapest slot."""
    ledger = Ledger(instance)
    for batch in np.lexsort((instance.model.release, instance.model.due)).tolist():
        _cheapest(ledger, batch)
    return ledger.plan()


def run_now(instance: Instance) -> FleetPlan:
    """At once, on the newest pools."""
    ledger = Ledger(instance)
    for batch in _arrivals(instance):
        cells = ledger.cells(batch)
        order = np.lexsort((-instance.model.rate[cells.arc], -instance.newness[cells.config], cells.slot))
        ledger.place(batch, cells.pick(order))
    return ledger.plan()


def marginal(instance: Instance) -> FleetPlan:
    """What replicas have to spare costs its running; one more its being there as well, and a load where no neighbour is idle."""
    ledger, model = Ledger(instance), instance.model
    for batch in _arrivals(instance):
        cells = ledger.cells(batch)
        k, t = cells.config, cells.slot
        padded = np.pad(ledger.ready, ((0, 0), (1, 1)))
        loads = (padded[k, t + 1] >= padded[k, t]).astype(int) - (padded[k, t + 1] < padded[k, t + 2])
        there = (instance.ready_g[k, t] + loads * (model.load_g[k, t] - instance.ready_g[k, t])) / model.slot_s[t]
        price = model.run_g[cells.arc, t] + np.where(ledger.spare_s[k, t] > 0, 0.0, there)
        ledger.place(batch, cells.pick(np.argsort(price / model.rate[cells.arc], kind="stable")))
    return ledger.plan()


def lowest_window(instance: Instance) -> FleetPlan:
    """In one piece, where that emits least."""
    return _in_pieces(instance, lambda grams, *_: grams)


def carbon_time(instance: Instance) -> FleetPlan:
    """In one piece, where most is saved for the time until it is finished."""
    return _in_pieces(instance, lambda grams, finish, now_g: (grams - now_g) / finish)


def _arrivals(instance: Instance) -> list[int]:
    order: list[int] = np.lexsort((instance.model.due, instance.model.release)).tolist()
    return order


def _cheapest(ledger: Ledger, batch: int) -> None:
    cells = ledger.cells(batch)
    ledger.place(batch, cells.pick(np.argsort(ledger.instance.unit_g[cells.arc, cells.slot], kind="stable")))


def _in_pieces(instance: Instance, score: Score) -> FleetPlan:
    ledger, model = Ledger(instance), instance.model
    for batch in _arrivals(instance):
        arcs = instance.arcs[model.batch_class[batch]]
        newest = arcs[np.argmax(instance.newness[model.arc_config[arcs]])]
        now_g = _now_g(instance, batch, int(newest))
        found = [(*_piece(ledger, batch, arc, score, now_g), arc) for arc in arcs.tolist()]
        best, slots, arc = min(found, key=lambda item: item[0])
        if math.isfinite(best):
            ledger.place(batch, Cells(np.full(len(slots), arc), np.full(len(slots), model.arc_config[arc]), slots))
        if ledger.left[batch] > 0:
            _cheapest(ledger, batch)
    return ledger.plan()


def _now_g(instance: Instance, batch: int, arc: int) -> float:
    """Grams of a batch that begins at once on one arc and runs without a break, whether there is room or not."""
    model, work = instance.model, float(instance.model.work[batch])
    slots = np.arange(model.release[batch], model.slots)
    done = model.rate[arc] * model.slot_s[slots]
    width = _width(instance, batch, arc)
    loads = width * model.rate[arc] * model.load_s[int(model.arc_config[arc])]
    before = np.append(0.0, np.cumsum(done))[:-1] * width
    part = np.clip(work + loads - before, 0.0, done * width)
    return float(instance.unit_g[arc, slots] @ part)


def _width(instance: Instance, batch: int, arc: int) -> int:
    """Replicas that let a batch run in `PIECE_SHARE` of its window."""
    model = instance.model
    done = model.rate[arc] * model.slot_s[model.release[batch] : model.due[batch]]
    return max(1, math.ceil(float(model.work[batch]) / max(float(done.sum()) * PIECE_SHARE, 1e-9)))


def _piece(ledger: Ledger, batch: int, arc: int, score: Score, now_g: float) -> tuple[float, Ints]:
    """The best start of a batch on one arc: its score, infinite where there is none, and the slots from it on."""
    model = ledger.instance.model
    k, work = int(model.arc_config[arc]), float(model.work[batch])
    slots = np.arange(model.release[batch], model.due[batch])
    done = model.rate[arc] * model.slot_s[slots]
    width = _width(ledger.instance, batch, arc)
    reached = np.append(0.0, np.cumsum(done)) * width
    ends = np.searchsorted(reached, reached[:-1] + work + width * model.rate[arc] * model.load_s[k] - 1e-9 * work)
    room = ledger.fits(Cells(np.full(len(slots), arc), np.full(len(slots), k), slots)) >= width
    shut = np.append(0, np.cumsum(~room))
    starts = np.flatnonzero(ends < len(reached))
    starts = starts[shut[ends[starts]] == shut[starts]]
    if not len(starts):
        return math.inf, starts
    spent = np.append(0.0, np.cumsum(ledger.instance.unit_g[arc, slots] * done)) * width
    values = score(spent[ends[starts]] - spent[starts], ends[starts], now_g)
    best = int(np.argmin(values))
    return float(values[best]), slots[starts[best] : ends[starts[best]]]
