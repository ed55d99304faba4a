"""The linear program of a fleet's work: who runs where and when, columns and interval rows as they are called for.

Columns: run[a, t] where asked for, late[c, t], and done[c, t], a class's work until a slot begins: late work counts as done,
dearly, so there is always an answer. Rows: GPUs in time, the sums that make `done`, and interval rows, of just two entries each.
Engine starts are left out: without them the program is solved in a second at fleet size. fleet_replicas.py adds them to the
solved program, whose basis then is most of the way to theirs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from batchsched.planner.fleet_bound import FleetPrices
from batchsched.planner.fleet_demand import Demand
from batchsched.planner.fleet_model import FleetModel, Floats, Ints
from batchsched.planner.linear import Answer, Limit, LinearProgram

Flags = npt.NDArray[np.bool_]

MOST_APART = 1e5
"""Late work costs at most so many of the program's units of cost."""
HOUR_S = 3600.0
"""Time is in hours within the program, so that figures stay near 1."""


@dataclass(frozen=True, eq=False)
class Relaxed:
    """An answer in the model's terms."""

    cost_g: float
    """Of work and lateness; of starts and holding too where they are columns."""
    run: Floats
    """[A, T] replica-seconds."""
    late_units: Floats
    """[C, T] work given up, at the end of the slot at the latest."""
    done: Floats
    """[C, T+1] in the demand's units."""
    worth: Floats
    """[C, T] grams that a unit of work done in a slot saves."""
    prices: FleetPrices


@dataclass(frozen=True, eq=False)
class Basis:
    """Where a solved program stands, for another one of the same shapes: columns and rows in MathOpt's numbers."""

    run: Ints
    """[A, T]; -1 where there is no column."""
    late: Ints
    """[C, T]."""
    done: Ints
    """[C, T+1]."""
    gpus: Ints
    """[P, T]."""
    sums: Ints
    """[C, T]."""
    intervals: Ints
    """[N, 3] the interval rows."""
    interval: Ints
    """[N] where they stand."""


