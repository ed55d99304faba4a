"""The class model of an instance as one linear program: what the whole-model solvers get, and whose relaxation is the bound.

Columns: run[a, t] as a share of a slot; starts[k, t] and held[k, t], whole; lost[c, t], work of a class given up at the end of a
slot; sums[c, t], work done or given up by then, in units of a busy replica-slot. Rows: the rules of the array model
(fleet_model.py), and for each release a and due time b of a class, sums[c, b] - sums[c, a] covers what is released at a or
later and due by b. These rows are what makes serving by earliest deadline possible. What is given up may be counted for a batch
that was released before a, so that the relaxation is a lower bound whatever is late.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from batchsched.planner.fleet_model import FleetPlan, Floats, Ints
from benchmarks.planner.instance import Instance

Bools = npt.NDArray[np.bool_]
Row = tuple[int, int, int]
"""Class, release, deadline."""


@dataclass
class Columns:
    """Bounds, cost and integrality of columns; appended in blocks."""

    upper: list[Floats] = field(default_factory=list)
    cost: list[Floats] = field(default_factory=list)
    whole: list[Bools] = field(default_factory=list)
    count: int = 0

    def add(self, upper: Floats, cost: Floats, whole: bool) -> int:
        """The first of the new columns' numbers."""
        first = self.count
        self.upper.append(np.asarray(upper, float))
        self.cost.append(np.asarray(cost, float))
        self.whole.append(np.full(len(cost), whole))
        self.count += len(cost)
        return first


@dataclass
class Rows:
    """Sparse rows lower <= row <= upper."""

    lower: list[Floats] = field(default_factory=list)
    upper: list[Floats] = field(default_factory=list)
    entries: list[tuple[Ints, Ints, Floats]] = field(default_factory=list)
    count: int = 0

    def add(self, lower: Floats | Ints, upper: Floats | Ints) -> Ints:
        """The numbers of the new rows."""
        numbers = np.arange(self.count, self.count + len(lower))
        self.lower.append(np.asarray(lower, float))
        self.upper.append(np.asarray(upper, float))
        self.count += len(lower)
        return numbers

    def put(self, rows: Ints, columns: Ints, values: Floats | Ints | float) -> None:
        """Coefficients."""
        self.entries.append((rows, columns, np.broadcast_to(np.asarray(values, float), rows.shape)))


