"""Replicas that no work needs go, or are kept on where they would begin again."""

from __future__ import annotations

from batchsched.planner.compiled import lean_inner
from batchsched.planner.search_state import State
from batchsched.planner.search_steps import has_room, hold, idle_s, open_s, ready, start


@lean_inner
def trim(s: State, k: int, begin: int, end: int) -> None:
    """Let go what no work needs, in these slots and next to them: replicas at their ends and at their beginnings, over gaps; keep
    on what is begun again."""
    last = s.slot_s.size - 1
    begin, end = max(0, begin - s.band.shape[2]), min(last, end)
    _cut_ends(s, k, begin, end)
    for t in range(begin, min(last, end + 1)):
        while s.cell[k, t].starts > 0 and s.cell[k, t].held > 0 and idle_s(s, k, t) + s.band[k, t, 0] >= _whole_s(s, t):
            if s.term[k, t].load_g + s.term[k, t].hold_g < s.term[k, t + 1].load_g or not _can_load(s, k, t + 1):
                break
            start(s, k, t, -1)
            hold(s, k, t, -1)
            start(s, k, t + 1, 1)
    for t in range(max(1, begin), end + 1):
        if s.cell[k, t - 1].held > 0:
            _skip_gap(s, k, t)
        if s.cell[k, t].starts > 0:
            _bridge(s, k, t)
    _cut_ends(s, k, begin, end)


@lean_inner
def _cut_ends(s: State, k: int, begin: int, end: int) -> None:
    for t in range(end, -1, -1):
        cut = False
        while True:
            if s.cell[k, t].starts > 0 and _is_useless(s, k, t):
                start(s, k, t, -1)
                for i in range(_span(s, k, t)):
                    hold(s, k, t + i, -1)
                cut = True
            elif t > 0 and s.cell[k, t - 1].held > 0 and ready(s, k, t) > s.cell[k, t].held and idle_s(s, k, t) >= _whole_s(s, t):
                hold(s, k, t - 1, -1)
                cut = True
            else:
                break
        if t <= begin and not cut:
            return


@lean_inner
def _whole_s(s: State, t: int) -> float:
    return float(s.slot_s[t] * (1 - 1e-12))


@lean_inner
def _span(s: State, k: int, t: int) -> int:
    """Slots after its own in which a start goes on."""
    i = 0
    while i + 1 < s.band.shape[2] and t + i + 1 < s.slot_s.size and s.band[k, t, i + 1] > 0:
        i += 1
    return i


@lean_inner
def _is_useless(s: State, k: int, t: int) -> bool:
    """Whether a replica that is begun here does nothing but start."""
    last = t + _span(s, k, t)
    for u in range(t, last + 1):
        if idle_s(s, k, u) + s.band[k, t, u - t] < _whole_s(s, u) or (u < last and s.cell[k, u].held <= 0):
            return False
    return bool(ready(s, k, last) > s.cell[k, last].held)


@lean_inner
def _can_load(s: State, k: int, t: int) -> bool:
    """Whether a replica that is ready anyway has time for a start in this slot."""
    spent = s.band[k, t, 0]
    if s.band.shape[2] > 1 and t + 1 < s.slot_s.size and s.band[k, t, 1] > 0:
        return False
    return bool(idle_s(s, k, t) >= spent and open_s(s, k, t) >= spent)


@lean_inner
def _skip_gap(s: State, k: int, t: int) -> None:
    """One that is kept through idle slots from here on: let it go and begin it again, where that is cheaper."""
    grams = s.term[k, t - 1].hold_g
    u = t
    while u < s.slot_s.size - 1 and s.cell[k, u].held > 0 and idle_s(s, k, u) >= _whole_s(s, u):
        grams += s.term[k, u].hold_g
        u += 1
    if u > t and s.cell[k, u - 1].held > 0 and grams > s.term[k, u].load_g and _can_load(s, k, u):
        for x in range(t - 1, u):
            hold(s, k, x, -1)
        start(s, k, u, 1)


@lean_inner
def _bridge(s: State, k: int, t: int) -> None:
    """One that is begun here: keep an earlier one on instead, where that is cheaper."""
    while s.cell[k, t].starts > 0:
        grams, u = 0.0, t - 1
        while u >= 0:
            grams += s.term[k, u].hold_g
            if grams >= s.term[k, t].load_g or not has_room(s, k, u):
                return
            if ready(s, k, u) > s.cell[k, u].held:
                break
            u -= 1
        if u < 0:
            return
        start(s, k, t, -1)
        for x in range(u, t):
            hold(s, k, x, 1)
