"""Where a batch's work goes: second by second to where it costs least, on idle replicas or on one more."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from batchsched.planner.compiled import lean
from batchsched.planner.search_state import WORK, Fleet, State, draw, has_room, hold, idle_s, open_s, place, ready, start

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


@lean
def way(m: Fleet, s: State, k: int, t: int) -> tuple[int, int, float]:
    """The cheapest way to one more replica in a slot: how, from which slot, grams."""
    how, at, best = NOWHERE, -1, np.inf
    if m.fresh_from[k, t] >= 0 and _can_begin(m, s, k, t):
        how, at, best = FRESH, m.fresh_from[k, t], m.fresh_g[k, t]
    grams = 0.0
    for u in range(t - 1, -1, -1):
        grams += m.hold_g[k, u]
        if grams >= best or not has_room(m, s, k, u):
            break
        if ready(m, s, k, u) > s.held[k, u]:
            how, at, best = AFTER, u, grams
            break
    if m.band[k, t, 0] < m.slot_s[t] and open_s(m, s, k, t) > m.band[k, t, 0]:
        grams = m.load_g[k, t]
        for u in range(t, m.slot_s.size - 1):
            grams += m.hold_g[k, u]
            if grams >= best + m.load_g[k, u + 1] or not has_room(m, s, k, u):
                break
            if s.starts[k, u + 1] > 0:
                if grams - m.load_g[k, u + 1] < best:
                    how, at, best = BEFORE, u + 1, grams - m.load_g[k, u + 1]
                break
    return how, at, best


@lean
def _can_begin(m: Fleet, s: State, k: int, t: int) -> bool:
    begun = m.fresh_from[k, t]
    for u in range(begun, t + 1):
        if open_s(m, s, k, u) < m.band[k, begun, u - begun] or (u < t and not has_room(m, s, k, u)):
            return False
    return True


@lean
def offer(m: Fleet, s: State, a: int, t: int, units: float, taste: Taste) -> tuple[float, float, int, int]:
    """A place for work: price of a unit, seconds, and how it comes by its replica."""
    k = m.arc_config[a]
    s.count[WORK] += 1
    opened = open_s(m, s, k, t)
    least = 1e-6 * m.slot_s[t]
    if opened <= least:
        return np.inf, 0.0, NOWHERE, -1
    need = units / m.rate[a]
    second_g = m.run_g[a, t] + taste.worth * m.worth_g[k, t]
    idle = idle_s(m, s, k, t)
    if idle > least:
        return second_g / m.rate[a], min(idle, opened, need), IDLE, t
    if s.barred[k]:
        return np.inf, 0.0, NOWHERE, -1
    how, at, grams = way(m, s, k, t)
    if how == NOWHERE:
        return np.inf, 0.0, NOWHERE, -1
    whole = min(m.slot_s[t] + idle, opened)
    if how == FRESH:
        whole = min(m.fresh_s[k, t] + idle, opened - m.band[k, at, t - at])
        base = m.hold_g[k, t - 1] if t > 0 else 0.0
        if grams > base:
            grams = base + (grams - base) / max(1.0, min(taste.stretch, need / m.slot_s[t]))
    elif how == BEFORE:
        whole = min(m.slot_s[t] + idle, opened) - m.band[k, t, 0]
    if whole <= least:
        return np.inf, 0.0, NOWHERE, -1
    spent = min(whole, need)
    price = (second_g * spent + grams * max(spent / whole, taste.blame)) / (m.rate[a] * spent)
    return price, spent, how, at


@lean
def bring(m: Fleet, s: State, k: int, t: int, how: int, at: int) -> None:
    """One more replica in a slot."""
    if how == FRESH:
        start(m, s, k, at, 1)
    elif how == BEFORE:
        start(m, s, k, at, -1)
        start(m, s, k, t, 1)
    for u in range(min(at, t), max(at, t)):
        hold(m, s, k, u, 1)


@lean
def insert(m: Fleet, s: State, b: int, taste: Taste) -> None:
    """Place what is left of a batch, each part where it costs least; what finds no place stays late."""
    c, begun, width = m.batch_class[b], m.release[b], m.due[b] - m.release[b]
    arcs = m.arcs_of[m.arcs_at[c] : m.arcs_at[c + 1]]
    if width <= 0 or arcs.size == 0:
        return
    price, shut = s.price, s.shut
    for i in range(arcs.size):
        for t in range(width):
            j = i * width + t
            shut[j] = taste.blink > 0 and draw(s) < taste.blink
            price[j] = np.inf if shut[j] else offer(m, s, arcs[i], begun + t, s.left[b], taste)[0]
    while s.left[b] > 0:
        best = 0
        for j in range(1, arcs.size * width):
            if price[j] < price[best]:
                best = j
        i, t = best // width, best % width
        a = arcs[i]
        if not price[best] < m.late_g[c] + taste.worth * m.worth_g[m.arc_config[a], begun + t] / m.rate[a]:
            return
        now, spent, how, at = offer(m, s, a, begun + t, s.left[b], taste)
        if now > price[best] * (1 + 1e-9) + 1e-12:
            price[best] = now
            continue
        k = m.arc_config[a]
        if how != IDLE:
            bring(m, s, k, begun + t, how, at)
        if not place(m, s, b, a, begun + t, spent) or s.left[b] <= 0:
            return
        low, high = max(0, min(at, begun + t) - begun - NEAR), min(width, max(at, begun + t) - begun + NEAR + 1)
        if how == IDLE:
            low, high = t, t + 1
        for i2 in range(arcs.size):
            if _share(m, k, m.arc_config[arcs[i2]]):
                for t2 in range(low, high):
                    if not shut[i2 * width + t2]:
                        price[i2 * width + t2] = offer(m, s, arcs[i2], begun + t2, s.left[b], taste)[0]


@lean
def _share(m: Fleet, k: int, other: int) -> bool:
    """Whether two configurations take of one pool."""
    for i in range(m.pool_at[k], m.pool_at[k + 1]):
        for j in range(m.pool_at[other], m.pool_at[other + 1]):
            if m.pool_of[i] == m.pool_of[j]:
                return True
    return False


@lean
def trim(m: Fleet, s: State, k: int) -> None:
    """Let go what no work needs: replicas at their ends and at their beginnings, over gaps; keep on what is begun again."""
    _cut_ends(m, s, k)
    last = m.slot_s.size - 1
    for t in range(last):
        while s.starts[k, t] > 0 and s.held[k, t] > 0 and idle_s(m, s, k, t) + m.band[k, t, 0] >= _whole_s(m, t):
            if m.load_g[k, t] + m.hold_g[k, t] < m.load_g[k, t + 1] or not _can_load(m, s, k, t + 1):
                break
            start(m, s, k, t, -1)
            hold(m, s, k, t, -1)
            start(m, s, k, t + 1, 1)
    for t in range(1, last + 1):
        if s.held[k, t - 1] > 0:
            _skip_gap(m, s, k, t)
        if s.starts[k, t] > 0:
            _bridge(m, s, k, t)
    _cut_ends(m, s, k)


@lean
def _cut_ends(m: Fleet, s: State, k: int) -> None:
    for t in range(m.slot_s.size - 1, -1, -1):
        while True:
            if s.starts[k, t] > 0 and _is_useless(m, s, k, t):
                start(m, s, k, t, -1)
                for i in range(_span(m, k, t)):
                    hold(m, s, k, t + i, -1)
            elif t > 0 and s.held[k, t - 1] > 0 and ready(m, s, k, t) > s.held[k, t] and idle_s(m, s, k, t) >= _whole_s(m, t):
                hold(m, s, k, t - 1, -1)
            else:
                break


@lean
def _whole_s(m: Fleet, t: int) -> float:
    return m.slot_s[t] * (1 - 1e-12)


@lean
def _span(m: Fleet, k: int, t: int) -> int:
    """Slots after its own in which a start goes on."""
    i = 0
    while i + 1 < m.band.shape[2] and t + i + 1 < m.slot_s.size and m.band[k, t, i + 1] > 0:
        i += 1
    return i


@lean
def _is_useless(m: Fleet, s: State, k: int, t: int) -> bool:
    """Whether a replica that is begun here does nothing but start."""
    last = t + _span(m, k, t)
    for u in range(t, last + 1):
        if idle_s(m, s, k, u) + m.band[k, t, u - t] < _whole_s(m, u) or (u < last and s.held[k, u] <= 0):
            return False
    return ready(m, s, k, last) > s.held[k, last]


@lean
def _can_load(m: Fleet, s: State, k: int, t: int) -> bool:
    """Whether a replica that is ready anyway has time for a start in this slot."""
    spent = m.band[k, t, 0]
    if m.band.shape[2] > 1 and t + 1 < m.slot_s.size and m.band[k, t, 1] > 0:
        return False
    return idle_s(m, s, k, t) >= spent and open_s(m, s, k, t) >= spent


@lean
def _skip_gap(m: Fleet, s: State, k: int, t: int) -> None:
    """One that is kept through idle slots from here on: let it go and begin it again, where that is cheaper."""
    grams = m.hold_g[k, t - 1]
    u = t
    while u < m.slot_s.size - 1 and s.held[k, u] > 0 and idle_s(m, s, k, u) >= _whole_s(m, u):
        grams += m.hold_g[k, u]
        u += 1
    if u > t and s.held[k, u - 1] > 0 and grams > m.load_g[k, u] and _can_load(m, s, k, u):
        for x in range(t - 1, u):
            hold(m, s, k, x, -1)
        start(m, s, k, u, 1)


@lean
def _bridge(m: Fleet, s: State, k: int, t: int) -> None:
    """One that is begun here: keep an earlier one on instead, where that is cheaper."""
    while s.starts[k, t] > 0:
        grams, u = 0.0, t - 1
        while u >= 0:
            grams += m.hold_g[k, u]
            if grams >= m.load_g[k, t] or not has_room(m, s, k, u):
                return
            if ready(m, s, k, u) > s.held[k, u]:
                break
            u -= 1
        if u < 0:
            return
        start(m, s, k, t, -1)
        for x in range(u, t):
            hold(m, s, k, x, 1)