class FleetLp:
    """The program; the basis is kept from solve to solve."""

    def __init__(self, model: FleetModel, demand: Demand, charge: Floats, limit: Limit | None = None) -> None:
        self.model, self.demand = model, demand
        self.charge = charge
        """[K, T] grams of a ready replica-second, paid by the work that it does."""
        self.lp = LinearProgram()
        self.lp.limit = limit or Limit()
        self.hours = model.slot_s / HOUR_S
        self.scale = _scale(model, demand)
        """Steps of the program's cost a gram, so that figures stay near 1."""
        hopeless = model.due <= model.release
        self._lost_g = float(model.late_g[model.batch_class[hopeless]] @ model.work[hopeless])
        self.run_id = np.full(model.run_g.shape, -1)
        self.ready_id = np.full((model.configs, model.slots), -1)
        """[K, T] rows that keep work within ready replicas, put there by fleet_replicas.py; -1 where there is none."""
        self.intervals: Ints = np.zeros((0, 3), np.int64)
        self._interval_row: Ints = np.zeros(0, np.int64)
        self._entries: list[tuple[Ints, Ints, Floats]] = []
        zero = np.zeros((model.classes, model.slots))
        self._late = self.columns(np.repeat((model.late_g * demand.unit)[:, None], model.slots, axis=1))
        most = np.full((model.classes, model.slots + 1), np.inf)
        most[:, 0] = 0.0
        self._done = self.columns(np.zeros(most.shape), most)
        self.gpu_row = self.rows(np.full(model.capacity.shape, -np.inf), model.capacity * self.hours)
        self.done_row = self.rows(zero, zero)
        self.enter(self.done_row, self._done[:, 1:], 1.0)
        self.enter(self.done_row, self._done[:, :-1], -1.0)
        self.enter(self.done_row, self._late, -1.0)

    def add_runs(self, wanted: Flags) -> int:
        """Add run columns for the places of `wanted` [A, T] that have none yet; how many."""
        a, t = np.nonzero(wanted & (self.run_id < 0))
        m = self.model
        k, c = m.arc_config[a], m.arc_class[a]
        ids = self.columns((m.run_g[a, t] + self.charge[k, t]) * HOUR_S)
        self.run_id[a, t] = ids
        self.enter_gpus(k, t, ids, np.ones(k.shape))
        limited = self.ready_id[k, t] >= 0
        self.enter(self.ready_id[k, t][limited], ids[limited], 1.0)
        self.enter(self.done_row[c, t], ids, -m.rate[a] * HOUR_S / self.demand.unit[c])
        return int(a.size)

    def enter_gpus(self, k: Ints, t: Ints, columns: Ints, hours: Floats) -> None:
        """Columns of these configurations take their GPUs in these slots, for so many hours a unit."""
        for p in range(self.model.capacity.shape[0]):
            takes = self.model.gpus[k, p] > 0
            self.enter(self.gpu_row[p, t[takes]], columns[takes], self.model.gpus[k[takes], p] * hours[takes])

    def add_intervals(self, rows: Ints) -> None:
        """Add interval rows (class, from, until)."""
        ids = self.lp.add_rows(self.demand.asked(rows), np.full(len(rows), np.inf))
        self.enter(ids, self._done[rows[:, 0], rows[:, 2]], 1.0)
        self.enter(ids, self._done[rows[:, 0], rows[:, 1]], -1.0)
        self.intervals = np.concatenate([self.intervals, rows])
        self._interval_row = np.concatenate([self._interval_row, ids])

    def basis(self) -> Basis:
        """Where the last solve ended; of what was added since, nothing."""
        column, row = self.lp.column_status, self.lp.row_status
        run = np.where((self.run_id >= 0) & (self.run_id < column.size), column[np.minimum(self.run_id, column.size - 1)], -1)
        known = self._interval_row < row.size
        return Basis(run, column[self._late], column[self._done], row[self.gpu_row], row[self.done_row],
                     self.intervals[known], row[self._interval_row[known]])  # fmt: skip

    def resume(self, basis: Basis) -> None:
        """Take the columns and rows of another program of the same shapes, before any others, and begin where it stands."""
        self.add_runs(basis.run >= 0)
        self.add_intervals(basis.intervals)
        column, row = np.zeros(self.lp.columns, np.int64), np.zeros(self.lp.rows, np.int64)
        has = self.run_id >= 0
        column[self.run_id[has]], column[self._late], column[self._done] = basis.run[has], basis.late, basis.done
        row[self.gpu_row], row[self.done_row], row[self._interval_row] = basis.gpus, basis.sums, basis.interval
        self.lp.stand(column, row)

    def solve(self) -> Answer:
        """Solve as it stands."""
        self.flush()
        return self.lp.solve()

    def flush(self) -> None:
        """Hand over the coefficients that wait."""
        if self._entries:
            rows, columns, values = (np.concatenate(part) for part in zip(*self._entries, strict=True))
            self.lp.add_entries(rows, columns, values)
            self._entries = []

    def relaxed(self, answer: Answer) -> Relaxed:
        """An answer in the model's terms."""
        x, price = answer.x, answer.price / self.scale
        run = np.where(self.run_id >= 0, x[self.run_id], 0.0) * HOUR_S
        return Relaxed(
            answer.cost / self.scale + self._lost_g,
            np.maximum(0.0, run),
            x[self._late] * self.demand.unit[:, None],
            x[self._done],
            -price[self.done_row] / self.demand.unit[:, None],
            self.prices(price),
        )

    def prices(self, price: Floats) -> FleetPrices:
        """Prices from the rows' dual values in grams."""
        ready = np.where(self.ready_id >= 0, -price[self.ready_id], 0.0) / HOUR_S
        gpu = -price[self.gpu_row] / HOUR_S
        return FleetPrices(np.maximum(0.0, gpu), np.zeros_like(self.model.room), np.maximum(0.0, self.charge + ready))

    def columns(self, cost: Floats, upper: Floats | float = np.inf) -> Ints:
        """New columns from 0 to `upper` with their grams, numbered in the shape of `cost`."""
        flat = cost.ravel() * self.scale
        most = np.broadcast_to(np.asarray(upper, float), cost.shape).ravel()
        return self.lp.add_columns(flat, np.zeros(len(flat)), most).reshape(cost.shape)

    def rows(self, lower: Floats, upper: Floats) -> Ints:
        """New rows, numbered in the shape of their sides."""
        return self.lp.add_rows(lower.ravel(), upper.ravel()).reshape(lower.shape)

    def enter(self, rows: Ints, columns: Ints, values: Floats | float) -> None:
        """Coefficients for the next solve; shapes are broadcast."""
        shape = np.broadcast_shapes(rows.shape, columns.shape)
        value = np.broadcast_to(np.asarray(values, float), shape).ravel()
        self._entries.append((np.broadcast_to(rows, shape).ravel(), np.broadcast_to(columns, shape).ravel(), value))


def _scale(model: FleetModel, demand: Demand) -> float:
    cheapest = np.full(model.classes, np.inf)
    np.minimum.at(cheapest, model.arc_class, model.unit_g.min(axis=1, initial=np.inf))
    used = cheapest * demand.unit
    used = used[np.isfinite(used) & (used > 0)]
    dearest = float((model.late_g * demand.unit).max(initial=0.0))
    usual = float(np.median(used)) if used.size else 1.0
    return 1.0 / max(usual, dearest / MOST_APART)  # beyond that GLOP loses its way
