"""Where a batch's work goes: second by second to where it costs least, on idle replicas or on one more."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from batchsched.planner.compiled import inlined, lean
from batchsched.planner.search_state import WORK, State
from batchsched.planner.search_steps import draw, has_room, hold, idle_s, open_s, place, ready, start

NOWHERE, IDLE, FRESH, AFTER, BEFORE = range(5)
"""How work gets its replica: not at all, one that idles, one that is begun, one that is kept on, one that is begun earlier."""
NEAR = 4
"""Slots around a change whose prices are looked at anew."""


class Taste(NamedTuple):
    """By what places are compared: it differs from try to try, so that they differ."""

    stretch: float
    """Slots over which a start's grams are spread when it is weighed."""
    blame: float
    """Least share of a further replica's grams that work pays which fills only part of it."""
    worth: float
    """How much the price of GPUs counts."""
    blink: float
    """Share of the places that are overlooked."""


@inlined
def way(s: State, k: int, t: int) -> tuple[int, int, float]:
    """The cheapest way to one more replica in a slot: how, from which slot, grams."""
    how, at, best = NOWHERE, -1, np.inf
    if s.term[k, t].fresh_from >= 0 and _can_begin(s, k, t):
        how, at, best = FRESH, s.term[k, t].fresh_from, s.term[k, t].fresh_g
    grams = 0.0
    for u in range(t - 1, -1, -1):
        grams += s.term[k, u].hold_g
        if grams >= best or not has_room(s, k, u):
            break
        if ready(s, k, u) > s.cell[k, u].held:
            how, at, best = AFTER, u, grams
            break
    if s.band[k, t, 0] < s.slot_s[t] and open_s(s, k, t) > s.band[k, t, 0]:
        grams = s.term[k, t].load_g
        for u in range(t, s.slot_s.size - 1):
            grams += s.term[k, u].hold_g
            if grams >= best + s.term[k, u + 1].load_g or not has_room(s, k, u):
                break
            if s.cell[k, u + 1].starts > 0:
                if grams - s.term[k, u + 1].load_g < best:
                    how, at, best = BEFORE, u + 1, grams - s.term[k, u + 1].load_g
                break
    return how, at, best


@inlined
def _can_begin(s: State, k: int, t: int) -> bool:
    begun = s.term[k, t].fresh_from
    for u in range(begun, t + 1):
        if open_s(s, k, u) < s.band[k, begun, u - begun] or (u < t and not has_room(s, k, u)):
            return False
    return True


@lean
def offer(s: State, a: int, t: int, units: float, taste: Taste) -> tuple[float, float, int, int]:
    """A place for work: price of a unit, seconds, and how it comes by its replica."""
    k = s.arc[a].config
    s.counts[WORK] += 1
    opened = open_s(s, k, t)
    least = 1e-6 * s.slot_s[t]
    if opened <= least:
        return np.inf, 0.0, NOWHERE, -1
    need = units / s.arc[a].rate
    second_g = s.run_g[a, t] + taste.worth * s.term[k, t].worth_g
    idle = idle_s(s, k, t)
    if idle > least:
        return second_g / s.arc[a].rate, min(idle, opened, need), IDLE, t
    if s.config[k].barred:
        return np.inf, 0.0, NOWHERE, -1
    how, at, grams = way(s, k, t)
    if how == NOWHERE:
        return np.inf, 0.0, NOWHERE, -1
    whole = min(s.slot_s[t] + idle, opened)
    if how == FRESH:
        whole = min(s.term[k, t].fresh_s + idle, opened - s.band[k, at, t - at])
        base = s.term[k, t - 1].hold_g if t > 0 else 0.0
        if grams > base:
            grams = base + (grams - base) / max(1.0, min(taste.stretch, need / s.slot_s[t]))
    elif how == BEFORE:
        whole = min(s.slot_s[t] + idle, opened) - s.band[k, t, 0]
    if whole <= least:
        return np.inf, 0.0, NOWHERE, -1
    spent = min(whole, need)
    price = (second_g * spent + grams * max(spent / whole, taste.blame)) / (s.arc[a].rate * spent)
    return price, spent, how, at


@lean
def bring(s: State, k: int, t: int, how: int, at: int) -> None:
    """One more replica in a slot."""
    if how == FRESH:
        start(s, k, at, 1)
    elif how == BEFORE:
        start(s, k, at, -1)
        start(s, k, t, 1)
    for u in range(min(at, t), max(at, t)):
        hold(s, k, u, 1)


@lean
def insert(s: State, b: int, taste: Taste) -> None:
    """Place what is left of a batch, each part where it costs least; what finds no place stays late."""
    c, begun, width = s.batch[b].group, s.batch[b].release, s.batch[b].due - s.batch[b].release
    arcs = s.arcs_of[s.group[c].arcs_begin : s.group[c].arcs_end]
    if width <= 0 or arcs.size == 0:
        return
    _weigh_all(s, b, taste)
    while s.batch[b].left > 0:
        best = 0
        for j in range(1, arcs.size * width):
            if s.price[j] < s.price[best]:
                best = j
        a, t = int(arcs[best // width]), begun + best % width
        k = s.arc[a].config
        if not s.price[best] < s.group[c].late_g + taste.worth * s.term[k, t].worth_g / s.arc[a].rate:
            return
        now, spent, how, at = offer(s, a, t, s.batch[b].left, taste)
        if now > s.price[best] + 1e-9 * abs(s.price[best]) + 1e-12:
            s.price[best] = now
            continue
        if how != IDLE:
            bring(s, k, t, how, at)
        if not place(s, b, a, t, spent) or s.batch[b].left <= 0:
            return
        near = 0 if how == IDLE else NEAR
        _weigh_again(s, b, k, min(at, t) - near, max(at, t) + near + 1, taste)


@lean
def _weigh_all(s: State, b: int, taste: Taste) -> None:
    """Prices of all places of a batch; some are overlooked."""
    c, begun, width = s.batch[b].group, s.batch[b].release, s.batch[b].due - s.batch[b].release
    arcs = s.arcs_of[s.group[c].arcs_begin : s.group[c].arcs_end]
    for i in range(arcs.size):
        for t in range(width):
            j = i * width + t
            s.shut[j] = taste.blink > 0 and draw(s) < taste.blink
            s.price[j] = np.inf if s.shut[j] else offer(s, arcs[i], begun + t, s.batch[b].left, taste)[0]


@lean
def _weigh_again(s: State, b: int, k: int, begin: int, end: int, taste: Taste) -> None:
    """Prices of a batch's places on the pools of a configuration, in these slots."""
    c, begun, width = s.batch[b].group, s.batch[b].release, s.batch[b].due - s.batch[b].release
    arcs = s.arcs_of[s.group[c].arcs_begin : s.group[c].arcs_end]
    for i in range(arcs.size):
        if _share(s, k, s.arc[arcs[i]].config):
            for t in range(max(0, begin - begun), min(width, end - begun)):
                if not s.shut[i * width + t]:
                    s.price[i * width + t] = offer(s, arcs[i], begun + t, s.batch[b].left, taste)[0]


@lean
def _share(s: State, k: int, other: int) -> bool:
    """Whether two configurations take of one pool."""
    for i in range(s.config[k].takes_begin, s.config[k].takes_end):
        for j in range(s.config[other].takes_begin, s.config[other].takes_end):
            if s.takes[i].pool == s.takes[j].pool:
                return True
    return False
