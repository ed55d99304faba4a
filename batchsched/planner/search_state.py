"""The state of the search for cheaper plans, as records that compiled code works on.

What is placed are pieces: so many seconds of a batch on an arc in a slot, within its window. Replicas are counted by
configuration and slot: begun, and kept at the slot's end.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from batchsched.planner.compiled import attributed
from batchsched.planner.fleet_bound import FleetPrices
from batchsched.planner.fleet_model import FleetModel, Floats, Ints

Records = Any
"""A numpy array of records; compiled code reads their fields as attributes, which type checkers do not know of."""
Flags = npt.NDArray[np.bool_]

LEAST_USE = 0.05
"""Share of a slot that must be left after a start for it to be of use there."""
FREE, PIECES, OPENED, LOGGED, WORK, RANDOM = range(6)
"""Counters: head of the unused pieces, pieces used, batches and pieces written down, places looked at, the random state."""

CELL = np.dtype([("starts", "i4"), ("held", "i4"), ("busy", "f8"), ("loading", "f8")], align=True)
"""Of a configuration in a slot. `busy`, `loading`: seconds of work and of starts."""
TERM = np.dtype([("load_g", "f8"), ("hold_g", "f8"), ("worth_g", "f8"), ("fresh_g", "f8"), ("fresh_s", "f8"),
                 ("fresh_from", "i4")], align=True)  # fmt: skip
"""Of the same, what does not change. `worth_g`: what the GPUs of a replica-second are worth elsewhere, as prices say.
`fresh_from`: where a replica begins whose first useful slot is this (-1: none does), `fresh_g`: its grams until there, `fresh_s`:
seconds that it can then work there."""
OFFER = np.dtype([("grams", "f8"), ("base_g", "f8"), ("whole_s", "f8"), ("at", "i4"), ("how", "i2"), ("known", "?")], align=True)
"""Of the same, what work could get there: seconds, on a replica that costs so many grams (`base_g` of them are not a start's),
how it comes about and from which slot. Worked out when it is asked for, and again when something near it has changed."""
POOL = np.dtype([("free_s", "f8"), ("free_room", "f8")], align=True)
"""Of a pool in a slot: GPU-seconds, and GPUs when it ends."""
CONFIG = np.dtype([("loaded", "i8"), ("takes_begin", "i8"), ("takes_end", "i8"), ("arcs_begin", "i8"), ("arcs_end", "i8"),
                   ("begin", "i8"), ("end", "i8"), ("stale_begin", "i8"), ("stale_end", "i8"), ("touched", "?"),
                   ("barred", "?")], align=True)  # fmt: skip
"""`touched`: written down; `begin`, `end`: between which slots it was changed since; `stale_`: and what it could get;
`barred`: it gets no further replica during this try."""
TAKES = np.dtype([("pool", "i8"), ("gpus", "f8")], align=True)
SITE = np.dtype([("begin", "i8"), ("end", "i8"), ("touched", "?")], align=True)
"""Of a pool, all slots: where its configurations stand in `configs_of`."""
ARC = np.dtype([("group", "i8"), ("config", "i8"), ("rate", "f8")], align=True)
GROUP = np.dtype([("arcs_begin", "i8"), ("arcs_end", "i8"), ("batches_begin", "i8"), ("batches_end", "i8")], align=True)
"""A class of batches."""
BATCH = np.dtype([("group", "i8"), ("release", "i8"), ("due", "i8"), ("work", "f8"), ("late_g", "f8"), ("left", "f8"),
                  ("first", "i8"), ("opened", "?"), ("old_left", "f8"), ("key", "f8")], align=True)  # fmt: skip
"""`left`: units not placed, late; `first`: its first piece; `opened`: written down; `key`: what it is ordered by."""
PIECE = np.dtype([("batch", "i8"), ("arc", "i8"), ("slot", "i8"), ("seconds", "f8"), ("next", "i8"), ("before", "i8"),
                  ("next_here", "i8"), ("before_here", "i8")], align=True)  # fmt: skip
"""`next`, `before`: pieces of the same batch; `_here`: those of the same configuration and slot."""
LOG = np.dtype([("batch", "i8"), ("arc", "i8"), ("slot", "i8"), ("seconds", "f8")], align=True)


class State(NamedTuple):
    """All that the search knows."""

    cost: Floats
    """Grams: now, before this try, and the least so far."""
    counts: Ints
    slot_s: Floats
    cell: Records
    """[K, T]"""
    old_cell: Records
    term: Records
    offer: Records
    pool: Records
    """[P, T]"""
    old_pool: Records
    config: Records
    site: Records
    takes: Records
    arc: Records
    group: Records
    batch: Records
    run_g: Floats
    band: Floats
    first_here: Ints
    """[K, T] first piece, or -1."""
    piece: Records
    log: Records
    """Pieces of the batches that were written down."""
    opened: Ints
    """Those batches, in order."""
    arcs_of: Ints
    batches_of: Ints
    config_arcs_of: Ints
    configs_of: Ints
    price: Floats
    """Scratch: of a class's arcs and slots; `shut` are overlooked; `least`: each arc's cheapest."""
    shut: Flags
    least: Ints


def nothing_placed(model: FleetModel, prices: FleetPrices | None, pieces: int, seed: int) -> State:
    """All work late, what is loaded let go."""
    (k, t), b = model.load_g.shape, model.work.size
    takes_at, pool_of = _rows(model.gpus > 0)
    configs_at, configs_of = _rows(model.gpus.T > 0)
    arcs_at, arcs_of = _groups(model.arc_class, model.classes)
    batches_at, batches_of = _groups(model.batch_class, model.classes)
    config_arcs_at, config_arcs_of = _groups(model.arc_config, k)
    gpus = model.gpus[np.repeat(np.arange(k), np.diff(takes_at)), pool_of]
    worth = model.gpus @ prices.gpu if prices is not None else np.zeros((k, t))
    fresh_from, fresh_g, fresh_s = _fresh(model)
    cell = _records(CELL, (k, t))
    term = _records(TERM, (k, t), load_g=model.load_g, hold_g=model.hold_g, worth_g=worth, fresh_from=fresh_from,
                    fresh_g=fresh_g, fresh_s=fresh_s)  # fmt: skip
    pool = _records(POOL, model.capacity.shape, free_s=model.capacity * model.slot_s, free_room=model.room)
    piece = _records(PIECE, pieces, next=np.append(np.arange(1, pieces), -1))
    count = np.zeros(6, np.int64)
    count[RANDOM] = 0x5DEECE66D ^ seed
    arcs = int(np.bincount(model.arc_class, minlength=1).max())
    return State(
        cost=np.full(3, float(model.lost_g @ model.work)), counts=count, slot_s=model.slot_s.astype(float),
        cell=cell, old_cell=cell.copy(), term=term, offer=_records(OFFER, (k, t)), pool=pool, old_pool=pool.copy(),
        config=_records(CONFIG, k, loaded=model.loaded, takes_begin=takes_at[:-1], takes_end=takes_at[1:],
                        arcs_begin=config_arcs_at[:-1], arcs_end=config_arcs_at[1:]),
        site=_records(SITE, len(pool), begin=configs_at[:-1], end=configs_at[1:]),
        takes=_records(TAKES, len(pool_of), pool=pool_of, gpus=gpus),
        arc=_records(ARC, len(model.rate), group=model.arc_class, config=model.arc_config, rate=model.rate),
        group=_records(GROUP, model.classes, arcs_begin=arcs_at[:-1], arcs_end=arcs_at[1:],
                       batches_begin=batches_at[:-1], batches_end=batches_at[1:]),
        batch=_records(BATCH, b, group=model.batch_class, release=model.release, due=np.minimum(model.due, t), work=model.work,
                       late_g=model.lost_g,
                       left=model.work, first=-1),
        run_g=np.ascontiguousarray(model.run_g, float), band=np.ascontiguousarray(model.load_band),
        first_here=np.full((k, t), -1), piece=piece, log=_records(LOG, pieces), opened=np.zeros(b, np.int64),
        arcs_of=arcs_of, batches_of=batches_of, config_arcs_of=config_arcs_of, configs_of=configs_of,
        price=np.zeros(arcs * t), shut=np.zeros(arcs * t, bool), least=np.zeros(arcs, np.int64),
    )  # fmt: skip


def with_more_pieces(s: State) -> State:
    """The same with twice as many pieces; nothing may be written down."""
    size = len(s.piece)
    more = _records(PIECE, size, next=np.append(np.arange(size + 1, 2 * size), s.counts[FREE]))
    piece = attributed(np.concatenate([s.piece, more]))
    s.counts[FREE] = size
    return s._replace(piece=piece, log=_records(LOG, 2 * size))


def used_pieces(s: State) -> Records:
    """All that is placed."""
    return s.piece[s.piece["seconds"] > 0]


def _records(dtype: np.dtype[Any], shape: int | tuple[int, ...], **fields: npt.ArrayLike) -> Records:
    out = np.zeros(shape, dtype)
    for name, values in fields.items():
        out[name] = values
    return attributed(out)


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
    return np.searchsorted(row, np.arange(wanted.shape[0] + 1)), np.ascontiguousarray(column)


def _groups(of: Ints, count: int) -> tuple[Ints, Ints]:
    """Where each group's members begin, and the members."""
    order = np.argsort(of, kind="stable")
    return np.searchsorted(of[order], np.arange(count + 1)), order
