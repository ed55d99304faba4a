"""The best prices for a fleet's lower bound, by climbing.

The bound (fleet_bound.py) is a concave function of the prices. What batches and replicas do at their cheapest says how it rises:
the price of what is asked for beyond what there is goes up, that of what is left over goes down. Steps are scaled as Adam has it,
by what each price's own slope has been, and shrink. So the bound comes close to the linear program with starts, in a fraction of
the time that solving it takes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from batchsched.planner.compiled import compiled, inner
from batchsched.planner.fleet_bound import FleetPrices, floor_prices, lower_bound, most_replicas, no_room
from batchsched.planner.fleet_model import FleetModel, Floats, Ints

FIRST, LAST, STEPS = 0.005, 0.00005, 2000
"""Of a usual price, the first step's length, and that of the last of so many."""
INERTIA, MEMORY = 0.9, 0.999
"""Weights of earlier slopes and of their squares."""
PLACES_A_STEP = 80_000
"""So many places are looked at in the time of a simplex step."""


class _Facts(NamedTuple):
    """The model as the compiled loops read it. Windows are batches with the same class, release and due time, taken together."""

    run_g: Floats
    rate: Floats
    arc_class: Ints
    arc_config: Ints
    late_g: Floats
    window: Ints
    """[W, 3] class, release, due; in this order."""
    work: Floats
    """[W]."""
    taker: Ints
    """[N] configuration, and below the pool of which it takes so much."""
    taken_of: Ints
    takes: Floats
    open_s: Floats
    """[P, T] GPU-seconds."""
    room: Floats
    slot_s: Floats
    load_g: Floats
    hold_g: Floats
    """[K, T]; infinite where there is no room."""
    band: Floats
    cold: Floats
    """[K] replicas that may be begun."""
    loaded: Floats


class _Side(NamedTuple):
    """Prices of one kind, [rows, T] each: as they are, what they usually are [rows], and what is known of their slopes."""

    price: Floats
    usual: Floats
    slope: Floats
    mean: Floats
    square: Floats


class Ascent:
    """Prices, and the bound that the best of them gave."""

    def __init__(self, model: FleetModel, prices: FleetPrices, most_steps: int = STEPS) -> None:
        self.model, self.prices = model, prices
        self.most_steps = most_steps
        """Steps grow shorter until so many are done."""
        self.bound_g = lower_bound(model, prices)
        self._facts = _facts(model)
        usual = _usual(model)
        self._gpu, self._room, self._ready = (
            _Side(price.copy(), usually, np.zeros(price.shape), np.zeros(price.shape), np.zeros(price.shape))
            for price, usually in zip((prices.gpu, prices.room, prices.ready), usual, strict=True)
        )
        self._done = 0

    def climb(self, steps: int) -> int:
        """Take so many steps. Returns the work as simplex steps."""
        gpu, room, ready = self._gpu, self._room, self._ready
        best = FleetPrices(np.empty_like(gpu.price), np.empty_like(room.price), np.empty_like(ready.price))
        _climb(self._facts, gpu, room, ready, best.gpu, best.room, best.ready, self._done, steps, self.most_steps)
        self._done += steps
        bound = lower_bound(self.model, best)
        if bound > self.bound_g:
            self.bound_g, self.prices = bound, best
        return 1 + steps * self._places // PLACES_A_STEP

    def affords(self, work: float) -> int:
        """How many steps are that much work, in simplex steps; at most a full climb."""
        return int(min(self.most_steps, work * PLACES_A_STEP / self._places))

    @property
    def _places(self) -> int:
        m, w = self.model, self._facts.window
        begins = np.flatnonzero(np.any(np.diff(w[:, :2], axis=0, prepend=-1), axis=1))
        scanned = np.maximum.reduceat(w[:, 2], begins) - w[begins, 1] if len(w) else np.zeros(1, np.int64)
        return int(m.run_g.size + 4 * m.load_g.size + 2 * m.capacity.size + scanned.sum())


