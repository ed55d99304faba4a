"""From nothing to prices: the linear program by the hour, then at the model's own slots with the columns that this suggests."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from batchsched.planner.fleet_bound import floor_prices, lower_bound, work_price
from batchsched.planner.fleet_demand import Demand
from batchsched.planner.fleet_lp import Basis, Flags, FleetLp, Relaxed
from batchsched.planner.fleet_model import FleetModel, Floats, Ints
from batchsched.planner.linear import Limit

BLOCK_S = 3600.0
"""The first program takes slots together until they are as long as this."""
NEAR = 0.01
"""Columns whose work costs up to this share more than what it saves are asked for at once."""
CLOSE = 1e-4
"""An answer this close to its bound, as a share, needs no further columns."""
MOST_ROUNDS = 60


@dataclass(eq=False)
class Relaxation:
    """The program at the model's own slots, solved, with the best bound that its prices gave."""

    lp: FleetLp
    last: Relaxed
    best: Relaxed
    """The answer whose prices gave the bound."""
    bound_g: float


def relax(model: FleetModel, basis: Basis | None = None, limit: Limit | None = None) -> Relaxation:
    """Solve the program without engine starts; from where another one of the same shapes ended, if that is known.

    Raises ArithmeticError where the limit leaves it without prices.
    """
    if basis is not None:
        warm = FleetLp(model, Demand(model), floor_prices(model).ready, limit)
        warm.resume(basis)
        with suppress(ArithmeticError):  # then from nothing
            return tighten(warm)
    block = blocks(model)
    coarse = coarsen(model, block)
    hourly = FleetLp(coarse, Demand(coarse), floor_prices(coarse).ready, limit)
    hourly.add_runs(np.ones(coarse.run_g.shape, bool))
    rough = settle(hourly)
    prices = replace(floor_prices(model), gpu=rough.prices.gpu[:, block])
    lp = FleetLp(model, Demand(model), prices.ready, limit)
    near = work_price(model, prices) <= (1 + NEAR) * rough.worth[model.arc_class][:, block]
    lp.add_runs(near | (rough.run[:, block] > 0))
    return tighten(lp)


def tighten(lp: FleetLp) -> Relaxation:
    """Solve a program, asking for columns until none would help."""
    best = last = settle(lp)
    bound = lower_bound(lp.model, last.prices)
    for _ in range(MOST_ROUNDS):
        if last.cost_g - bound <= CLOSE * last.cost_g or not lp.add_runs(gaining(lp, last)):
            break
        try:
            last = settle(lp)
        except ArithmeticError:  # the last answer was one
            break
        least = lower_bound(lp.model, last.prices)
        best, bound = (last, least) if least > bound else (best, bound)
    return Relaxation(lp, last, best, bound)


def settle(lp: FleetLp) -> Relaxed:
    """Solve with the columns that are there, adding interval rows until none is broken. Raises ArithmeticError."""
    if not len(lp.intervals):
        lp.add_intervals(lp.demand.missing(np.zeros((lp.model.classes, lp.model.slots + 1))))
    while True:
        answer = lp.solve()
        if not answer.optimal:
            raise ArithmeticError("The simplex solver found no optimum.")
        last = lp.relaxed(answer)
        rows = lp.demand.missing(last.done)
        if not len(rows):
            return last
        lp.add_intervals(rows)


def gaining(lp: FleetLp, last: Relaxed) -> Flags:
    """[A, T] columns that would lower the cost."""
    gain = last.worth[lp.model.arc_class] - work_price(lp.model, last.prices)
    out: Flags = gain > 1e-7 * last.worth[lp.model.arc_class]
    return out


def blocks(model: FleetModel) -> Ints:
    """[T] block of each slot: slots are taken together until an hour is full."""
    begin = np.cumsum(model.slot_s) - model.slot_s
    hour = np.floor(begin / BLOCK_S + 1e-9).astype(np.int64)
    return np.unique(hour, return_inverse=True)[1]


def coarsen(model: FleetModel, block: Ints) -> FleetModel:
    """The same with slots taken together: open GPUs and grams are their means, windows reach to the blocks' edges."""
    first = np.flatnonzero(np.diff(block, prepend=-1))
    total = np.add.reduceat(model.slot_s, first)
    share = model.slot_s / total[block]

    def mean(table: Floats) -> Floats:
        out: Floats = np.add.reduceat(table * share, first, axis=1)
        return out

    before = np.minimum(model.release, model.slots - 1)
    late = np.maximum(model.due, 1) - 1
    return replace(
        model,
        slot_s=total,
        capacity=mean(model.capacity),
        room=np.minimum.reduceat(model.room, first, axis=1),
        load_g=mean(model.load_g),
        hold_g=np.add.reduceat(model.hold_g, first, axis=1),
        run_g=mean(model.run_g),
        release=block[before],
        due=np.where(model.due > model.release, block[late] + 1, 0),
    )
