"""Prices of a problem, from the linear program of its classes: what a place is worth to everybody who could use it.

In the program's optimum each class is served where its work, with what the place is worth to others, costs least. So the price of
any other place, less the least, is what moving there costs at least: the reduced cost. Prices that are not negative give a true
bound for any problem on the same slots, which is how a change is judged without solving again.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import msgspec
import numpy as np

from batchsched.planner.classes import WorkClass, classes
from batchsched.planner.fleet_arrays import arrays
from batchsched.planner.fleet_bound import FleetPrices, class_price, floor_prices, lower_bound, work_price
from batchsched.planner.fleet_lp import Flags
from batchsched.planner.fleet_model import FleetModel, Floats
from batchsched.planner.fleet_relax import relax
from batchsched.planner.price import Prices, price, work_s
from batchsched.planner.problem import Job, Problem

MOST_JOBS = 3000
MOST_CELLS = 150_000
"""Places of classes in slots. Beyond either the program takes more than a second or two: an answer that somebody waits for does
without."""


class Place(msgspec.Struct, frozen=True):
    """A configuration in a slot, and what all the rest of a job would cost there, in grams."""

    key: str
    """The job's name for the configuration."""
    slot: int
    grams: float
    """With what the place is worth to others."""
    own_g: float
    """Without: what the work itself weighs."""


@dataclass(frozen=True, eq=False)
class Arrays:
    """A problem as the program sees it, and whose each number is."""

    problem: Problem
    groups: list[WorkClass]
    model: FleetModel
    prices: Prices

    @classmethod
    def of(cls, problem: Problem, due: dict[str, float], loss_g_per_s: float = 0.0) -> Arrays:
        """`problem`: with slots cut at due times; `loss_g_per_s`: the least price of late work."""
        groups = classes(problem, due)
        prices = price(problem)
        prices = msgspec.structs.replace(prices, loss_g_per_s=max(loss_g_per_s, prices.loss_g_per_s))
        return cls(problem, groups, arrays(problem, due, groups, prices), prices)

    @cached_property
    def batches(self) -> dict[str, tuple[int, int]]:
        """Class and number of each job that has one."""
        jobs = [(c, job.batch_id) for c, group in enumerate(self.groups) for job in group.jobs]
        return {batch_id: (c, b) for b, (c, batch_id) in enumerate(jobs)}

    @cached_property
    def arcs(self) -> dict[tuple[int, str], int]:
        """Number of the arc of a class and its name for a configuration."""
        pairs = [(c, key) for c, group in enumerate(self.groups) for key in sorted(group.configs)]
        return {pair: a for a, pair in enumerate(pairs)}


