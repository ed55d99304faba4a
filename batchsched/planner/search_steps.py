"""The smallest steps of the search from one state to the next.

Every step keeps all rules of fleet_model.py, and the cost up to date. What a try has touched is written down, so that it can be
undone.
"""

from __future__ import annotations

import numpy as np

from batchsched.planner.compiled import inlined, lean_inner
from batchsched.planner.search_state import FREE, LOGGED, OPENED, PIECES, RANDOM, State

NEAR = 4
"""Slots around a change in which further replicas are weighed anew."""
DUST = 1e-9
"""Share of a batch's work, or of a slot, that is rounding."""


@inlined
def draw(s: State) -> float:
    """A number from 0 to below 1."""
    s.counts[RANDOM] = (int(s.counts[RANDOM]) * 25214903917 + 11) & 281474976710655
    return float((s.counts[RANDOM] >> 16) / 4294967296.0)


@inlined
def ready(s: State, k: int, t: int) -> int:
    """Replicas that can work in this slot."""
    return int(s.cell[k, t].starts + (s.cell[k, t - 1].held if t > 0 else s.config[k].loaded))


@inlined
def idle_s(s: State, k: int, t: int) -> float:
    """Seconds of ready replicas without work."""
    return float(ready(s, k, t) * s.slot_s[t] - s.cell[k, t].busy - s.cell[k, t].loading)


@inlined
def open_s(s: State, k: int, t: int) -> float:
    """Replica-seconds for which its pools have GPUs."""
    least = np.inf
    for j in range(s.config[k].takes_begin, s.config[k].takes_end):
        least = min(least, s.pool[s.takes[j].pool, t].free_s / s.takes[j].gpus)
    return least


@inlined
def has_room(s: State, k: int, t: int) -> bool:
    """Whether one more may be kept when the slot ends."""
    for j in range(s.config[k].takes_begin, s.config[k].takes_end):
        if s.pool[s.takes[j].pool, t].free_room < s.takes[j].gpus - 1e-9:
            return False
    return True


@lean_inner
def touch(s: State, k: int, begin: int, end: int, near: int) -> None:
    """Write down how a configuration and its pools are, before the first change of a try; what is changed, and near it, is known
    no more."""
    _forget(s, k, max(0, begin - near), min(s.slot_s.size, end + near))
    if s.config[k].touched:
        s.config[k].begin, s.config[k].end = min(s.config[k].begin, begin), max(s.config[k].end, end)
        return
    s.config[k].touched = True
    s.config[k].begin, s.config[k].end = begin, end
    for t in range(s.slot_s.size):
        s.old_cell[k, t] = s.cell[k, t]
    for j in range(s.config[k].takes_begin, s.config[k].takes_end):
        p = s.takes[j].pool
        if not s.site[p].touched:
            s.site[p].touched = True
            for t in range(s.slot_s.size):
                s.old_pool[p, t] = s.pool[p, t]


@lean_inner
def _forget(s: State, k: int, begin: int, end: int) -> None:
    """What the configurations of its pools could get in these slots."""
    for i in range(s.config[k].takes_begin, s.config[k].takes_end):
        p = s.takes[i].pool
        for j in range(s.site[p].begin, s.site[p].end):
            other = s.configs_of[j]
            for t in range(begin, end):
                s.offer[other, t].known = False
            if s.config[other].stale_end == 0:
                s.config[other].stale_begin, s.config[other].stale_end = begin, end
            else:
                s.config[other].stale_begin = min(s.config[other].stale_begin, begin)
                s.config[other].stale_end = max(s.config[other].stale_end, end)


@lean_inner
def hold(s: State, k: int, t: int, more: int) -> None:
    """Keep so many more when the slot ends."""
    touch(s, k, t, t + 1, NEAR)
    s.cell[k, t].held += more
    s.cost[0] += more * s.term[k, t].hold_g
    for j in range(s.config[k].takes_begin, s.config[k].takes_end):
        s.pool[s.takes[j].pool, t].free_room -= more * s.takes[j].gpus


@lean_inner
def start(s: State, k: int, t: int, more: int) -> None:
    """Begin so many more in a slot."""
    touch(s, k, t, t + s.band.shape[2], NEAR)
    s.cell[k, t].starts += more
    s.cost[0] += more * s.term[k, t].load_g
    for i in range(min(s.band.shape[2], s.slot_s.size - t)):
        spent = more * s.band[k, t, i]
        s.cell[k, t + i].loading += spent
        for j in range(s.config[k].takes_begin, s.config[k].takes_end):
            s.pool[s.takes[j].pool, t + i].free_s -= spent * s.takes[j].gpus


@lean_inner
def link(s: State, b: int, a: int, t: int, spent: float) -> bool:
    """A new piece; False where all are used."""
    i = s.counts[FREE]
    if i < 0:
        return False
    k = s.arc[a].config
    s.counts[FREE] = s.piece[i].next
    s.counts[PIECES] += 1
    s.piece[i].seconds = spent
    s.piece[i].batch, s.piece[i].arc, s.piece[i].slot = b, a, t
    s.piece[i].before = s.piece[i].before_here = -1
    s.piece[i].next, s.piece[i].next_here = s.batch[b].first, s.first_here[k, t]
    if s.batch[b].first >= 0:
        s.piece[s.batch[b].first].before = i
    if s.first_here[k, t] >= 0:
        s.piece[s.first_here[k, t]].before_here = i
    s.batch[b].first = s.first_here[k, t] = i
    return True


