"""Plans for a whole fleet, better and better: linear program, whole replicas, search.

First the work without engine starts (fleet_relax.py); its answer and prices are where the search begins (search.py). It begins
anew where replicas as columns (fleet_replicas.py) give a better start, then it ruins and recreates. Whoever asks decides when to
stop: each step is the same for the same instance and seed, however long it takes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from batchsched.planner.fleet_ascent import Ascent
from batchsched.planner.fleet_bound import FleetPrices, floor_prices, lower_bound
from batchsched.planner.fleet_lp import Basis
from batchsched.planner.fleet_model import FleetModel, FleetPlan, Floats, Ints
from batchsched.planner.fleet_portfolio import PLACES_A_STEP, Portfolio
from batchsched.planner.fleet_relax import Relaxation, relax
from batchsched.planner.fleet_replicas import add_replicas
from batchsched.planner.linear import Limit
from batchsched.planner.search import Search, Share

CLOSED = 1e-6
"""A plan is not improved beyond this gap."""
MOST_SUMS = 50_000
"""Classes times slots: of more the linear program would take too long, and the search begins from what stands."""
PROGRAM_SHARE = 0.25
"""Of the work at most: for the linear program, for that with replicas, and for the bound."""
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
    failed: str = ""
    """What went wrong in the linear program."""


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


def plans(
    model: FleetModel,
    seed: int = 0,
    standing: Standing | None = None,
    most_work: float = math.inf,
    until_s: float = math.inf,
) -> Iterator[Step]:
    """The state after each step of the search; the caller stops it by a clock, by the work or by the gap. Ends at the bound.

    `standing`: made to fit, it is the first plan, before the linear program is solved. `most_work`: how far the caller means to
    go; linear programs take up to their share of it. `until_s`: they end then by time.monotonic(), for an emergency.
    """
    if not model.arc_class.size or not model.work.size:
        yield Step(_nothing(model), float(model.lost_g @ model.work), 0, {})
        return
    kept = _kept(model, standing, seed) if standing is not None else None
    if kept is not None:
        yield Step(kept, kept.bound_g, 0, {})
    limit = Limit(most_work * PROGRAM_SHARE, until_s)
    relaxation, failed = _relaxed(model, standing, limit)
    prices = relaxation.last.prices if relaxation else None
    bound, steps = relaxation.bound_g if relaxation else 0.0, limit.taken
    yield Step(kept, bound, steps, {}, failed)
    search = _begun(model, relaxation, kept, seed)
    best = search.plan(bound)
    yield Step(best, bound, steps + search.work // PLACES_A_STEP, {})
    if relaxation is not None:
        limit.most = limit.taken + most_work * PROGRAM_SHARE
        first, search = search, _with_starts(model, relaxation, seed, search)
        steps = limit.taken + (first.work // PLACES_A_STEP if search is not first else 0)
        best = search.plan(bound)
        yield Step(best, bound, steps + search.work // PLACES_A_STEP, {})
    ascent, climbed = Ascent(model, prices or floor_prices(model)), 0
    portfolio = Portfolio(search, seed)
    places = min(MOST_PLACES, max(LEAST_PLACES, 150 * model.run_g.size))
    while True:
        if climbed < CLIMBS:
            climbed += 1
            steps += ascent.climb(ascent.affords(most_work * PROGRAM_SHARE) // CLIMBS)
            bound = max(bound, ascent.bound_g)
        elif portfolio.improve(places):
            best = search.plan()
        best = replace(best, bound_g=bound)
        yield Step(best, bound, steps + portfolio.work, portfolio.shares)
        if best.gap <= CLOSED:
            return


def _relaxed(model: FleetModel, standing: Standing | None, limit: Limit) -> tuple[Relaxation | None, str]:
    """The program solved; None where it is too large, reaches its limit or fails, and how it did."""
    if model.classes * model.slots > MOST_SUMS:
        return None, ""
    try:
        return relax(model, standing.basis if standing is not None else None, limit), ""
    except ArithmeticError:
        return None, ""
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"


def _kept(model: FleetModel, standing: Standing, seed: int) -> FleetPlan:
    """What stood, without what no longer fits, and with all work placed."""
    search = Search(model, standing.prices, seed)
    search.load(standing.run, standing.starts, standing.held)
    return search.plan(lower_bound(model, standing.prices) if standing.prices else 0.0)


def _begun(model: FleetModel, relaxation: Relaxation | None, kept: FleetPlan | None, seed: int) -> Search:
    """From the cheaper of the program's answer and what stood."""
    search = Search(model, relaxation.last.prices if relaxation else None, seed)
    if relaxation is not None or kept is None:
        search.load(relaxation.last.run if relaxation else np.zeros(model.run_g.shape))
    if kept is not None and kept.cost_g < search.cost_g:
        search.load(kept.run, kept.starts, kept.held)
    return search


def _with_starts(model: FleetModel, relaxation: Relaxation, seed: int, search: Search) -> Search:
    """Begun anew from the program with replicas, where that is cheaper."""
    other = Search(model, relaxation.last.prices, seed)
    with suppress(Exception):  # whatever the program does, there is a beginning
        other.load(*add_replicas(relaxation.lp, relaxation.last).solve())
    return other if other.cost_g < search.cost_g else search


def _nothing(model: FleetModel) -> FleetPlan:
    none = np.zeros(model.load_g.shape, np.int64)
    lost = float(model.lost_g @ model.work)
    return FleetPlan(np.zeros(model.run_g.shape), none, none.copy(), model.work.copy(), lost, lost)
