"""Replicas that start, stay and go, added to the solved program of a fleet's work.

A place is a configuration in a slot where the program may use it. At place j: ready[j] replicas, starts[j] of them begun there,
and held[j] kept from there to the configuration's next place, over the slots between. A ready replica takes its GPUs for its
whole slot, whether it works, loads or idles. What being ready costs anyway is charged to work already (FleetLp.charge), so idle
seconds are charged the same and starts and holding only what they cost beyond it. The program that was solved without replicas is
then dual feasible with them, and the dual simplex method goes on from its basis.
"""

from __future__ import annotations

import numpy as np

from batchsched.planner.fleet_bound import work_price
from batchsched.planner.fleet_lp import HOUR_S, FleetLp, Relaxed
from batchsched.planner.fleet_model import FleetModel, Floats, Ints

NEAR = 0.02
"""Places for replicas: where work would cost up to this share more than it saves."""
ROUND_UP = 0.8
"""Fractions of a replica from this on make one more."""
SPILLS = 2
"""Configurations for each class and slot on which work may run that finds no place."""
LEAST_USE = 0.3
"""Share of a slot that must be left after a start for it to be of use."""


class Replicas:
    """The program with replicas at places."""

    def __init__(self, lp: FleetLp, last: Relaxed) -> None:
        self.lp, self.model = lp, lp.model
        m = self.model
        on = np.zeros(m.load_g.shape, bool)
        a, t = np.nonzero(lp.run_id >= 0)
        on[m.arc_config[a], t] = True
        on[m.loaded > 0, 0] = True  # what is loaded may be kept from there
        self.config, self.slot = np.nonzero(on)
        """[J] each: where the places are."""
        self.index = np.full(on.shape, -1)
        self.index[on] = np.arange(self.config.size)
        self._next = _following(self.config, self.slot, m.slots)
        self._add_columns()
        self._add_rows()
        self._add_spills(last)

    @property
    def places(self) -> int:
        """J."""
        return int(self.config.size)

    def solve(self) -> tuple[Floats, Ints, Ints]:
        """Replica-seconds [A, T], starts and held replicas [K, T], these rounded. Raises ArithmeticError."""
        while True:
            answer = self.lp.solve()
            if not answer.optimal:
                raise ArithmeticError("The simplex solver found no optimum.")
            found = self.lp.relaxed(answer)
            rows = self.lp.demand.missing(found.done)
            if not len(rows):
                break
            self.lp.add_intervals(rows)
        found.run[self.spill_arc, self.spill_slot] += answer.x[self._spill] * HOUR_S
        ready = np.zeros(self.model.load_g.shape)
        ready[self.config, self.slot] = answer.x[self._ready]
        starts, held = paths(self.model, np.floor(ready + 1 - ROUND_UP).astype(np.int64))
        return found.run, starts, held

    def _add_columns(self) -> None:
        m, lp, k, t = self.model, self.lp, self.config, self.slot
        floor = lp.charge * m.slot_s
        has = self._next < m.slots
        held_g = np.concatenate([np.zeros((m.configs, 1)), np.cumsum(m.hold_g, axis=1)], axis=1)
        kept = held_g[k[has], self._next[has]] - held_g[k[has], t[has]] - floor[k[has], self._next[has]]
        self._ready = lp.columns(np.zeros(k.shape))
        loading = np.zeros(k.shape)  # seconds of a start are ready seconds too, but no work pays for them
        for i in range(m.load_band.shape[2]):
            inside = t + i < m.slots
            loading[inside] += m.load_band[k[inside], t[inside], i] * lp.charge[k[inside], t[inside] + i]
        self._starts = lp.columns(np.maximum(0.0, m.load_g[k, t] - floor[k, t] + loading))
        self._held = np.full(k.shape, -1)
        self._held[has] = lp.columns(np.maximum(0.0, kept))
        self._idle = lp.columns(lp.charge[k, t] * HOUR_S)
        self._loaded = lp.columns(np.zeros(m.configs), m.loaded.astype(float))

    def _add_rows(self) -> None:
        m, lp, k, t = self.model, self.lp, self.config, self.slot
        use = lp.rows(np.zeros(k.shape), np.zeros(k.shape))
        lp.ready_id[k, t] = use
        lp.enter(use, self._idle, 1.0)
        lp.enter(use, self._ready, -lp.hours[t])
        a, s = np.nonzero(lp.run_id >= 0)
        lp.enter(use[self.index[m.arc_config[a], s]], lp.run_id[a, s], 1.0)
        lp.enter_gpus(k, t, self._idle, np.ones(k.shape))
        self._add_loading()
        has = self._held >= 0
        come = lp.rows(np.full(k.shape, -np.inf), np.zeros(k.shape))
        lp.enter(come, self._ready, 1.0)
        lp.enter(come, self._starts, -1.0)
        after = self.index[k[has], self._next[has]]
        lp.enter(come[after], self._held[has], -1.0)
        first = np.setdiff1d(np.arange(k.size), after)
        first = first[t[first] == 0]
        lp.enter(come[first], self._loaded[k[first]], -1.0)
        stay = lp.rows(np.full(int(has.sum()), -np.inf), np.zeros(int(has.sum())))
        lp.enter(stay, self._held[has], 1.0)
        lp.enter(stay, self._ready[has], -1.0)
        length = np.where(has, self._next - t - 1, 0)
        place = np.repeat(np.arange(k.size), length)
        between = t[place] + 1 + np.arange(place.size) - np.repeat(np.cumsum(length) - length, length)
        lp.enter_gpus(k[place], between, self._held[place], lp.hours[between])

    def _add_loading(self) -> None:
        """A start takes time of its replica and its GPUs, in its slot and the following ones."""
        m, lp = self.model, self.lp
        for i in range(m.load_band.shape[2]):
            inside = self.slot + i < m.slots
            k, t = self.config[inside], self.slot[inside] + i
            hours = m.load_band[k, self.slot[inside], i] / HOUR_S
            lp.enter_gpus(k, t, self._starts[inside], hours)
            place = self.index[k, t]
            lp.enter(lp.ready_id[k[place >= 0], t[place >= 0]], self._starts[inside][place >= 0], hours[place >= 0])

    def _add_spills(self, last: Relaxed) -> None:
        """Where work can go that finds no place: for each class and slot its cheapest configurations that have none there.

        A spill is a replica begun for a single slot. It is a column without a row, so that it may be used in fractions: who
        rounds makes them whole.
        """
        m, lp = self.model, self.lp
        useful = np.maximum(0.0, m.slot_s - m.load_s[:, None])
        open_ = (self.index < 0) & (useful > LEAST_USE * m.slot_s) & (m.gpus.sum(axis=1)[:, None] > 0)
        whole = m.load_g + (m.gpus @ last.prices.gpu) * m.slot_s
        start_g = np.where(open_, m.load_g / np.maximum(useful, 1e-9), 0.0)  # [K, T] for each second that a spill works
        price = np.where(open_, whole / np.maximum(useful, 1e-9), np.inf)[m.arc_config]
        price = (price + m.run_g) / m.rate[:, None]
        chosen = np.zeros(price.shape, bool)
        for c in range(m.classes):
            mine = np.flatnonzero(m.arc_class == c)
            order = np.argsort(price[mine], axis=0, kind="stable")[:SPILLS]
            chosen[mine[order], np.arange(m.slots)] = True
        a, t = np.nonzero(chosen & np.isfinite(price))
        k = m.arc_config[a]
        self.spill_arc, self.spill_slot, self.spill_useful = a, t, useful[k, t]
        self._spill = lp.columns((m.run_g[a, t] + start_g[k, t]) * HOUR_S)
        lp.enter_gpus(k, t, self._spill, m.slot_s[t] / self.spill_useful)
        lp.enter(lp.done_row[m.arc_class[a], t], self._spill, -m.rate[a] * HOUR_S / lp.demand.unit[m.arc_class[a]])