def _facts(model: FleetModel) -> _Facts:
    possible = model.due > model.release
    rows = np.stack([model.batch_class, model.release, model.due], axis=1)[possible]
    window, place = np.unique(rows, axis=0, return_inverse=True)
    taker, taken_of = np.nonzero(model.gpus)
    return _Facts(
        np.ascontiguousarray(model.run_g), model.rate, model.arc_class, model.arc_config, model.late_g,
        window, np.bincount(place.ravel(), model.work[possible], minlength=len(window)).astype(float),
        taker, taken_of, model.gpus[taker, taken_of],
        model.capacity * model.slot_s, np.ascontiguousarray(model.room), model.slot_s,
        np.ascontiguousarray(model.load_g), np.where(no_room(model), np.inf, model.hold_g), model.load_band,
        most_replicas(model) - model.loaded, model.loaded.astype(float),
    )  # fmt: skip


def _usual(model: FleetModel) -> tuple[Floats, Floats, Floats]:
    """What a GPU-second [P], a GPU held [P] and a ready second [K] cost as a rule."""
    count = np.bincount(model.arc_config, minlength=model.configs)
    second = np.bincount(model.arc_config, model.run_g.mean(axis=1), minlength=model.configs) / np.maximum(1, count)
    second = second + floor_prices(model).ready.clip(max=1e300).mean(axis=1)
    share = np.where(model.gpus > 0, second[:, None] / np.where(model.gpus > 0, model.gpus, 1.0), 0.0)
    gpu = share.sum(axis=0) / np.maximum(1, (model.gpus > 0).sum(axis=0))
    return gpu, gpu * float(np.median(model.slot_s)), second


@compiled
def _climb(
    f: _Facts,
    gpu: _Side,
    room: _Side,
    ready: _Side,
    best_gpu: Floats,
    best_room: Floats,
    best_ready: Floats,
    done: int,
    steps: int,
    most_steps: int,
) -> None:
    """So many steps after those that are done; leaves the best prices on the way."""
    most = -np.inf
    for i in range(done, done + steps):
        bound = _slopes(f, gpu.price, room.price, ready.price, gpu.slope, room.slope, ready.slope)
        if bound > most:
            most = bound
            best_gpu[:], best_room[:], best_ready[:] = gpu.price, room.price, ready.price
        length = FIRST * (LAST / FIRST) ** min(1.0, i / most_steps) / (1 - INERTIA ** (i + 1))
        spread = 1 - MEMORY ** (i + 1)
        for side in (gpu, room, ready):
            _step(side, length, spread)


@inner
def _step(side: _Side, length: float, spread: float) -> None:
    for i in range(side.price.shape[0]):
        for t in range(side.price.shape[1]):
            g = side.slope[i, t]
            side.mean[i, t] = INERTIA * side.mean[i, t] + (1 - INERTIA) * g
            side.square[i, t] = MEMORY * side.square[i, t] + (1 - MEMORY) * g * g
            if side.square[i, t] > 0:
                step = length * side.usual[i] * side.mean[i, t] / np.sqrt(side.square[i, t] / spread)
                side.price[i, t] = max(0.0, side.price[i, t] + step)


@inner
def _slopes(f: _Facts, gpu: Floats, room: Floats, ready: Floats, by_gpu: Floats, by_room: Floats, by_ready: Floats) -> float:
    """The bound, and what it gains by a gram more of each price."""
    taken, kept = np.zeros(ready.shape), np.zeros(ready.shape)
    for n in range(f.taker.size):
        for t in range(f.slot_s.size):
            taken[f.taker[n], t] += f.takes[n] * gpu[f.taken_of[n], t]
            kept[f.taker[n], t] += f.takes[n] * room[f.taken_of[n], t]
    busy, held = np.zeros(ready.shape), np.zeros(ready.shape)  # seconds of replicas, and replicas
    bound = _place(f, taken + ready, busy)
    by_ready[:] = busy
    bound += _go(f, taken, kept, ready, busy, held, by_ready)
    for p in range(gpu.shape[0]):
        for t in range(f.slot_s.size):
            bound -= gpu[p, t] * f.open_s[p, t] + room[p, t] * f.room[p, t]
            by_gpu[p, t], by_room[p, t] = -f.open_s[p, t], -f.room[p, t]
    for n in range(f.taker.size):
        for t in range(f.slot_s.size):
            by_gpu[f.taken_of[n], t] += f.takes[n] * busy[f.taker[n], t]
            by_room[f.taken_of[n], t] += f.takes[n] * held[f.taker[n], t]
    return bound


