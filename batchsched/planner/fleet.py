"""Plans for a whole fleet, better and better: linear program, whole replicas, search.

First the work without engine starts (fleet_relax.py); its answer and prices are where the search begins (search.py). It begins
anew where replicas as columns (fleet_replicas.py) give a better start, then it ruins and recreates. Whoever asks decides when to
stop: each step is the same for the same instance and seed, however long it takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from batchsched.planner.fleet_ascent import STEPS, Ascent
from batchsched.planner.fleet_bound import FleetPrices, lower_bound
from batchsched.planner.fleet_lp import Basis
from batchsched.planner.fleet_model import FleetModel, FleetPlan, Floats, Ints
from batchsched.planner.fleet_relax import Relaxation, relax
from batchsched.planner.fleet_replicas import add_replicas
from batchsched.planner.search import Search, Share

CLOSED = 1e-6
"""A plan is not improved beyond this gap."""
PLACES_A_STEP = 12_000
"""Places that the search looks at in the time of a simplex step."""
CLIMBS = 2
"""The bound climbs in so many parts."""
LEAST_PLACES, MOST_PLACES = 60_000, 3_000_000
"""Of one step of the search."""


@dataclass(frozen=True, eq=False)
class Step:
    """What there is after a step. `plan` is None until there is a first one; `work`: simplex steps, or what takes as long."""

    plan: FleetPlan | None
    bound_g: float
    work: int
    shares: dict[str, Share]


@dataclass(frozen=True, eq=False)
class Standing:
    """What stood, in the model's own shapes: where planning begins again. All but the work may be unknown."""

    run: Floats
    """[A, T] replica-seconds."""
    starts: Ints | None = None
    """[K, T]; unknown: as many replicas as the work takes."""
    held: Ints | None = None
    """[K, T]."""
    prices: FleetPrices | None = None
    basis: Basis | None = None
    """Where the linear program ended."""


def plans(model: FleetModel, seed: int = 0, standing: Standing | None = None) -> Iterator[Step]:
    """The state after each step of the search; the caller stops it by a clock, by the work or by the gap. Ends at the bound.

    `standing`: made to fit, it is the first plan, before the linear program is solved.
    """
    if not model.arc_class.size or not model.work.size:
        yield Step(_nothing(model), float(model.late_g[model.batch_class] @ model.work), 0, {})
        return
    kept = _kept(model, standing, seed) if standing is not None else None
    if kept is not None:
        yield Step(kept, kept.bound_g, 0, {})
    relaxation = relax(model, standing.basis if standing is not None else None)
    bound, steps = relaxation.bound_g, relaxation.lp.lp.iterations
    yield Step(kept, bound, steps, {})
    search = _begun(model, relaxation, seed)
    if kept is not None and kept.cost_g < search.cost_g:
        search.load(kept.run, kept.starts, kept.held)
    best = search.plan(bound)
    yield Step(best, bound, steps + search.work // PLACES_A_STEP, {})
    ascent = Ascent(model, relaxation.last.prices)
    for _ in range(CLIMBS):
        steps += ascent.climb(STEPS // CLIMBS)
        bound = max(bound, ascent.bound_g)
        best = replace(best, bound_g=bound)
        yield Step(best, bound, steps + search.work // PLACES_A_STEP, {})
    begun = relaxation.lp.lp.iterations
    first, search = search, _with_starts(model, relaxation, seed, search)
    steps += relaxation.lp.lp.iterations - begun + (first.work // PLACES_A_STEP if search is not first else 0)
    best = search.plan(bound)
    places = min(MOST_PLACES, max(LEAST_PLACES, 150 * model.run_g.size))
    while True:
        yield Step(best, bound, steps + search.work // PLACES_A_STEP, search.shares)
        if best.gap <= CLOSED:
            return
        if search.improve(places):
            best = search.plan(bound)


def _kept(model: FleetModel, standing: Standing, seed: int) -> FleetPlan:
    """What stood, without what no longer fits, and with all work placed."""
    search = Search(model, standing.prices, seed)
    search.load(standing.run, standing.starts, standing.held)
    return search.plan(lower_bound(model, standing.prices) if standing.prices else 0.0)


def _begun(model: FleetModel, relaxation: Relaxation, seed: int) -> Search:
    search = Search(model, relaxation.last.prices, seed)
    search.load(relaxation.last.run)
    return search


def _with_starts(model: FleetModel, relaxation: Relaxation, seed: int, search: Search) -> Search:
    """Begun anew from the program with replicas, where that is cheaper."""
    other = Search(model, relaxation.last.prices, seed)
    with suppress(ArithmeticError):
        other.load(*add_replicas(relaxation.lp, relaxation.last).solve())
    return other if other.cost_g < search.cost_g else search


def _nothing(model: FleetModel) -> FleetPlan:
    none = np.zeros(model.load_g.shape, np.int64)
    lost = float(model.late_g[model.batch_class] @ model.work)
    return FleetPlan(np.zeros(model.run_g.shape), none, none.copy(), model.work.copy(), lost, lost)
