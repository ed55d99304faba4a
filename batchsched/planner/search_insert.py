"""Where a batch's work goes: second by second to where it costs least, on idle replicas or on one more."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from batchsched.planner.compiled import inlined, lean_inner
from batchsched.planner.search_state import WORK, State
from batchsched.planner.search_steps import NEAR, draw, has_room, hold, idle_s, open_s, place, ready, start

NOWHERE, IDLE, FRESH, AFTER, BEFORE = range(5)
"""How work gets its replica: not at all, one that idles, one that is begun, one that is kept on, one that is begun earlier."""
WEIGHED = 8
"""Places that could be looked at while what a further replica costs is worked out."""


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


@lean_inner
def weigh(s: State, k: int, t: int) -> None:
    """What work could get in a slot of a configuration: idle seconds, else a further replica."""
    s.counts[WORK] += WEIGHED
    s.offer[k, t].known, s.offer[k, t].how, s.offer[k, t].at, s.offer[k, t].whole_s = True, NOWHERE, t, 1.0
    s.offer[k, t].grams = s.offer[k, t].base_g = np.inf
    opened, idle, least = open_s(s, k, t), idle_s(s, k, t), 1e-6 * s.slot_s[t]
    if opened <= least:
        return
    how, at, grams, whole = IDLE, t, 0.0, min(idle, opened)
    if idle <= least:
        how, at, grams = way(s, k, t)
        if how == NOWHERE:
            return
        whole = min(s.slot_s[t] + idle, opened)
    base = grams
    if how == FRESH:
        whole = min(s.term[k, t].fresh_s + idle, opened - s.band[k, at, t - at])
        base = min(grams, s.term[k, t - 1].hold_g if t > 0 else 0.0)
    elif how == BEFORE:
        whole -= s.band[k, t, 0]
    if whole > least:
        s.offer[k, t].how, s.offer[k, t].at, s.offer[k, t].whole_s = how, at, whole
        s.offer[k, t].grams, s.offer[k, t].base_g = grams, base


@inlined
def unit_price(s: State, a: int, k: int, t: int, units: float, taste: Taste) -> float:
    """Of a unit of work there, by what is known."""
    s.counts[WORK] += 1
    if not s.offer[k, t].known:
        weigh(s, k, t)
    if s.offer[k, t].how == NOWHERE or (s.config[k].barred and s.offer[k, t].how != IDLE):
        return np.inf
    price = s.run_g[a, t] + taste.worth * s.term[k, t].worth_g
    grams = s.offer[k, t].grams
    if grams > 0:
        need, whole, base = units / s.arc[a].rate, s.offer[k, t].whole_s, s.offer[k, t].base_g
        if grams > base:
            grams = base + (grams - base) / max(1.0, min(taste.stretch, need / s.slot_s[t]))
        price += grams * max(1.0 / whole, taste.blame / min(whole, need))
    return float(price / s.arc[a].rate)


@lean_inner
def bring(s: State, k: int, t: int, how: int, at: int) -> None:
    """One more replica in a slot."""
    if how == FRESH:
        start(s, k, at, 1)
    elif how == BEFORE:
        start(s, k, at, -1)
        start(s, k, t, 1)
    for u in range(min(at, t), max(at, t)):
        hold(s, k, u, 1)


@lean_inner
def insert(s: State, b: int, taste: Taste) -> None:
    """Place what is left of a batch, each part where it costs least; what finds no place stays late."""
    c, begun, width = s.batch[b].group, s.batch[b].release, s.batch[b].due - s.batch[b].release
    arcs = s.arcs_of[s.group[c].arcs_begin : s.group[c].arcs_end]
    if width <= 0 or arcs.size == 0:
        return
    for i in range(arcs.size):
        _weigh_arc(s, b, i, 0, width, taste, True)
    while s.batch[b].left > 0:
        row = _cheapest_arc(s, arcs.size)
        a, t, best = int(arcs[row]), begun + s.least[row] - row * width, s.least[row]
        k = s.arc[a].config
        if not s.price[best] < s.batch[b].late_g + taste.worth * s.term[k, t].worth_g / s.arc[a].rate:
            return
        weigh(s, k, t)
        now = unit_price(s, a, k, t, s.batch[b].left, taste)
        if now > s.price[best] + 1e-9 * abs(s.price[best]) + 1e-12:
            s.price[best] = now
            _least_of(s, row, width)
            continue
        how, at = int(s.offer[k, t].how), int(s.offer[k, t].at)
        spent = min(s.offer[k, t].whole_s, s.batch[b].left / s.arc[a].rate)
        if how != IDLE:
            bring(s, k, t, how, at)
        if not place(s, b, a, t, spent) or s.batch[b].left <= 0:
            return
        near = 0 if how == IDLE else NEAR
        _weigh_again(s, b, k, min(at, t) - near - begun, max(at, t) + near + 1 - begun, taste)


@lean_inner
def _cheapest_arc(s: State, arcs: int) -> int:
    best = 0
    for i in range(1, arcs):
        if s.price[s.least[i]] < s.price[s.least[best]]:
            best = i
    return best


@lean_inner
def _weigh_again(s: State, b: int, k: int, begin: int, end: int, taste: Taste) -> None:
    """Prices of a batch's places on the pools of a configuration, in these slots after its release."""
    c = s.batch[b].group
    for i in range(s.group[c].arcs_end - s.group[c].arcs_begin):
        if _share(s, k, s.arc[s.arcs_of[s.group[c].arcs_begin + i]].config):
            _weigh_arc(s, b, i, begin, end, taste, False)


@lean_inner
def _weigh_arc(s: State, b: int, i: int, begin: int, end: int, taste: Taste, anew: bool) -> None:
    """Prices of a batch's places on one of its arcs, in these slots after its release. Anew: some are overlooked."""
    c, begun, width = s.batch[b].group, s.batch[b].release, s.batch[b].due - s.batch[b].release
    a = int(s.arcs_of[s.group[c].arcs_begin + i])
    k = s.arc[a].config
    for t in range(max(0, begin), min(width, end)):
        j = i * width + t
        if anew:
            s.shut[j] = taste.blink > 0 and draw(s) < taste.blink
        s.price[j] = np.inf if s.shut[j] else unit_price(s, a, k, begun + t, s.batch[b].left, taste)
    _least_of(s, i, width)


@lean_inner
def _least_of(s: State, i: int, width: int) -> None:
    """Find an arc's cheapest place."""
    best = i * width
    for j in range(i * width + 1, (i + 1) * width):
        if s.price[j] < s.price[best]:
            best = j
    s.least[i] = best


@lean_inner
def _share(s: State, k: int, other: int) -> bool:
    """Whether two configurations take of one pool."""
    for i in range(s.config[k].takes_begin, s.config[k].takes_end):
        for j in range(s.config[other].takes_begin, s.config[other].takes_end):
            if s.takes[i].pool == s.takes[j].pool:
                return True
    return False
