"""Plans for a whole fleet, better and better: linear program, rounding, improvement.

First the work without engine starts (fleet_relax.py), then replicas (fleet_replicas.py), whole ones by rounding (fleet_round.py),
then neighbourhoods freed and rounded anew (fleet_improve.py). Whoever asks decides when to stop: each step is the same for the
same instance and seed, however long it takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from batchsched.planner.fleet_deal import deal
from batchsched.planner.fleet_improve import Portfolio, Share
from batchsched.planner.fleet_model import FleetModel, FleetPlan
from batchsched.planner.fleet_relax import relax, start_bound
from batchsched.planner.fleet_replicas import Replicas, Solved, add_replicas, paths
from batchsched.planner.fleet_round import round_up

CLOSED = 1e-6
"""A plan is not improved beyond this gap."""
NEAR = 0.05
"""Places for replicas: where work would cost up to this share more than it saves."""


@dataclass(frozen=True, eq=False)
class Step:
    """What there is after a step. `plan` is None until there is a first one; `work`: simplex steps so far."""

    plan: FleetPlan | None
    bound_g: float
    work: int
    shares: dict[str, Share]


def plans(model: FleetModel, seed: int = 0) -> Iterator[Step]:
    """The state after each step of the search; the caller stops it by a clock, by the work or by the gap. Ends at the bound."""
    if not model.arc_class.size or not model.work.size:
        yield Step(_nothing(model), float(model.late_g[model.batch_class] @ model.work), 0, {})
        return
    relaxation = relax(model)
    bound = relaxation.bound_g
    lp = relaxation.lp
    yield Step(None, bound, lp.lp.iterations, {})
    replicas = add_replicas(lp, relaxation.last, NEAR)
    empty = np.zeros(replicas.places)
    first = round_up(replicas, empty, np.full(empty.shape, np.inf))
    if first is None:
        return
    best = _plan(model, replicas, first, bound)
    yield Step(best, bound, lp.lp.iterations, {})
    with suppress(ArithmeticError):  # then the first bound stands
        bound = max(bound, start_bound(model, relaxation))
    portfolio = Portfolio(replicas, first, seed)
    best = replace(best, bound_g=bound)
    while True:
        yield Step(best, bound, lp.lp.iterations, portfolio.shares)
        if best.gap <= CLOSED:
            return
        found = portfolio.step()
        if found is not None:
            plan = _plan(model, replicas, found, bound)
            best = plan if plan.cost_g < best.cost_g else best


def _plan(model: FleetModel, replicas: Replicas, solved: Solved, bound_g: float) -> FleetPlan:
    assert solved.relaxed is not None
    run = solved.relaxed.run
    starts, held = paths(model, replicas.table(solved))
    _, _, late = deal(model, run)
    cost = (model.run_g * run).sum() + (model.load_g * starts).sum() + (model.hold_g * held).sum()
    return FleetPlan(run, starts, held, late, float(cost + model.late_g[model.batch_class] @ late), bound_g)


def _nothing(model: FleetModel) -> FleetPlan:
    none = np.zeros(model.load_g.shape, np.int64)
    lost = float(model.late_g[model.batch_class] @ model.work)
    return FleetPlan(np.zeros(model.run_g.shape), none, none.copy(), model.work.copy(), lost, lost)