def add_replicas(lp: FleetLp, last: Relaxed) -> Replicas:
    """Replicas in a solved program."""
    lp.add_runs(work_price(lp.model, last.prices) <= (1 + NEAR) * last.worth[lp.model.arc_class])
    return Replicas(lp, last)


def paths(model: FleetModel, ready: Ints) -> tuple[Ints, Ints]:
    """Starts and held replicas, [K, T] each, that make these replicas ready: kept from slot to slot where both have use for
    them, and over a gap where that is cheaper than a start and there is room."""
    before = np.concatenate([model.loaded[:, None], ready], axis=1)
    kept = np.minimum(before[:, :-1], before[:, 1:])  # into each slot from the one before, or from what is loaded
    held = np.concatenate([kept[:, 1:], np.zeros((model.configs, 1), np.int64)], axis=1)
    room = model.room - model.gpus.T @ held
    for k, t in np.argwhere(ready > kept):
        last = _last_ready(before[k], int(t), int(kept[k, t]))
        gap = slice(last, t)  # held at the ends of these slots too
        if last >= 0 and model.hold_g[k, gap].sum() < model.load_g[k, t]:
            most = min(int(before[k, last + 1 : t + 1].max(initial=0)), int(ready[k, t] - kept[k, t]))
            fits = [int(x) for p in np.flatnonzero(model.gpus[k]) for x in room[p, gap] // model.gpus[k, p]]
            more = max(0, min([most, int(before[k, last + 1]) - int(held[k, gap].max(initial=0)), *fits]))
            held[k, gap] += more
            kept[k, t] += more
            room[:, gap] -= more * model.gpus[k][:, None]
    return ready - kept, held


def _last_ready(before: Ints, slot: int, kept: int) -> int:
    """The last slot before the one just before `slot` with more replicas than are kept; -1 where there is none."""
    found = np.flatnonzero(before[1:slot] > kept)
    return int(found[-1]) if found.size else -1


def _following(config: Ints, slot: Ints, slots: int) -> Ints:
    """The slot of the same configuration's next place; `slots` where there is none. Places in order of both."""
    follows = np.append(config[1:] == config[:-1], False) if config.size else np.zeros(0, bool)
    return np.where(follows, np.append(slot[1:], 0) if slot.size else slot, slots)