class ClassModel:
    """Without its interval rows, which `intervals` lists. For starts that are no longer than their slot."""

    def __init__(self, instance: Instance) -> None:
        self.instance, self.model = instance, instance.model
        if (self.model.load_s[:, None] > self.model.slot_s).any():
            raise ValueError("A start takes longer than a slot.")
        self.columns, self.rows = Columns(), Rows()
        done = self.model.rate[:, None] * self.model.slot_s[None]
        self.unit = np.zeros(self.model.classes)
        """[C] units of work that count as one in the rows of a class."""
        np.maximum.at(self.unit, self.model.arc_class, done.max(axis=1))
        self._add_columns()
        self._add_replicas()
        self._add_sums()

    @cached_property
    def demands(self) -> list[tuple[Ints, Ints, Floats]]:
        """Of each class: its releases, its due times, and [release, due] what must be done in between, in its unit."""
        found = []
        m = self.model
        for c in range(m.classes):
            mine = np.flatnonzero((m.batch_class == c) & (m.due > m.release))
            starts, i = np.unique(m.release[mine], return_inverse=True)
            ends, j = np.unique(m.due[mine], return_inverse=True)
            due = np.zeros((len(starts), len(ends)))
            np.add.at(due, (i, j), m.work[mine] / self.unit[c])
            found.append((starts, ends, due[::-1].cumsum(axis=0)[::-1].cumsum(axis=1)))
        return found

    def intervals(self) -> list[Row]:
        """Every row that no other one implies."""
        found = []
        for c, (starts, ends, due) in enumerate(self.demands):
            shorter_a = np.vstack([due[1:], np.zeros((1, len(ends)))])
            shorter_b = np.hstack([np.zeros((len(starts), 1)), due[:, :-1]])
            for i, j in np.argwhere((due > shorter_a + 1e-9) & (due > shorter_b + 1e-9)):
                found.append((c, int(starts[i]), int(ends[j])))
        return found

    def needed(self, row: Row) -> float:
        """What an interval row asks for."""
        c, a, b = row
        starts, ends, due = self.demands[c]
        return float(due[np.searchsorted(starts, a), np.searchsorted(ends, b)])

    def plan(self, values: Floats) -> FleetPlan:
        """Of a whole solution; what it left undone is late."""
        from batchsched.planner.fleet_verify import fleet_cost, missed

        m = self.model
        run = np.zeros(m.run_g.shape)
        run[self.run_at] = np.maximum(0.0, values[self.run[self.run_at]]) * m.slot_s[self.run_at[1]]
        starts, held = (np.round(values[at]).astype(np.int64) for at in (self.starts, self.held))
        late = np.zeros(len(m.work))
        done = np.zeros((m.classes, m.slots))
        np.add.at(done, m.arc_class, run * m.rate[:, None])
        for c in range(m.classes):
            mine = np.flatnonzero(m.batch_class == c)
            late[mine] = missed(m.release[mine], m.due[mine], m.work[mine], done[c])
        late[late < 1e-7 * m.work] = 0.0
        plan = FleetPlan(run, starts, held, late, 0.0, 0.0)
        return FleetPlan(run, starts, held, late, fleet_cost(m, plan), 0.0)

    def _add_columns(self) -> None:
        m = self.model
        first = np.full(m.classes, m.slots)
        last = np.zeros(m.classes, np.int64)
        np.minimum.at(first, m.batch_class, m.release)
        np.maximum.at(last, m.batch_class, m.due)
        slot = np.arange(m.slots)
        asked = (slot >= first[m.arc_class][:, None]) & (slot < last[m.arc_class][:, None])
        most = m.capacity[self.instance.pool] / m.gpus.max(axis=1)[:, None]
        self.run_at = np.nonzero(asked & (most[m.arc_config] > 0))
        self.run = np.full(m.run_g.shape, -1)
        a, t = self.run_at
        self.run[a, t] = self.columns.add(most[m.arc_config[a], t], (m.run_g * m.slot_s)[a, t], False) + np.arange(len(a))
        grid = np.arange(m.load_g.size).reshape(m.load_g.shape)
        held = np.floor(m.room[self.instance.pool] / m.gpus.max(axis=1)[:, None])
        self.starts = grid + self.columns.add(np.ceil(most).ravel(), m.load_g.ravel(), True)
        self.held = grid + self.columns.add(held.ravel(), m.hold_g.ravel(), True)
        loss = np.repeat(m.late_g * self.unit, m.slots)
        self.lost = self.columns.add(np.full(loss.shape, np.inf), loss, False) + np.arange(loss.size).reshape(m.classes, m.slots)
        upper = np.full((m.classes, m.slots + 1), np.inf)
        upper[:, 0] = 0.0
        numbers = np.arange(upper.size).reshape(upper.shape)
        self.sums = self.columns.add(upper.ravel(), np.zeros(upper.size), False) + numbers

    def _add_replicas(self) -> None:
        """Engines ready, held, and their GPUs; time in slots."""
        m, (a, t) = self.model, self.run_at
        k, p, loads = m.arc_config[a], self.instance.pool, m.load_s[:, None] / m.slot_s
        loaded = np.zeros(m.load_g.shape)
        loaded[:, 0] = m.loaded
        self.ready = self.rows.add(np.full(loaded.size, -np.inf), loaded.ravel()).reshape(loaded.shape)
        self.rows.put(self.ready[k, t], self.run[a, t], 1.0)
        self.rows.put(self.ready.ravel(), self.starts.ravel(), (loads - 1.0).ravel())
        self.rows.put(self.ready[:, 1:].ravel(), self.held[:, :-1].ravel(), -1.0)
        kept = self.kept = self.rows.add(np.full(loaded.size, -np.inf), loaded.ravel()).reshape(loaded.shape)
        self.rows.put(kept.ravel(), self.held.ravel(), 1.0)
        self.rows.put(kept.ravel(), self.starts.ravel(), -1.0)
        self.rows.put(kept[:, 1:].ravel(), self.held[:, :-1].ravel(), -1.0)
        shape = m.capacity.shape
        time = self.time = self.rows.add(np.full(m.capacity.size, -np.inf), m.capacity.ravel()).reshape(shape)
        room = self.room = self.rows.add(np.full(m.room.size, -np.inf), m.room.ravel()).reshape(shape)
        need = m.gpus.max(axis=1)
        self.rows.put(time[p[k], t], self.run[a, t], need[k])
        self.rows.put(time[p].ravel(), self.starts.ravel(), (loads * need[:, None]).ravel())
        self.rows.put(room[p].ravel(), self.held.ravel(), np.repeat(need, m.slots))

    def _add_sums(self) -> None:
        m, (a, t) = self.model, self.run_at
        c = m.arc_class[a]
        zeros = np.zeros(self.lost.size)
        self.adds = self.rows.add(zeros, zeros + np.inf).reshape(self.lost.shape)
        self.rows.put(self.adds[c, t], self.run[a, t], m.rate[a] * m.slot_s[t] / self.unit[c])
        self.rows.put(self.adds.ravel(), self.lost.ravel(), 1.0)
        self.rows.put(self.adds.ravel(), self.sums[:, 1:].ravel(), -1.0)
        self.rows.put(self.adds.ravel(), self.sums[:, :-1].ravel(), 1.0)
