"""The class model of an instance as one linear program: what the whole-model solvers get, and whose relaxation is the bound.

Columns: x[c, m, p, t] replicas for a class; l[m, p, t] loads; z[c, t] requests of a class lost at the end of a slot; S[c, t]
requests done or lost by then. Rows: capacity; loads; S adds up; and for each release a and deadline b of a class,
S[c, b] - S[c, a] covers what is released at a or later and due by b. These rows are what makes serving by earliest deadline
possible. Losing may be counted for a batch that was released before a, so that the relaxation is a lower bound whatever is lost.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from benchmarks.planner.instance import Bools, Floats, Instance, Ints

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
    """Without its interval rows, which `intervals` lists."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.columns, self.rows = Columns(), Rows()
        self.unit = np.array([instance.done[able].max(initial=1e-9) for _, able in instance.classes])
        """Requests of a class that count as one in its rows."""
        self._add_replicas()
        self._add_loads()
        self._add_sums()

    @cached_property
    def demands(self) -> list[tuple[Ints, Ints, Floats]]:
        """Of each class: its releases, its deadlines, and [release, deadline] what must be done in between, in its unit."""
        found = []
        for (mine, _), unit in zip(self.instance.classes, self.unit, strict=True):
            starts, i = np.unique(self.instance.release[mine], return_inverse=True)
            ends, j = np.unique(self.instance.deadline[mine], return_inverse=True)
            due = np.zeros((len(starts), len(ends)))
            np.add.at(due, (i, j), self.instance.work[mine] / unit)
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

    def replicas(self, values: Floats) -> Ints:
        """[C, M, P, T] of a whole solution."""
        found = np.zeros((len(self.instance.classes), *self.instance.shape), np.int64)
        found[self.x_at] = np.round(values[self.x_first : self.x_first + len(self.x_at[0])]).astype(np.int64)
        return found

    def _add_replicas(self) -> None:
        it = self.instance
        slots = np.arange(it.shape[2])
        able = np.array([able for _, able in it.classes])
        open_to = np.array([(slots >= it.release[b].min()) & (slots < it.deadline[b].max()) for b, _ in it.classes])
        self.most = np.where(it.need[:, :, None] > 0, it.capacity[None] // np.maximum(1, it.need)[:, :, None], 0)
        self.x_at = np.nonzero(able[:, :, :, None] & open_to[:, None, None, :] & (self.most > 0)[None])
        _, m, p, t = self.x_at
        self.x_first = self.columns.add(self.most[m, p, t], it.replica_g[m, p, t], True)
        used = np.zeros(it.shape[1:], bool)
        used[p, t] = True
        number = np.full(it.shape[1:], -1)
        number[used] = self.rows.add(np.full(int(used.sum()), -np.inf), it.capacity[used])
        self.rows.put(number[p, t], self.x_first + np.arange(len(t)), it.need[m, p])

    def _add_loads(self) -> None:
        it = self.instance
        _, m, p, t = self.x_at
        used = np.zeros(it.shape, bool)
        used[m, p, t] = True
        self.l_at = np.nonzero(used)
        number = np.full(it.shape, -1)
        lm, lp, lt = self.l_at
        self.l_first = self.columns.add(self.most[self.l_at], it.load_g[self.l_at], True)
        held = np.where(lt == 0, it.held[lm, lp], 0)
        number[self.l_at] = self.rows.add(-held.astype(float), np.full(len(lt), np.inf))
        x = self.x_first + np.arange(len(t))
        self.rows.put(number[self.l_at], self.l_first + np.arange(len(lt)), 1.0)  # l - n[t] + n[t-1] >= 0, or -held
        self.rows.put(number[m, p, t], x, -1.0)
        after = t + 1 < it.shape[2]
        after[after] = used[m[after], p[after], t[after] + 1]
        self.rows.put(number[m[after], p[after], t[after] + 1], x[after], 1.0)

    def _add_sums(self) -> None:
        it = self.instance
        classes, slots = len(it.classes), it.shape[2]
        loss = np.array([it.late_g[mine].min() * unit for (mine, _), unit in zip(it.classes, self.unit, strict=True)])
        self.lost = self.columns.add(np.full(classes * slots, np.inf), np.repeat(loss, slots), False) + np.arange(
            classes * slots
        ).reshape(classes, slots)
        upper = np.full((classes, slots + 1), np.inf)
        upper[:, 0] = 0.0
        self.sums = self.columns.add(upper.ravel(), np.zeros(upper.size), False) + np.arange(upper.size).reshape(upper.shape)
        adds = self.adds = self.rows.add(np.zeros(classes * slots), np.full(classes * slots, np.inf)).reshape(classes, slots)
        c, m, p, t = self.x_at
        self.rows.put(adds[c, t], self.x_first + np.arange(len(t)), it.done[m, p, t] / self.unit[c])
        self.rows.put(adds.ravel(), self.lost.ravel(), 1.0)
        self.rows.put(adds.ravel(), self.sums[:, 1:].ravel(), -1.0)
        self.rows.put(adds.ravel(), self.sums[:, :-1].ravel(), 1.0)
