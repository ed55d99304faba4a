"""Ruin and recreate: some work is taken out of the plan, what then idles goes, and the work is placed anew where it costs least."""

from __future__ import annotations

import numpy as np

from batchsched.planner.compiled import lean
from batchsched.planner.fleet_model import Floats
from batchsched.planner.search_insert import Taste, insert, trim
from batchsched.planner.search_state import (
    ARC,
    BATCH,
    NEXT,
    NEXT_HERE,
    OPENED,
    SLOT,
    WORK,
    Fleet,
    State,
    draw,
    has_room,
    idle_s,
    keep,
    open_s,
    place,
    ready,
    sort,
    undo,
    write_down,
)

KINDS = ("batches", "window", "replica", "late", "pull")
BATCHES, WINDOW, REPLICA, LATE, PULL = range(5)
MEMORY = 0.98
"""Weight of what is known of a kind against what it has just done."""
LEAST_CHANCE = 0.05
"""Of a kind that does nothing, beside all others together."""
STEPS_A_TRY = 100
"""What a try costs beside the places that it looks at, in these."""


@lean
def improve(m: Fleet, s: State, chance: Floats, tally: Floats, most_work: int) -> None:
    """Try until so many places were looked at. `chance`: of each kind, adapted; `tally`: [kind, (tries, better, grams, work)]."""
    begun = s.count[WORK]
    keep(m, s)
    while s.count[WORK] - begun < most_work:
        kind = _choose(s, chance)
        work, cost = s.count[WORK], s.cost[0]
        s.count[WORK] += STEPS_A_TRY
        attempt(m, s, kind)
        work = s.count[WORK] - work
        saved = cost - s.cost[0]
        if saved >= -1e-12 * cost:
            keep(m, s)
        else:
            undo(m, s)
            saved = 0.0
        tally[kind, 0] += 1
        tally[kind, 1] += saved > 1e-9 * cost
        tally[kind, 2] += saved
        tally[kind, 3] += work
        chance[kind] = MEMORY * chance[kind] + (1 - MEMORY) * (saved / work)


@lean
def _choose(s: State, chance: Floats) -> int:
    total = chance.sum()
    least = LEAST_CHANCE * total + 1e-300
    x = draw(s) * (total + least * chance.size)
    for kind in range(chance.size):
        x -= chance[kind] + least
        if x < 0:
            return kind
    return 0


@lean
def attempt(m: Fleet, s: State, kind: int) -> None:
    """Ruin and recreate once."""
    taste = Taste(2.0 ** (draw(s) * 5), draw(s), max(0.0, 1.5 * draw(s) - 0.5), 0.05 * draw(s) if draw(s) < 0.7 else 0.0)
    size = 2.0 ** (draw(s) * 5)
    if kind == BATCHES:
        _take_batches(m, s, int(size))
    elif kind == WINDOW:
        _take_window(m, s, size)
    elif kind == REPLICA:
        _take_replica(m, s, int(size))
    elif kind == LATE:
        _take_late(m, s, size)
    else:
        _pull(m, s, size)
    tidy(m, s)
    recreate(m, s, int(4 * draw(s)), taste)
    s.barred[:] = False
    tidy(m, s)


@lean
def tidy(m: Fleet, s: State) -> None:
    """Trim what was touched."""
    for k in range(m.loaded.size):
        if s.touched[k]:
            trim(m, s, k)


@lean
def recreate(m: Fleet, s: State, by: int, taste: Taste) -> None:
    """Place what was taken. `by`: the order; earliest due, least choice, most work, any."""
    count = s.count[OPENED]
    for o in range(count):
        b = s.opened[o]
        c = m.batch_class[b]
        if by == 0:
            s.key[b] = m.due[b] + draw(s)
        elif by == 1:
            s.key[b] = (m.due[b] - m.release[b]) * (m.arcs_at[c + 1] - m.arcs_at[c]) * (0.5 + draw(s))
        elif by == 2:
            s.key[b] = -s.left[b] * m.late_g[c] * (0.5 + draw(s))
        else:
            s.key[b] = draw(s)
    sort(s, count)
    for o in range(count):
        b = s.opened[o]
        if s.left[b] > 0:
            insert(m, s, b, taste)


@lean
def take(m: Fleet, s: State, i: int, most_s: float) -> float:
    """Take up to so many seconds of a piece; how many."""
    b, a, t = s.piece[i, BATCH], s.piece[i, ARC], s.piece[i, SLOT]
    if not write_down(s, b):
        return 0.0
    spent = min(s.seconds[i], most_s)
    place(m, s, b, a, t, -spent)
    return spent


@lean
def take_batch(m: Fleet, s: State, b: int) -> None:
    """Take all of a batch."""
    if not write_down(s, b):
        return
    while s.first[b] >= 0:
        take(m, s, s.first[b], np.inf)


