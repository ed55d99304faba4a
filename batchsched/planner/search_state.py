"""The state of the search for cheaper plans, and the smallest steps from one to the next.

What is placed are pieces: so many seconds of a batch on an arc in a slot, within its window. Replicas are counted by configuration
and slot: begun (`starts`), kept at a slot's end (`held`). Every step keeps all rules of fleet_model.py, and the cost up to date.
What a try has touched is written down, so that it can be undone.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from batchsched.planner.compiled import lean
from batchsched.planner.fleet_bound import FleetPrices
from batchsched.planner.fleet_model import FleetModel, Floats, Ints

Flags = npt.NDArray[np.bool_]

LEAST_USE = 0.05
"""Share of a slot that must be left after a start for it to be of use there."""
DUST = 1e-9
"""Share of a batch's work that is rounding."""
BATCH, ARC, SLOT, NEXT, BEFORE, NEXT_HERE, BEFORE_HERE = range(7)
"""Columns of a piece: the last four link it to the batch's other pieces and to the configuration's others in the slot."""
FREE, PIECES, OPENED, LOGGED, WORK, RANDOM = range(6)
"""Counters: head of the unused pieces, pieces used, batches and pieces written down, cells looked at, the random state."""


class Fleet(NamedTuple):
    """What does not change: a FleetModel as the compiled code wants it."""

    slot_s: Floats
    loaded: Ints
    load_g: Floats
    hold_g: Floats
    band: Floats
    fresh_from: Ints
    """[K, T] where a replica begins whose first useful slot is this; -1: none does."""
    fresh_g: Floats
    fresh_s: Floats
    """[K, T] seconds that it can then work in that slot."""
    pool_at: Ints
    """[K + 1] into pool_of and pool_gpus: what a configuration takes."""
    pool_of: Ints
    pool_gpus: Floats
    arc_class: Ints
    arc_config: Ints
    rate: Floats
    run_g: Floats
    worth_g: Floats
    """[K, T] what the GPUs of a replica-second are worth elsewhere, as prices say."""
    arcs_at: Ints
    """[C + 1] into arcs_of: a class's arcs."""
    arcs_of: Ints
    batches_at: Ints
    """[C + 1] into batches_of."""
    batches_of: Ints
    config_arcs_at: Ints
    """[K + 1] into config_arcs_of: arcs on a configuration."""
    config_arcs_of: Ints
    configs_at: Ints
    """[P + 1] into configs_of: configurations that take of a pool."""
    configs_of: Ints
    batch_class: Ints
    release: Ints
    due: Ints
    work: Floats
    late_g: Floats


class State(NamedTuple):
    """What changes."""

    cost: Floats
    """[1] grams."""
    count: Ints
    starts: Ints
    held: Ints
    busy: Floats
    """[K, T] seconds of work."""
    loading: Floats
    """[K, T] seconds of starts."""
    free_s: Floats
    """[P, T] GPU-seconds."""
    free_room: Floats
    """[P, T] GPUs at the slot's end."""
    left: Floats
    """[B] units not placed: late."""
    first: Ints
    """[B] first piece, or -1."""
    first_here: Ints
    """[K, T] first piece, or -1."""
    piece: Ints
    seconds: Floats
    old_starts: Ints
    old_held: Ints
    old_busy: Floats
    old_loading: Floats
    old_free_s: Floats
    old_free_room: Floats
    old_cost: Floats
    touched: Flags
    """[K + P] configurations and pools that were written down."""
    opened: Ints
    """[B] batches that were written down, in order; `is_opened` says which."""
    is_opened: Flags
    old_left: Floats
    log: Ints
    """[N, 3] batch, arc, slot of their pieces."""
    log_s: Floats
    barred: Flags
    """[K] configurations that get no further replica during this try."""
    price: Floats
    """Scratch: of a class's arcs and slots; `shut` are overlooked."""
    shut: Flags
    key: Floats
    """[B] scratch: what batches are ordered by."""


