"""A lower bound of what any plan costs, from prices alone.

Prices on a pool's time, on its room and on ready replicas turn the rules they belong to into costs. What is left falls apart:
each batch takes its cheapest slot, each configuration keeps its replicas along its cheapest path through time. So any prices
that are not negative give a true bound, whoever found them and however roughly; the best ones give the LP's value.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from batchsched.planner.fleet_model import FleetModel, Floats


@dataclass(frozen=True, eq=False)
class FleetPrices:
    """Grams, none negative."""

    gpu: Floats
    """[P, T] of a GPU-second."""
    room: Floats
    """[P, T] of a GPU that holds a model when the slot ends."""
    ready: Floats
    """[K, T] of a ready replica-second."""


def floor_prices(model: FleetModel) -> FleetPrices:
    """What being ready costs whoever pays for starts and holding: a replica ready in a slot was either held or begun."""
    held = np.concatenate([np.where(model.loaded > 0, 0.0, np.inf)[:, None], model.hold_g[:, :-1]], axis=1)
    ready: Floats = np.minimum(held, model.load_g) / model.slot_s
    return FleetPrices(np.zeros_like(model.capacity), np.zeros_like(model.room), ready)


def no_room(model: FleetModel) -> npt.NDArray[np.bool_]:
    """[K, T] where not even one replica may be held when the slot ends."""
    pools = [np.flatnonzero(row) for row in model.gpus]
    return np.array([(model.room[p] < model.gpus[k, p][:, None]).any(axis=0) for k, p in enumerate(pools)]).reshape(
        model.load_g.shape
    )


def work_price(model: FleetModel, prices: FleetPrices) -> Floats:
    """[A, T] grams of a unit of work, with what its GPUs and its replica are worth elsewhere."""
    taken = model.gpus[model.arc_config] @ prices.gpu + prices.ready[model.arc_config]
    out: Floats = (model.run_g + taken) / model.rate[:, None]
    return out


def class_price(model: FleetModel, prices: FleetPrices) -> Floats:
    """[C, T] grams of a unit of each class's work where it is cheapest; never more than being late."""
    out = np.repeat(model.late_g[:, None], model.slots, axis=1)
    np.minimum.at(out, model.arc_class, work_price(model, prices))
    return out


def lower_bound(model: FleetModel, prices: FleetPrices) -> float:
    """Grams that every plan costs at least."""
    paid = float((prices.gpu * model.capacity * model.slot_s).sum() + (prices.room * model.room).sum())
    least = least_replicas_g(model, *replica_paths(model, prices))
    return float(batch_price(model, class_price(model, prices)) @ model.work) + least - paid


def batch_price(model: FleetModel, price: Floats) -> Floats:
    """[B] grams of a unit at the cheapest slot of each batch's window, by its class's prices [C, T]; of late work at most."""
    # minima over ranges from minima over powers of two
    levels = [price]
    while 2 ** len(levels) <= model.slots:
        half = 2 ** (len(levels) - 1)
        levels.append(np.minimum(levels[-1][:, :-half], levels[-1][:, half:]))
    length = model.due - model.release
    cheapest = model.late_g[model.batch_class].copy()
    for level, table in enumerate(levels):
        at = (length >= 2**level) & (length < 2 ** (level + 1))
        c, a, b = model.batch_class[at], model.release[at], model.due[at]
        cheapest[at] = np.minimum(table[c, a], table[c, b - 2**level])
    return cheapest


def least_replicas_g(model: FleetModel, cold: Floats, warm: Floats) -> float:
    """Grams of all replicas on their cheapest paths (`replica_paths`)."""
    return float(warm @ model.loaded + cold @ (most_replicas(model) - model.loaded))


def replica_paths(model: FleetModel, prices: FleetPrices) -> tuple[Floats, Floats]:
    """The cheapest path through time of one replica of each configuration: begun, kept, let go, perhaps never there.

    [K] grams of one that is not held at first, and [K] of one that is. Below 0 where the prices of ready replicas promise more
    than starts and room cost.
    """
    earns = prices.ready * model.slot_s
    start = model.load_g + load_price(model, prices) - earns
    keep = np.where(no_room(model), np.inf, model.hold_g + model.gpus @ prices.room)
    cold, warm = np.zeros(model.configs), np.zeros(model.configs)
    for t in reversed(range(model.slots)):  # cold, warm: cheapest rest of the horizon from here on
        after = np.minimum(cold, keep[:, t] + warm)
        cold, warm = np.minimum(cold, start[:, t] + after), after - earns[:, t]
    return cold, warm


def load_price(model: FleetModel, prices: FleetPrices) -> Floats:
    """[K, T] what the seconds of a start are worth, of its GPUs and of the replica itself."""
    worth = model.gpus @ prices.gpu + prices.ready
    out = np.zeros_like(worth)
    for i in range(model.load_band.shape[2]):
        out[:, : model.slots - i] += model.load_band[:, : model.slots - i, i] * worth[:, i:]
    return out


def most_replicas(model: FleetModel) -> Floats:
    """[K] replicas of a configuration that could be of use at once: of each pool's room or open GPUs, rounded up."""
    gpus = np.maximum(model.room, model.capacity).max(axis=1, initial=0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        fits = np.where(model.gpus > 0, np.ceil(gpus / model.gpus), np.inf)
    return np.asarray(np.maximum(fits.min(axis=1), model.loaded))