@dataclass(frozen=True, eq=False)
class Shadow:
    """Prices of a problem."""

    of: Arrays
    prices: FleetPrices
    bound_g: float
    """No plan costs less, starts of engines left out."""

    @classmethod
    def cast(cls, arrays_of: Arrays) -> Shadow | None:
        """Solve the program; None where there is nothing to solve, too much, or no answer."""
        model = arrays_of.model
        if not 0 < model.work.size <= MOST_JOBS or not 0 < model.run_g.size <= MOST_CELLS:
            return None
        try:
            found = relax(model)
        except ArithmeticError:
            return None
        return cls(arrays_of, found.last.prices, found.bound_g)

    @cached_property
    def _price(self) -> Floats:
        return work_price(self.of.model, self.prices)

    def late_g(self, job: Job) -> float:
        """What being late with all the rest of a job counts; 0 where it has no class."""
        known = self.of.batches.get(job.batch_id)
        return float(self.of.model.late_g[known[0]]) * work_s(job) if known else 0.0

    def places(self, job: Job) -> list[Place]:
        """For each configuration of a job its cheapest open slot by its due time, the cheapest first."""
        found = [self.cheapest(job, key) for key in job.seconds_on]
        return sorted((place for place in found if place is not None), key=lambda place: (place.grams, place.key))

    def cheapest(self, job: Job, key: str, slots: range | list[int] | None = None) -> Place | None:
        """Of a configuration of a job, its cheapest open slot by its due time, among `slots` where that is said."""
        known = self.of.batches.get(job.batch_id)
        arc = self.of.arcs.get((known[0], key)) if known else None
        if known is None or arc is None:
            return None
        model, work = self.of.model, work_s(job)
        open_to = self._open[model.arc_config[arc]] & (np.arange(model.slots) < model.due[known[1]])
        if slots is not None:
            wanted = np.zeros(model.slots, bool)
            wanted[list(slots)] = True
            open_to &= wanted
        if not open_to.any():
            return None
        slot = int(np.argmin(np.where(open_to, self._price[arc], np.inf)))
        own = float(model.run_g[arc, slot] / model.rate[arc])
        return Place(key, slot, float(self._price[arc, slot]) * work, own * work)

    @cached_property
    def _open(self) -> Flags:
        """[K, T] whether all that a configuration takes is open."""
        model = self.of.model
        pools = [np.flatnonzero(row) for row in model.gpus]
        out: Flags = np.array([(model.capacity[p] > 0).all(axis=0) for p in pools]).reshape(model.load_g.shape)
        return out

    def bound_of(self, other: Arrays) -> tuple[float, float]:
        """What every plan of another problem on the same slots costs at least, by these prices; and how much of its work they
        find too dear to be done in time.

        For pools that are new there the better of two guesses: their time is free, or worth all that anybody could gain by it.
        """
        free = self._carried(other)
        full = FleetPrices(_absorbed(other.model, free, self._new(other)), free.room, free.ready)
        found = [(lower_bound(other.model, prices), prices) for prices in (free, full)]
        bound, best = max(found, key=lambda one: one[0])
        return bound, _late(other.model, best)

    def _new(self, other: Arrays) -> list[int]:
        known = self.of.problem.capacity
        return [p for p, name in enumerate(other.problem.capacity) if name not in known]

    def _carried(self, other: Arrays) -> FleetPrices:
        """These prices in another's arrays; 0, and what being ready costs anyway, where a thing is new."""
        row = {name: p for p, name in enumerate(self.of.problem.capacity)}
        floor = floor_prices(other.model)
        gpu, room = np.zeros_like(other.model.capacity), np.zeros_like(other.model.room)
        for p, name in enumerate(other.problem.capacity):
            if name in row:
                gpu[p], room[p] = self.prices.gpu[row[name]], self.prices.room[row[name]]
        dearest = float(other.model.late_g.max(initial=0.0)) * float(other.model.rate.max(initial=1.0))
        gpu[other.model.capacity <= 0] = dearest  # what is closed can be as dear as one likes: nobody pays for it
        return FleetPrices(gpu, room, floor.ready)


def _late(model: FleetModel, prices: FleetPrices) -> float:
    """Work of batches that are late at their cheapest."""
    least: Floats = np.minimum.accumulate(class_price(model, prices), axis=1)
    in_time = model.due > model.release
    cheapest: Floats = np.where(in_time, least[model.batch_class, np.maximum(model.due, 1) - 1], np.inf)
    late = np.greater_equal(cheapest, model.late_g[model.batch_class] * (1 - 1e-6))
    return float(model.work @ late)


def _absorbed(model: FleetModel, prices: FleetPrices, new: list[int]) -> Floats:
    """[P, T] prices at which nobody gains by the new pools."""
    gpu = prices.gpu.copy()
    if not new:
        return gpu
    cost = work_price(model, prices)
    least = np.repeat(model.late_g[:, None], model.slots, axis=1)
    on_old = np.flatnonzero(model.gpus[model.arc_config][:, new].sum(axis=1) == 0)
    np.minimum.at(least, model.arc_class[on_old], cost[on_old])
    best: Floats = least.min(axis=1, keepdims=True)  # a batch could wait for the class's cheapest slot
    for p in new:
        arcs = np.flatnonzero(model.gpus[model.arc_config, p] > 0)
        if arcs.size:
            share = model.gpus[model.arc_config[arcs], p]
            gain = (best[model.arc_class[arcs]] - cost[arcs]) * model.rate[arcs][:, None] / share[:, None]
            gpu[p] += np.maximum(0.0, gain.max(axis=0))
    return gpu