def fleet_of(model: FleetModel, prices: FleetPrices | None) -> Fleet:
    """The arrays of a model."""
    pool_at, pool_of = _rows(model.gpus > 0)
    k = np.repeat(np.arange(model.configs), np.diff(pool_at))
    fresh_from, fresh_g, fresh_s = _fresh(model)
    arcs_at, arcs_of = _groups(model.arc_class, model.classes)
    batches_at, batches_of = _groups(model.batch_class, model.classes)
    config_arcs_at, config_arcs_of = _groups(model.arc_config, model.configs)
    configs_at, configs_of = _rows(model.gpus.T > 0)
    return Fleet(
        model.slot_s.astype(float), model.loaded.astype(np.int64), model.load_g.astype(float), model.hold_g.astype(float),
        np.ascontiguousarray(model.load_band), fresh_from, fresh_g, fresh_s, pool_at, pool_of, model.gpus[k, pool_of],
        model.arc_class.astype(np.int64), model.arc_config.astype(np.int64), model.rate.astype(float), model.run_g.astype(float),
        model.gpus @ prices.gpu if prices is not None else np.zeros(model.load_g.shape),
        arcs_at, arcs_of, batches_at, batches_of, config_arcs_at, config_arcs_of, configs_at, configs_of,
        model.batch_class.astype(np.int64), model.release.astype(np.int64),
        np.minimum(model.due, model.slots).astype(np.int64), model.work.astype(float), model.late_g.astype(float),
    )  # fmt: skip


def nothing_placed(model: FleetModel, pieces: int, seed: int) -> State:
    """All work late, what is loaded let go."""
    k, p, b = model.load_g.shape, model.capacity.shape, model.work.size
    cells = int(np.bincount(model.arc_class, minlength=1).max()) * model.slots
    piece = np.full((pieces, 7), -1)
    piece[:-1, NEXT] = np.arange(1, pieces)
    count = np.zeros(6, np.int64)
    count[RANDOM] = 88172645463325252 + 2 * seed
    cost = np.array([float(model.late_g[model.batch_class] @ model.work)])
    free_s = model.capacity * model.slot_s
    return State(
        cost, count, np.zeros(k, np.int64), np.zeros(k, np.int64), np.zeros(k), np.zeros(k), free_s, model.room.astype(float),
        model.work.astype(float), np.full(b, -1), np.full(k, -1), piece, np.zeros(pieces),
        np.zeros(k, np.int64), np.zeros(k, np.int64), np.zeros(k), np.zeros(k), np.zeros(p), np.zeros(p), cost.copy(),
        np.zeros(k[0] + p[0], bool), np.zeros(b, np.int64), np.zeros(b, bool), np.zeros(b),
        np.zeros((pieces, 3), np.int64), np.zeros(pieces), np.zeros(k[0], bool),
        np.zeros(cells), np.zeros(cells, bool), np.zeros(b),
    )  # fmt: skip


def _fresh(model: FleetModel) -> tuple[Ints, Floats, Floats]:
    """For each configuration and slot: where to begin so that the start is over early enough in it, its grams, and the rest."""
    end = np.cumsum(model.slot_s)
    begin = end - model.slot_s
    ready = begin[None, :] + model.load_s[:, None]
    where = np.full(model.load_g.shape, -1)
    grams, seconds = np.full(where.shape, np.inf), np.zeros(where.shape)
    kept = np.concatenate([np.zeros((model.configs, 1)), np.cumsum(model.hold_g, axis=1)], axis=1)
    for k in range(model.configs):
        latest = np.searchsorted(ready[k], end - LEAST_USE * model.slot_s, side="right") - 1
        at = np.flatnonzero(latest >= 0)
        first = np.minimum(latest[at], at)
        where[k, at] = first
        grams[k, at] = model.load_g[k, first] + kept[k, at] - kept[k, first]
        seconds[k, at] = np.minimum(model.slot_s[at], end[at] - ready[k, first])
    return where, grams, seconds


def _rows(wanted: Flags) -> tuple[Ints, Ints]:
    """Where each row's columns begin, and the columns."""
    row, column = np.nonzero(wanted)
    return np.searchsorted(row, np.arange(wanted.shape[0] + 1)), column


def _groups(of: Ints, count: int) -> tuple[Ints, Ints]:
    """Where each group's members begin, and the members."""
    order = np.argsort(of, kind="stable")
    return np.searchsorted(of[order], np.arange(count + 1)), order


@lean
def draw(s: State) -> float:
    """A number from 0 to below 1."""
    s.count[RANDOM] = (s.count[RANDOM] * 25214903917 + 11) & 281474976710655
    return (s.count[RANDOM] >> 16) / 4294967296.0


