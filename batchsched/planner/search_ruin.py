"""Ruin and recreate: some work is taken out of the plan, what then idles goes, the work is placed anew where it costs least."""

from __future__ import annotations

import numpy as np

from batchsched.planner.compiled import inlined, lean, lean_inner
from batchsched.planner.fleet_model import Floats
from batchsched.planner.search_insert import Taste, insert
from batchsched.planner.search_state import OPENED, WORK, State
from batchsched.planner.search_steps import draw, has_room, idle_s, keep, open_s, place, ready, sort, undo, write_down
from batchsched.planner.search_trim import trim

KINDS = ("batches", "window", "replica", "late", "pull")
BATCHES, WINDOW, REPLICA, LATE, PULL = range(5)
MEMORY = 0.98
"""Weight of what is known of a kind against what it has just done."""
LEAST_CHANCE = 0.05
"""Of a kind that does nothing, beside all others together."""
STEPS_A_TRY = 100
"""What a try costs beside the places that it looks at, in these."""


@lean
def improve(s: State, chance: Floats, tally: Floats, most_work: int, heat: float, half: float) -> None:
    """Try until so many places were looked at. `chance`: of each kind, adapted; `tally`: [kind, (tries, better, grams, work)].

    What is dearer stays too now and then, by about `heat` grams at first, by half of it after `half` places.
    """
    begun = s.counts[WORK]
    keep(s)
    s.cost[2] = min(s.cost[2], s.cost[0])
    while s.counts[WORK] - begun < most_work:
        kind = _choose(s, chance)
        work, cost = s.counts[WORK], s.cost[0]
        s.counts[WORK] += STEPS_A_TRY
        attempt(s, kind)
        work = s.counts[WORK] - work
        dearer = s.cost[0] - cost
        if dearer <= 1e-12 * cost or dearer < -heat / (1.0 + s.counts[WORK] / half) * np.log(1.0 - draw(s)):
            keep(s)
        else:
            undo(s)
        saved = max(0.0, s.cost[2] - s.cost[0])
        s.cost[2] -= saved
        tally[kind, 0] += 1
        tally[kind, 1] += saved > 1e-9 * cost
        tally[kind, 2] += saved
        tally[kind, 3] += work
        chance[kind] = MEMORY * chance[kind] + (1 - MEMORY) * (saved / work)


@lean_inner
def _choose(s: State, chance: Floats) -> int:
    total = chance.sum()
    least = LEAST_CHANCE * total + 1e-300
    x = draw(s) * (total + least * chance.size)
    for kind in range(chance.size):
        x -= chance[kind] + least
        if x < 0:
            return kind
    return 0


@lean_inner
def attempt(s: State, kind: int) -> None:
    """Ruin and recreate once."""
    taste = Taste(2.0 ** (draw(s) * 5), draw(s), max(0.0, 1.5 * draw(s) - 0.5), 0.05 * draw(s) if draw(s) < 0.7 else 0.0)
    size = 2.0 ** (draw(s) * 5)
    if kind == BATCHES:
        _take_batches(s, int(size))
    elif kind == WINDOW:
        _take_window(s, size)
    elif kind == REPLICA:
        _take_replica(s, int(size))
    elif kind == LATE:
        _take_late(s, size)
    else:
        _pull(s, size)
    tidy(s)
    recreate(s, int(4 * draw(s)), taste)
    for k in range(s.config.size):
        s.config[k].barred = False
    tidy(s)


@lean_inner
def tidy(s: State) -> None:
    """Trim what was touched."""
    for k in range(s.config.size):
        if s.config[k].touched:
            trim(s, k, s.config[k].begin, s.config[k].end)


@lean_inner
def recreate(s: State, by: int, taste: Taste) -> None:
    """Place what was taken. `by`: the order; earliest due, least choice, most work, any."""
    count = s.counts[OPENED]
    for o in range(count):
        b = s.opened[o]
        c = s.batch[b].group
        if by == 0:
            s.batch[b].key = s.batch[b].due + draw(s)
        elif by == 1:
            s.batch[b].key = (
                (s.batch[b].due - s.batch[b].release) * (s.group[c].arcs_end - s.group[c].arcs_begin) * (0.5 + draw(s))
            )
        elif by == 2:
            s.batch[b].key = -s.batch[b].left * s.batch[b].late_g * (0.5 + draw(s))
        else:
            s.batch[b].key = draw(s)
    sort(s, count)
    for o in range(count):
        b = s.opened[o]
        if s.batch[b].left > 0:
            insert(s, b, taste)


