"""Where a plan's gap to its bound comes from, in grams.

Prices turn each rule into a cost (fleet_bound.py); what a plan pays beyond the bound is then a sum of things that it does
otherwise than the prices would have it, none of them negative. What is left over is the difference between the bound of these
prices and the bound that the plan knows.
"""

from __future__ import annotations

import msgspec
import numpy as np

from batchsched.planner.fleet_bound import (
    FleetPrices,
    batch_price,
    class_price,
    least_replicas_g,
    load_price,
    replica_paths,
    work_price,
)
from batchsched.planner.fleet_deal import deal
from batchsched.planner.fleet_model import FleetModel, FleetPlan, Floats


class Gap(msgspec.Struct, frozen=True):
    """Parts of cost_g - bound_g, in grams."""

    misplaced_g: float
    """Work where it costs more than it is worth in that slot, or that no batch asked for."""
    overshoot_g: float
    """Work in slots that are worth more to its class than to its batch, which could have come at another time."""
    late_g: float
    """Late work, beyond what it would have cost in time."""
    replicas_g: float
    """Starts and holding beyond what the seconds that they give are worth."""
    idle_g: float
    """Seconds of ready replicas that nothing used, where they have a price."""
    unused_g: float
    """GPUs that nothing used, where they have a price."""
    rest_g: float
    """The bound's own: what these prices do not explain; below 0 where the plan knows a better bound than theirs."""


def gap_parts(model: FleetModel, plan: FleetPlan, prices: FleetPrices, worth: Floats) -> Gap:
    """`worth` [C, T]: grams that a unit of a class's work in a slot saves, as the program has it."""
    misplaced, overshoot, late = _work(model, plan, prices, worth)
    cold, warm = replica_paths(model, prices)
    begun, ready = load_price(model, prices), np.concatenate([model.loaded[:, None], plan.held[:, :-1]], axis=1) + plan.starts
    replicas = (
        ((model.load_g + begun) * plan.starts).sum()
        + ((model.hold_g + model.gpus @ prices.room) * plan.held).sum()
        - (prices.ready * model.slot_s * ready).sum()
        - least_replicas_g(model, cold, warm)
    )
    run = np.zeros(model.load_g.shape)
    np.add.at(run, model.arc_config, plan.run)
    load_s = _loading_s(model, plan)
    idle = (prices.ready * (ready * model.slot_s - run - load_s)).sum()
    unused = (prices.gpu * (model.capacity * model.slot_s - model.gpus.T @ (run + load_s))).sum()
    unused += (prices.room * (model.room - model.gpus.T @ plan.held)).sum()
    known = misplaced + overshoot + late + float(replicas + idle + unused)
    rest = plan.cost_g - plan.bound_g - known
    return Gap(misplaced, overshoot, late, float(replicas), float(idle), float(unused), rest)


def _work(model: FleetModel, plan: FleetPlan, prices: FleetPrices, worth: Floats) -> tuple[float, float, float]:
    """Misplaced, overshoot, late."""
    price, cheapest = work_price(model, prices), batch_price(model, class_price(model, prices))
    (b, a, t), seconds = (allotted := deal(model, plan.run))[0].T, allotted[1]
    units, paid, least = seconds * model.rate[a], price[a, t], cheapest[b]
    fair = np.clip(worth[model.batch_class[b], t], least, np.maximum(least, paid))
    dealt = np.zeros(plan.run.shape)
    np.add.at(dealt, (a, t), seconds)
    spare = ((plan.run - dealt) * model.rate[:, None] * price).sum()
    undone = model.work - np.bincount(b, units, minlength=len(model.work))
    late = ((model.lost_g - cheapest) * undone).sum()
    return float(units @ (paid - fair) + spare), float(units @ (fair - least)), float(late)


def _loading_s(model: FleetModel, plan: FleetPlan) -> Floats:
    """[K, T] seconds that starts take."""
    out = np.zeros(plan.starts.shape)
    for i in range(model.load_band.shape[2]):
        out[:, i:] += (plan.starts * model.load_band[:, :, i])[:, : model.slots - i]
    return out