@inner
def _place(f: _Facts, second_g: Floats, busy: Floats) -> float:
    """All work in the cheapest slots of its windows; its grams."""
    classes, slots = f.late_g.size, f.slot_s.size
    price, arc = np.full((classes, slots), np.inf), np.zeros((classes, slots), np.int64)
    for a in range(f.rate.size):
        c, k = f.arc_class[a], f.arc_config[a]
        for t in range(slots):
            unit = (f.run_g[a, t] + second_g[k, t]) / f.rate[a]
            if unit < price[c, t]:
                price[c, t], arc[c, t] = unit, a
    total = 0.0
    klass, release, until, at = -1, -1, 0, -1
    least = 0.0
    for w in range(f.work.size):
        c = f.window[w, 0]
        if c != klass or f.window[w, 1] != release:
            klass, release = c, f.window[w, 1]
            until, at, least = release, -1, f.late_g[c]
        while until < f.window[w, 2]:
            if price[c, until] < least:
                least, at = price[c, until], until
            until += 1
        total += least * f.work[w]
        if at >= 0:
            a = arc[c, at]
            busy[f.arc_config[a], at] += f.work[w] / f.rate[a]
    return total


@inner
def _go(f: _Facts, taken: Floats, kept: Floats, ready: Floats, busy: Floats, held: Floats, by_ready: Floats) -> float:
    """All replicas on their cheapest paths; their grams."""
    slots, total = f.slot_s.size, 0.0
    begin, cold, warm = np.zeros(slots), np.zeros(slots + 1), np.zeros(slots + 1)
    for k in range(f.cold.size):
        for t in range(slots - 1, -1, -1):
            begin[t] = f.load_g[k, t] - ready[k, t] * f.slot_s[t]
            for i in range(min(f.band.shape[2], slots - t)):
                begin[t] += f.band[k, t, i] * (taken[k, t + i] + ready[k, t + i])
            after = min(cold[t + 1], f.hold_g[k, t] + kept[k, t] + warm[t + 1])
            cold[t] = min(cold[t + 1], begin[t] + after)
            warm[t] = after - ready[k, t] * f.slot_s[t]
        total += f.cold[k] * cold[0] + f.loaded[k] * warm[0]
        _follow(f, k, f.cold[k], False, kept, cold, warm, busy, held, by_ready)
        _follow(f, k, f.loaded[k], True, kept, cold, warm, busy, held, by_ready)
    return total


@inner
def _follow(
    f: _Facts,
    k: int,
    count: float,
    on: bool,
    kept: Floats,
    cold: Floats,
    warm: Floats,
    busy: Floats,
    held: Floats,
    by_ready: Floats,
) -> None:
    """So many replicas along their cheapest path, `on`: from the first slot on."""
    if count <= 0:
        return
    for t in range(f.slot_s.size):
        if not on and cold[t] < cold[t + 1]:
            on = True
            for i in range(min(f.band.shape[2], f.slot_s.size - t)):
                busy[k, t + i] += count * f.band[k, t, i]
                by_ready[k, t + i] += count * f.band[k, t, i]
        if on:
            by_ready[k, t] -= count * f.slot_s[t]
            on = f.hold_g[k, t] + kept[k, t] + warm[t + 1] < cold[t + 1]
            if on:
                held[k, t] += count