@lean_inner
def take(s: State, i: int, most_s: float) -> float:
    """Take up to so many seconds of a piece; how many."""
    b, a, t = s.piece[i].batch, s.piece[i].arc, s.piece[i].slot
    if not write_down(s, b):
        return 0.0
    spent = min(s.piece[i].seconds, most_s)
    place(s, b, a, t, -spent)
    return float(spent)


@lean_inner
def take_batch(s: State, b: int) -> None:
    """Take all of a batch."""
    if not write_down(s, b):
        return
    while s.batch[b].first >= 0:
        take(s, s.batch[b].first, np.inf)


@lean_inner
def _take_batches(s: State, count: int) -> None:
    """Batches of one class, or any."""
    b = int(draw(s) * s.batch.size)
    c = s.batch[b].group
    alike = draw(s) < 0.5
    take_batch(s, b)
    for _ in range(count):
        if alike:
            b = int(s.batches_of[s.group[c].batches_begin + int(draw(s) * (s.group[c].batches_end - s.group[c].batches_begin))])
        else:
            b = int(draw(s) * s.batch.size)
        take_batch(s, b)


@lean_inner
def _take_window(s: State, size: float) -> None:
    """All that runs on a pool or two for a while."""
    pools, slots = s.pool.shape
    width = max(1, int(size / 2))
    begin = int(draw(s) * (slots + width)) - width
    for _ in range(1 + int(draw(s) * 2)):
        p = int(draw(s) * pools)
        for j in range(s.site[p].begin, s.site[p].end):
            _clear(s, s.configs_of[j], max(0, begin), min(slots, begin + width))


@lean_inner
def _clear(s: State, k: int, begin: int, end: int) -> None:
    for t in range(begin, end):
        i = s.first_here[k, t]
        while i >= 0:
            after = s.piece[i].next_here
            take(s, i, np.inf)
            i = after


@lean_inner
def _take_replica(s: State, length: int) -> None:
    """One replica of a configuration for a while: of some that are drawn, where most of it idles."""
    k, t, most = -1, -1, -1.0
    for _ in range(6):
        k2, t2 = int(draw(s) * s.config.size), int(draw(s) * s.slot_s.size)
        if ready(s, k2, t2) > 0 and s.first_here[k2, t2] >= 0 and idle_s(s, k2, t2) / s.slot_s[t2] > most:
            k, t, most = k2, t2, idle_s(s, k2, t2) / s.slot_s[t2]
    if k < 0:
        return
    s.config[k].barred = draw(s) < 0.7
    begin = max(0, t - int(draw(s) * length))
    for u in range(begin, min(s.slot_s.size, begin + length)):
        excess = s.cell[k, u].busy + s.cell[k, u].loading - (ready(s, k, u) - 1) * s.slot_s[u]
        i = s.first_here[k, u]
        while i >= 0 and excess > 0:
            after = s.piece[i].next_here
            excess -= take(s, i, excess)
            i = after


@lean_inner
def _take_late(s: State, size: float) -> None:
    """Work where a late batch could run, and that batch; where none is late, one that is far from its best place."""
    b = -1
    at = int(draw(s) * s.batch.size)
    for j in range(s.batch.size):
        late = (at + j) % s.batch.size
        if s.batch[late].left > 0 and s.batch[late].due > s.batch[late].release:
            b = late
            break
    if b < 0:
        _take_misplaced(s, size)
        return
    write_down(s, b)
    c = s.batch[b].group
    arcs = s.arcs_of[s.group[c].arcs_begin : s.group[c].arcs_end]
    if arcs.size == 0:
        return
    for _ in range(max(2, int(size / 2))):
        k = s.arc[arcs[int(draw(s) * arcs.size)]].config
        _clear_pools(s, k, s.batch[b].release + int(draw(s) * (s.batch[b].due - s.batch[b].release)), 1)