@lean
def _take_batches(m: Fleet, s: State, count: int) -> None:
    """Batches of one class, or any."""
    b = int(draw(s) * m.batch_class.size)
    c = m.batch_class[b]
    alike = draw(s) < 0.5
    take_batch(m, s, b)
    for _ in range(count):
        if alike:
            b = m.batches_of[m.batches_at[c] + int(draw(s) * (m.batches_at[c + 1] - m.batches_at[c]))]
        else:
            b = int(draw(s) * m.batch_class.size)
        take_batch(m, s, b)


@lean
def _take_window(m: Fleet, s: State, size: float) -> None:
    """All that runs on a pool or two for a while."""
    pools, slots = s.free_s.shape
    width = max(1, int(size / 2))
    begin = int(draw(s) * (slots + width)) - width
    for _ in range(1 + int(draw(s) * 2)):
        p = int(draw(s) * pools)
        for j in range(m.configs_at[p], m.configs_at[p + 1]):
            _clear(m, s, m.configs_of[j], max(0, begin), min(slots, begin + width))


@lean
def _clear(m: Fleet, s: State, k: int, begin: int, end: int) -> None:
    for t in range(begin, end):
        i = s.first_here[k, t]
        while i >= 0:
            after = s.piece[i, NEXT_HERE]
            take(m, s, i, np.inf)
            i = after


@lean
def _take_replica(m: Fleet, s: State, length: int) -> None:
    """One replica of a configuration for a while: of some that are drawn, where most of it idles."""
    k, t, most = -1, -1, -1.0
    for _ in range(6):
        k2, t2 = int(draw(s) * m.loaded.size), int(draw(s) * m.slot_s.size)
        if ready(m, s, k2, t2) > 0 and s.first_here[k2, t2] >= 0 and idle_s(m, s, k2, t2) / m.slot_s[t2] > most:
            k, t, most = k2, t2, idle_s(m, s, k2, t2) / m.slot_s[t2]
    if k < 0:
        return
    s.barred[k] = draw(s) < 0.7
    begin = max(0, t - int(draw(s) * length))
    for u in range(begin, min(m.slot_s.size, begin + length)):
        excess = s.busy[k, u] + s.loading[k, u] - (ready(m, s, k, u) - 1) * m.slot_s[u]
        i = s.first_here[k, u]
        while i >= 0 and excess > 0:
            after = s.piece[i, NEXT_HERE]
            excess -= take(m, s, i, excess)
            i = after


@lean
def _take_late(m: Fleet, s: State, size: float) -> None:
    """Work where a late batch could run, and that batch."""
    b = -1
    at = int(draw(s) * m.batch_class.size)
    for j in range(m.batch_class.size):
        late = (at + j) % m.batch_class.size
        if s.left[late] > 0 and m.due[late] > m.release[late]:
            b = late
            break
    if b < 0:
        return _take_batches(m, s, int(size))
    write_down(s, b)
    c = m.batch_class[b]
    arcs = m.arcs_of[m.arcs_at[c] : m.arcs_at[c + 1]]
    if arcs.size == 0:
        return None
    for _ in range(max(2, int(size / 2))):
        k = m.arc_config[arcs[int(draw(s) * arcs.size)]]
        t = m.release[b] + int(draw(s) * (m.due[b] - m.release[b]))
        p = m.pool_of[m.pool_at[k]]
        for j in range(m.configs_at[p], m.configs_at[p + 1]):
            _clear(m, s, m.configs_of[j], t, t + 1)
    return None


@lean
def _pull(m: Fleet, s: State, size: float) -> None:
    """Work that could run in a stretch of free time of a configuration, the dearest of some that is drawn."""
    k, t = int(draw(s) * m.loaded.size), int(draw(s) * m.slot_s.size)
    if m.config_arcs_at[k + 1] == m.config_arcs_at[k] or open_s(m, s, k, t) < 0.5 * m.slot_s[t] or not has_room(m, s, k, t):
        return
    wanted = m.slot_s[t] * size / 2
    for _ in range(40):
        a = m.config_arcs_of[m.config_arcs_at[k] + int(draw(s) * (m.config_arcs_at[k + 1] - m.config_arcs_at[k]))]
        c = m.arc_class[a]
        if m.batches_at[c + 1] == m.batches_at[c]:
            continue
        b = m.batches_of[m.batches_at[c] + int(draw(s) * (m.batches_at[c + 1] - m.batches_at[c]))]
        if not m.release[b] <= t < m.due[b]:
            continue
        i, dearest, price = s.first[b], -1, m.run_g[a, t] / m.rate[a]
        while i >= 0:
            other, at = s.piece[i, ARC], s.piece[i, SLOT]
            if m.run_g[other, at] / m.rate[other] > price:
                dearest, price = i, m.run_g[other, at] / m.rate[other]
            i = s.piece[i, NEXT]
        if dearest >= 0:
            units = take(m, s, dearest, wanted * m.rate[a] / m.rate[s.piece[dearest, ARC]]) * m.rate[s.piece[dearest, ARC]]
            wanted -= units / m.rate[a]
            if wanted <= 0:
                return