@lean
def ready(m: Fleet, s: State, k: int, t: int) -> int:
    """Replicas that can work in this slot."""
    return s.starts[k, t] + (s.held[k, t - 1] if t > 0 else m.loaded[k])


@lean
def idle_s(m: Fleet, s: State, k: int, t: int) -> float:
    """Seconds of ready replicas without work."""
    return ready(m, s, k, t) * m.slot_s[t] - s.busy[k, t] - s.loading[k, t]


@lean
def open_s(m: Fleet, s: State, k: int, t: int) -> float:
    """Replica-seconds for which its pools have GPUs."""
    least = np.inf
    for j in range(m.pool_at[k], m.pool_at[k + 1]):
        least = min(least, s.free_s[m.pool_of[j], t] / m.pool_gpus[j])
    return least


@lean
def has_room(m: Fleet, s: State, k: int, t: int) -> bool:
    """Whether one more may be kept when the slot ends."""
    for j in range(m.pool_at[k], m.pool_at[k + 1]):
        if s.free_room[m.pool_of[j], t] < m.pool_gpus[j] - 1e-9:
            return False
    return True


@lean
def touch(m: Fleet, s: State, k: int) -> None:
    """Write down how a configuration and its pools are, before the first change of a try."""
    if s.touched[k]:
        return
    s.touched[k] = True
    for t in range(m.slot_s.size):
        s.old_starts[k, t], s.old_held[k, t] = s.starts[k, t], s.held[k, t]
        s.old_busy[k, t], s.old_loading[k, t] = s.busy[k, t], s.loading[k, t]
    for j in range(m.pool_at[k], m.pool_at[k + 1]):
        p = m.pool_of[j]
        if not s.touched[m.loaded.size + p]:
            s.touched[m.loaded.size + p] = True
            for t in range(m.slot_s.size):
                s.old_free_s[p, t], s.old_free_room[p, t] = s.free_s[p, t], s.free_room[p, t]


@lean
def hold(m: Fleet, s: State, k: int, t: int, more: int) -> None:
    """Keep so many more when the slot ends."""
    touch(m, s, k)
    s.held[k, t] += more
    s.cost[0] += more * m.hold_g[k, t]
    for j in range(m.pool_at[k], m.pool_at[k + 1]):
        s.free_room[m.pool_of[j], t] -= more * m.pool_gpus[j]


@lean
def start(m: Fleet, s: State, k: int, t: int, more: int) -> None:
    """Begin so many more in a slot."""
    touch(m, s, k)
    s.starts[k, t] += more
    s.cost[0] += more * m.load_g[k, t]
    for i in range(min(m.band.shape[2], m.slot_s.size - t)):
        spent = more * m.band[k, t, i]
        s.loading[k, t + i] += spent
        for j in range(m.pool_at[k], m.pool_at[k + 1]):
            s.free_s[m.pool_of[j], t + i] -= spent * m.pool_gpus[j]


@lean
def link(m: Fleet, s: State, b: int, a: int, t: int, spent: float) -> bool:
    """A new piece; False where all are used."""
    i = s.count[FREE]
    if i < 0:
        return False
    k = m.arc_config[a]
    s.count[FREE] = s.piece[i, NEXT]
    s.count[PIECES] += 1
    s.seconds[i] = spent
    s.piece[i, BATCH], s.piece[i, ARC], s.piece[i, SLOT] = b, a, t
    s.piece[i, BEFORE] = s.piece[i, BEFORE_HERE] = -1
    s.piece[i, NEXT], s.piece[i, NEXT_HERE] = s.first[b], s.first_here[k, t]
    if s.first[b] >= 0:
        s.piece[s.first[b], BEFORE] = i
    if s.first_here[k, t] >= 0:
        s.piece[s.first_here[k, t], BEFORE_HERE] = i
    s.first[b] = s.first_here[k, t] = i
    return True


