"""Which stretches of time ask for how much of a class's work: interval (Hall) rows.

For every release a and due time b, what is done within [a, b) must cover the batches that are released at a or later and due by
b. These rows are just what lets earliest deadline first deal a class's work to its batches. There are T squared of them for each
class; the solver sees those that its present answer breaks.
"""

from __future__ import annotations

import numpy as np

from batchsched.planner.fleet_model import FleetModel, Floats, Ints

_TOLERANCE = 1e-7
"""Share of a row's demand that may be missing."""


class Demand:
    """The rows of one instance, in units of the mean batch of each class, so that figures are near 1."""

    def __init__(self, model: FleetModel) -> None:
        t, c = model.slots, model.classes
        count = np.bincount(model.batch_class, minlength=c)
        total = np.bincount(model.batch_class, model.work, minlength=c)
        self.unit: Floats = np.where(total > 0, total / np.maximum(1, count), 1.0)
        """[C] units of work that count as 1 here."""
        possible = model.due > model.release
        asked = np.zeros((c, t + 1, t + 1))
        size = model.work / self.unit[model.batch_class]
        np.add.at(asked, (model.batch_class[possible], model.release[possible], model.due[possible]), size[possible])
        asked = np.cumsum(np.cumsum(asked[:, ::-1], axis=1)[:, ::-1], axis=2)
        self.within: Floats = np.triu(asked, 1)
        """[C, T+1, T+1] work released at the second index or later and due by the third."""

    def missing(self, done: Floats) -> Ints:
        """[N, 3] the worst rows (class, from, until) that cumulative work `done` [C, T+1] breaks: one each end, at most."""
        gap = self.within - (done[:, None, :] - done[:, :, None])
        gap[gap <= _TOLERANCE * (1.0 + self.within)] = 0.0
        gap[self.within <= 0] = 0.0
        c, b = np.nonzero(gap.max(axis=1))
        by_end = np.stack([c, gap.argmax(axis=1)[c, b], b], axis=1)
        c, a = np.nonzero(gap.max(axis=2))
        by_start = np.stack([c, a, gap.argmax(axis=2)[c, a]], axis=1)
        rows: Ints = np.unique(np.concatenate([by_end, by_start]), axis=0)
        return rows

    def asked(self, rows: Ints) -> Floats:
        """[N] work that these rows ask for."""
        found: Floats = self.within[rows[:, 0], rows[:, 1], rows[:, 2]]
        return found
