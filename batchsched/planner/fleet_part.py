"""Part of a fleet's plan as a program of its own: some configurations in some slots, all else as it is.

What the freed cells work for each batch today is to be done there again, within the batch's window. Replicas are whole numbers,
work is counted in shares of a slot. What stands is always an answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from batchsched.planner.fleet_deal import deal
from batchsched.planner.fleet_model import FleetModel, Floats, Ints
from batchsched.planner.linear import Limit, LinearProgram

Flags = npt.NDArray[np.bool_]


class Pieces(NamedTuple):
    """Who works what: batch, arc, slot and replica-seconds, [N] each."""

    batch: Ints
    arc: Ints
    slot: Ints
    seconds: Floats

    def only(self, on: Flags) -> Pieces:
        """Some of them."""
        return Pieces(self.batch[on], self.arc[on], self.slot[on], self.seconds[on])

    def and_also(self, other: Pieces) -> Pieces:
        """Both."""
        batch, arc, slot = (np.concatenate(both) for both in zip(self[:3], other[:3], strict=True))
        return Pieces(batch, arc, slot, np.concatenate([self.seconds, other.seconds]))


@dataclass(frozen=True, eq=False)
class Part:
    """Least cost @ x, where rows @ x <= most and 0 <= x <= upper. First come the columns of work, then the whole ones."""

    cost: Floats
    upper: Floats
    now: Floats
    """What stands."""
    works: int
    """So many columns are not whole."""
    row: Ints
    column: Ints
    value: Floats
    """Of each entry."""
    most: Floats
    """Of each row."""
    run_id: Ints
    """[A, T] column, or -1; the same below, [K, T]."""
    starts_id: Ints
    held_id: Ints
    kept: Pieces
    """All other work."""
    asked: Floats
    """[B] units to be worked here."""
    starts: Ints
    held: Ints
    model: FleetModel

    @property
    def now_g(self) -> float:
        """Grams of what stands."""
        return float(self.cost @ self.now)

    def work_g(self, whole: Floats, limit: Limit) -> tuple[float, Floats]:
        """The cheapest work on these whole numbers: grams, and all columns; infinite where it does not fit."""
        lp = LinearProgram()
        lp.limit = limit
        upper, lower = self.upper.copy(), np.zeros(self.cost.size)
        upper[self.works :] = lower[self.works :] = whole
        lp.add_columns(self.cost, lower, upper)
        lp.add_rows(np.full(self.most.size, -np.inf), self.most)
        lp.add_entries(self.row, self.column, self.value)
        answer = lp.solve()
        return (float(self.cost @ answer.x), answer.x) if answer.optimal else (np.inf, answer.x)

    def plan(self, x: Floats) -> tuple[Pieces, Ints, Ints]:
        """All work, starts and held replicas [K, T] with this answer."""
        run = np.where(self.run_id >= 0, np.maximum(0.0, x[self.run_id]), 0.0) * self.model.slot_s
        rows, seconds, _ = deal(replace(self.model, work=self.asked), run)
        pieces = self.kept.and_also(Pieces(rows[:, 0], rows[:, 1], rows[:, 2], seconds))
        whole = np.round(x).astype(np.int64)
        starts = np.where(self.starts_id >= 0, whole[self.starts_id], self.starts)
        return pieces, starts, np.where(self.held_id >= 0, whole[self.held_id], self.held)


class _Rows:
    """Entries and sides as they come."""

    def __init__(self) -> None:
        self.entries: list[tuple[Ints, Ints, Floats]] = []
        self.most: list[Floats] = []
        self.count = 0

    def add(self, on: Flags, most: Floats) -> Ints:
        """Rows where `on`, with these sides; their numbers in its shape, -1 elsewhere."""
        ids = np.full(on.shape, -1)
        ids[on] = self.count + np.arange(int(on.sum()))
        self.count += int(on.sum())
        self.most.append(most[on])
        return ids

    def enter(self, row: Ints, column: Ints, value: Floats | float) -> None:
        """Coefficients where there are both."""
        row, column, value = np.broadcast_arrays(row, column, value)
        both = (row >= 0) & (column >= 0) & (value != 0)
        self.entries.append((row[both], column[both], np.asarray(value[both], float)))


def part(model: FleetModel, pieces: Pieces, starts: Ints, held: Ints, freed: Flags) -> Part:
    """All work of a plan, its starts and held replicas; `freed`: [K, T]."""
    mine = freed[model.arc_config[pieces.arc], pieces.slot]
    kept, freely = pieces.only(~mine), pieces.only(mine)
    present = np.zeros(model.run_g.shape)
    np.add.at(present, (freely.arc, freely.slot), freely.seconds)
    asked = np.bincount(freely.batch, freely.seconds * model.rate[freely.arc], minlength=model.work.size).astype(float)
    run_on = freed[model.arc_config] & _windows(model, asked)[model.arc_class]
    starts_on, held_on = _free(model, freed)
    run_id, starts_id, held_id = ids = _numbered(run_on, starts_on, held_on)
    rows = _Rows()
    busy = np.zeros(freed.shape)
    np.add.at(busy, (model.arc_config[kept.arc], kept.slot), kept.seconds / model.slot_s[kept.slot])
    _add_replicas(model, (starts, held, busy), freed, rows, ids)
    _add_work(model, asked, freed, rows, run_id)
    row, column, value = (np.concatenate(each) for each in zip(*rows.entries, strict=True))
    fits = np.array([np.min(np.maximum(model.capacity, model.room)[p] / model.gpus[k, p][:, None], axis=0)
                     for k, p in enumerate(np.flatnonzero(each) for each in model.gpus)])  # fmt: skip
    return Part(
        np.concatenate([(model.run_g * model.slot_s)[run_on], model.load_g[starts_on], model.hold_g[held_on]]),
        np.concatenate([fits[model.arc_config][run_on], *(np.maximum(np.ceil(fits), most)[on] for on, most in
                                                          ((starts_on, starts), (held_on, held)))]),
        np.concatenate([(present / model.slot_s)[run_on], starts[starts_on], held[held_on]]).astype(float),
        int(run_on.sum()), row, column, value, np.concatenate(rows.most), run_id, starts_id, held_id, kept,
        asked, starts, held, model,
    )  # fmt: skip


def _numbered(*tables: Flags) -> list[Ints]:
    """Columns where each table says so."""
    found, count = [], 0
    for on in tables:
        ids = np.full(on.shape, -1)
        ids[on] = count + np.arange(int(on.sum()))
        count += int(on.sum())
        found.append(ids)
    return found


def _windows(model: FleetModel, asked: Floats) -> Flags:
    """[C, T] slots in which some batch with work to be done here may run."""
    edge = np.zeros((model.classes, model.slots + 1), np.int64)
    mine = asked > 0
    np.add.at(edge, (model.batch_class[mine], model.release[mine]), 1)
    np.add.at(edge, (model.batch_class[mine], model.due[mine]), -1)
    out: Flags = np.cumsum(edge, axis=1)[:, :-1] > 0
    return out


def _free(model: FleetModel, freed: Flags) -> tuple[Flags, Flags]:
    """[K, T] each: starts that are over within the freed cells, and what is held from one of them to the next."""
    starts = freed.copy()
    for i in range(1, model.load_band.shape[2]):
        starts[:, :-i] &= freed[:, i:] | (model.load_band[:, :-i, i] <= 0)
    held = freed.copy()
    held[:, :-1] &= freed[:, 1:]
    held[:, -1] = False
    return starts, held


def _before(table: Ints, first: Ints) -> Ints:
    """Of the slot before; `first` of the first one."""
    return np.concatenate([first[:, None], table[:, :-1]], axis=1)


def _add_replicas(model: FleetModel, plan: tuple[Ints, Ints, Floats], freed: Flags, rows: _Rows, ids: list[Ints]) -> None:
    """Work and starts within ready replicas; what is held was held or begun; GPUs in time and at a slot's end.

    `plan`: its starts, held replicas and work elsewhere in shares of a slot, [K, T] each. `ids`: columns of work, starts, held.
    """
    run_id, starts_id, held_id = ids
    none = np.full(model.configs, -1)
    starts, held = np.where(starts_id < 0, plan[0], 0), np.where(held_id < 0, plan[1], 0)
    ready = _before(held, model.loaded) + starts
    loads, loading = [], np.zeros(freed.shape)
    for i in range(model.load_band.shape[2]):
        share = model.load_band[:, : model.slots - i, i] / model.slot_s[i:]
        loading[:, i:] += starts[:, : model.slots - i] * share
        loads.append((i, starts_id[:, : model.slots - i], share))
    within = rows.add(freed, ready - loading)
    rows.enter(within[model.arc_config], run_id, 1.0)
    rows.enter(within, starts_id, -1.0)
    rows.enter(within, _before(held_id, none), -1.0)
    stays = rows.add(freed, (ready - held).astype(float))
    rows.enter(stays, held_id, 1.0)
    rows.enter(stays, starts_id, -1.0)
    rows.enter(stays, _before(held_id, none), -1.0)
    busy = loading + plan[2]
    touched = model.gpus.T @ freed > 0
    time, room = rows.add(touched, model.capacity - model.gpus.T @ busy), rows.add(touched, model.room - model.gpus.T @ held)
    for i, column, share in loads:
        rows.enter(within[:, i:], column, share)
        for p in range(len(model.capacity)):
            rows.enter(time[p, i:], column, share * model.gpus[:, p, None])
    for p in range(len(model.capacity)):
        rows.enter(time[p], run_id, model.gpus[model.arc_config, p, None])
        rows.enter(room[p], held_id, model.gpus[:, p, None])


def _add_work(model: FleetModel, asked: Floats, freed: Flags, rows: _Rows, run_id: Ints) -> None:
    """For each class, from each release to each due time: what is asked for in between."""
    slots = np.flatnonzero(freed.any(axis=0))
    release, due = np.maximum(slots[0], model.release), np.minimum(slots[-1] + 1, model.due)
    for c in np.unique(model.batch_class[asked > 0]).tolist():
        mine = np.flatnonzero((model.batch_class == c) & (asked > 0))
        arcs = np.flatnonzero(model.arc_class == c)
        done = model.rate[arcs][:, None] * model.slot_s
        unit = float(done.max())
        for a, b, units in _stretches(release[mine], due[mine], asked[mine] / unit):
            row = rows.add(np.ones(1, bool), np.full(1, -units))
            rows.enter(row, run_id[arcs, a:b], -done[:, a:b] / unit)


def _stretches(release: Ints, due: Ints, units: Floats) -> Iterator[tuple[int, int, float]]:
    """From, until and units of what has to be done in between, where no shorter stretch asks for as much."""
    starts, i = np.unique(release, return_inverse=True)
    ends, j = np.unique(due, return_inverse=True)
    within = np.zeros((len(starts) + 1, len(ends) + 1))
    np.add.at(within, (i, j + 1), units)
    within = within[::-1].cumsum(axis=0)[::-1].cumsum(axis=1)
    least = 1e-9 * float(units.sum())
    for a, b in np.argwhere((within[:-1, 1:] > within[1:, 1:] + least) & (within[:-1, 1:] > within[:-1, :-1] + least)).tolist():
        yield int(starts[a]), int(ends[b]), float(within[a, b + 1])