@lean
def unlink(m: Fleet, s: State, i: int) -> None:
    """A piece goes."""
    b, k, t = s.piece[i, BATCH], m.arc_config[s.piece[i, ARC]], s.piece[i, SLOT]
    before, after = s.piece[i, BEFORE], s.piece[i, NEXT]
    if before >= 0:
        s.piece[before, NEXT] = after
    else:
        s.first[b] = after
    if after >= 0:
        s.piece[after, BEFORE] = before
    before, after = s.piece[i, BEFORE_HERE], s.piece[i, NEXT_HERE]
    if before >= 0:
        s.piece[before, NEXT_HERE] = after
    else:
        s.first_here[k, t] = after
    if after >= 0:
        s.piece[after, BEFORE_HERE] = before
    s.piece[i, NEXT] = s.count[FREE]
    s.count[FREE] = i
    s.count[PIECES] -= 1


@lean
def place(m: Fleet, s: State, b: int, a: int, t: int, spent: float) -> bool:
    """Give a batch so many seconds, below 0 to take them; False where there is no piece left for it."""
    k = m.arc_config[a]
    i = s.first[b]
    while i >= 0 and not (s.piece[i, ARC] == a and s.piece[i, SLOT] == t):
        i = s.piece[i, NEXT]
    if i < 0 and not link(m, s, b, a, t, 0.0):
        return False
    if i < 0:
        i = s.first[b]
    touch(m, s, k)
    s.seconds[i] += spent
    if s.seconds[i] <= 1e-9 * m.slot_s[t]:
        spent -= s.seconds[i]
        unlink(m, s, i)
    late_g = m.late_g[m.batch_class[b]]
    units = s.left[b] - spent * m.rate[a]
    if units < DUST * m.work[b]:
        units = 0.0
    s.cost[0] += spent * m.run_g[a, t] + late_g * (units - s.left[b])
    s.left[b] = units
    s.busy[k, t] += spent
    for j in range(m.pool_at[k], m.pool_at[k + 1]):
        s.free_s[m.pool_of[j], t] -= spent * m.pool_gpus[j]
    return True


@lean
def write_down(s: State, b: int) -> bool:
    """A batch's pieces, before their first change of a try; False where there is no space for it."""
    if s.is_opened[b]:
        return True
    begun = s.count[LOGGED]
    i = s.first[b]
    while i >= 0:
        if s.count[LOGGED] >= s.log_s.size:
            s.count[LOGGED] = begun
            return False
        j = s.count[LOGGED]
        s.log[j, 0], s.log[j, 1], s.log[j, 2] = b, s.piece[i, ARC], s.piece[i, SLOT]
        s.log_s[j] = s.seconds[i]
        s.count[LOGGED] += 1
        i = s.piece[i, NEXT]
    s.is_opened[b] = True
    s.old_left[b] = s.left[b]
    s.opened[s.count[OPENED]] = b
    s.count[OPENED] += 1
    return True


@lean
def keep(m: Fleet, s: State) -> None:
    """What was tried stands."""
    for o in range(s.count[OPENED]):
        s.is_opened[s.opened[o]] = False
    s.count[OPENED] = s.count[LOGGED] = 0
    s.touched[:] = False
    s.old_cost[0] = s.cost[0]


@lean
def undo(m: Fleet, s: State) -> None:
    """All is as it was before the try."""
    for o in range(s.count[OPENED]):
        b = s.opened[o]
        while s.first[b] >= 0:
            unlink(m, s, s.first[b])
        s.left[b] = s.old_left[b]
    for j in range(s.count[LOGGED] - 1, -1, -1):
        link(m, s, s.log[j, 0], s.log[j, 1], s.log[j, 2], s.log_s[j])
    for k in range(m.loaded.size):
        if s.touched[k]:
            for t in range(m.slot_s.size):
                s.starts[k, t], s.held[k, t] = s.old_starts[k, t], s.old_held[k, t]
                s.busy[k, t], s.loading[k, t] = s.old_busy[k, t], s.old_loading[k, t]
    for p in range(s.free_s.shape[0]):
        if s.touched[m.loaded.size + p]:
            for t in range(m.slot_s.size):
                s.free_s[p, t], s.free_room[p, t] = s.old_free_s[p, t], s.old_free_room[p, t]
    s.cost[0] = s.old_cost[0]
    keep(m, s)


@lean
def sort(s: State, count: int) -> None:
    """The first so many of `opened` by their keys, least first."""
    for i in range(1, count):
        j, b = i, s.opened[i]
        while j > 0 and s.key[s.opened[j - 1]] > s.key[b]:
            s.opened[j] = s.opened[j - 1]
            j -= 1
        s.opened[j] = b