@lean_inner
def unlink(s: State, i: int) -> None:
    """A piece goes."""
    b, k, t = s.piece[i].batch, s.arc[s.piece[i].arc].config, s.piece[i].slot
    before, after = s.piece[i].before, s.piece[i].next
    if before >= 0:
        s.piece[before].next = after
    else:
        s.batch[b].first = after
    if after >= 0:
        s.piece[after].before = before
    before, after = s.piece[i].before_here, s.piece[i].next_here
    if before >= 0:
        s.piece[before].next_here = after
    else:
        s.first_here[k, t] = after
    if after >= 0:
        s.piece[after].before_here = before
    s.piece[i].next = s.counts[FREE]
    s.piece[i].seconds = 0.0
    s.counts[FREE] = i
    s.counts[PIECES] -= 1


@lean_inner
def place(s: State, b: int, a: int, t: int, spent: float) -> bool:
    """Give a batch so many seconds, below 0 to take them; False where there is no piece left for it."""
    k = s.arc[a].config
    i = s.batch[b].first
    while i >= 0 and not (s.piece[i].arc == a and s.piece[i].slot == t):
        i = s.piece[i].next
    if i < 0 and not link(s, b, a, t, 0.0):
        return False
    if i < 0:
        i = s.batch[b].first
    touch(s, k, t, t + 1, s.band.shape[2] - 1)
    s.piece[i].seconds += spent
    if spent < 0 and s.piece[i].seconds <= DUST * s.slot_s[t]:
        spent -= s.piece[i].seconds
        unlink(s, i)
    late_g = s.batch[b].late_g
    units = s.batch[b].left - spent * s.arc[a].rate
    if units < DUST * s.batch[b].work:
        units = 0.0
    s.cost[0] += spent * s.run_g[a, t] + late_g * (units - s.batch[b].left)
    s.batch[b].left = units
    s.cell[k, t].busy += spent
    for j in range(s.config[k].takes_begin, s.config[k].takes_end):
        s.pool[s.takes[j].pool, t].free_s -= spent * s.takes[j].gpus
    return True


@lean_inner
def write_down(s: State, b: int) -> bool:
    """A batch's pieces, before their first change of a try; False where there is no space for it."""
    if s.batch[b].opened:
        return True
    begun = s.counts[LOGGED]
    i = s.batch[b].first
    while i >= 0:
        if s.counts[LOGGED] >= s.log.size:
            s.counts[LOGGED] = begun
            return False
        j = s.counts[LOGGED]
        s.log[j].batch, s.log[j].arc, s.log[j].slot = b, s.piece[i].arc, s.piece[i].slot
        s.log[j].seconds = s.piece[i].seconds
        s.counts[LOGGED] += 1
        i = s.piece[i].next
    s.batch[b].opened = True
    s.batch[b].old_left = s.batch[b].left
    s.opened[s.counts[OPENED]] = b
    s.counts[OPENED] += 1
    return True


@lean_inner
def keep(s: State) -> None:
    """What was tried stands."""
    for o in range(s.counts[OPENED]):
        s.batch[s.opened[o]].opened = False
    s.counts[OPENED] = s.counts[LOGGED] = 0
    for k in range(s.config.size):
        s.config[k].touched = False
        s.config[k].stale_end = 0
    for p in range(s.site.size):
        s.site[p].touched = False
    s.cost[1] = s.cost[0]


@lean_inner
def undo(s: State) -> None:
    """All is as it was before the try."""
    for o in range(s.counts[OPENED]):
        b = s.opened[o]
        while s.batch[b].first >= 0:
            unlink(s, s.batch[b].first)
        s.batch[b].left = s.batch[b].old_left
    for j in range(s.counts[LOGGED] - 1, -1, -1):
        link(s, s.log[j].batch, s.log[j].arc, s.log[j].slot, s.log[j].seconds)
    _undo_replicas(s)
    for p in range(s.site.size):
        if s.site[p].touched:
            for t in range(s.slot_s.size):
                s.pool[p, t] = s.old_pool[p, t]
    s.cost[0] = s.cost[1]
    keep(s)


@lean_inner
def _undo_replicas(s: State) -> None:
    for k in range(s.config.size):
        for t in range(s.config[k].stale_begin, s.config[k].stale_end):
            s.offer[k, t].known = False
        if s.config[k].touched:
            for t in range(s.slot_s.size):
                s.cell[k, t] = s.old_cell[k, t]


@lean_inner
def sort(s: State, count: int) -> None:
    """The first so many of `opened` by their keys, least first."""
    for i in range(1, count):
        j, b = i, s.opened[i]
        while j > 0 and s.batch[s.opened[j - 1]].key > s.batch[b].key:
            s.opened[j] = s.opened[j - 1]
            j -= 1
        s.opened[j] = b