@lean_inner
def _take_misplaced(s: State, size: float) -> None:
    """Of some batches that are drawn, the one that pays most beyond its cheapest place, and what stands there."""
    b, most, best_k, best_t = -1, 0.0, 0, 0
    for _ in range(6):
        other = int(draw(s) * s.batch.size)
        k, t, price = _best_place(s, other)
        paid, i = 0.0, s.batch[other].first
        while i >= 0:
            a = s.piece[i].arc
            paid += s.piece[i].seconds * (_fair_g(s, a, s.piece[i].slot) - price * s.arc[a].rate)
            i = s.piece[i].next
        if paid > most:
            b, most, best_k, best_t = other, paid, k, t
    if b < 0:
        return
    take_batch(s, b)
    width = max(1, int(size / 4))
    _clear_pools(s, best_k, best_t - int(draw(s) * width), width)


@lean_inner
def _best_place(s: State, b: int) -> tuple[int, int, float]:
    """Where a batch's work would cost least by prices alone, with some luck: configuration, slot, grams of a unit."""
    c = s.batch[b].group
    best, at, price = -1, 0, np.inf
    for i in range(s.group[c].arcs_begin, s.group[c].arcs_end):
        a = s.arcs_of[i]
        luck = 1.0 + 0.03 * draw(s)
        for t in range(s.batch[b].release, s.batch[b].due):
            fair = _fair_g(s, a, t) / s.arc[a].rate * luck
            if fair < price:
                best, at, price = s.arc[a].config, t, fair
    s.counts[WORK] += (s.batch[b].due - s.batch[b].release) * (s.group[c].arcs_end - s.group[c].arcs_begin) // 4
    return best, at, price


@inlined
def _fair_g(s: State, a: int, t: int) -> float:
    """Grams of a second of work by prices alone."""
    k = s.arc[a].config
    return float(s.run_g[a, t] + s.term[k, t].worth_g + s.term[k, t].hold_g / s.slot_s[t])


@lean_inner
def _clear_pools(s: State, k: int, begin: int, width: int) -> None:
    """All work on the pools of a configuration for a while."""
    for i in range(s.config[k].takes_begin, s.config[k].takes_end):
        p = s.takes[i].pool
        for j in range(s.site[p].begin, s.site[p].end):
            _clear(s, s.configs_of[j], max(0, begin), min(s.slot_s.size, begin + width))


@lean_inner
def _pull(s: State, size: float) -> None:
    """Work that could run in a stretch of free time of a configuration, the dearest of some that is drawn."""
    k, t = int(draw(s) * s.config.size), int(draw(s) * s.slot_s.size)
    if s.config[k].arcs_end == s.config[k].arcs_begin or open_s(s, k, t) < 0.5 * s.slot_s[t] or not has_room(s, k, t):
        return
    wanted = s.slot_s[t] * size / 2
    for _ in range(40):
        a = s.config_arcs_of[s.config[k].arcs_begin + int(draw(s) * (s.config[k].arcs_end - s.config[k].arcs_begin))]
        c = s.arc[a].group
        if s.group[c].batches_end == s.group[c].batches_begin:
            continue
        b = s.batches_of[s.group[c].batches_begin + int(draw(s) * (s.group[c].batches_end - s.group[c].batches_begin))]
        if not s.batch[b].release <= t < s.batch[b].due:
            continue
        i, dearest, price = s.batch[b].first, -1, s.run_g[a, t] / s.arc[a].rate
        while i >= 0:
            other, at = s.piece[i].arc, s.piece[i].slot
            if s.run_g[other, at] / s.arc[other].rate > price:
                dearest, price = i, s.run_g[other, at] / s.arc[other].rate
            i = s.piece[i].next
        if dearest >= 0:
            units = take(s, dearest, wanted * s.arc[a].rate / s.arc[s.piece[dearest].arc].rate) * s.arc[s.piece[dearest].arc].rate
            wanted -= units / s.arc[a].rate
            if wanted <= 0:
                return
