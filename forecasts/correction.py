"""How far to move a forecast by its late errors: weights by lead, a zone's own shrunk towards those that most zones share.

Arrays of logarithms, hours counted from the epoch, errors outcome less forecast, NaN where unknown. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from batchsched.forecasts.models.history import DAY_H, Floats, Integers

LEADS_H = 96
INPUTS = 4
FURTHEST = 0.7  # no error moves a forecast by more than twofold
_EDGES = np.array([0, 1, 3, 6, 12, 24, 48])
_BIN = np.searchsorted(_EDGES, np.arange(LEADS_H), side="right") - 1
# What CarbonCast's errors of July to December 2021 gave, over twelve zones in the United States and Europe. A row a bin of lead;
# the columns are those of `inputs`.
_SHARED = np.array(
    [
        [0.48, 0.29, 0.08, 0.06],
        [0.41, 0.22, 0.10, 0.12],
        [0.27, 0.19, 0.14, 0.16],
        [0.11, 0.31, 0.09, 0.20],
        [0.09, 0.28, 0.06, 0.28],
        [0.12, 0.22, 0.04, 0.17],
        [0.10, 0.13, -0.04, 0.18],
    ]
)
# So many issues, with late errors a little smaller than those that they are to explain, is the shared knowledge worth.
_WORTH = 60.0
_USUAL = 0.3 * (np.eye(INPUTS) + 1)


def inputs(errors: Floats, since: Floats, place: int, known: int) -> Floats:
    """What moves a forecast used at `place`, for each lead: [96, 4]. All zero while nothing of it has come true.

    `errors`: hour by hour, of the forecasts that were in force, up to place `known`. `since`: those of this very forecast, from
    its issue up to `known`. The columns: its last error, its last three, all of the last day, and that at the same hour of the
    last known day.
    """
    found = np.zeros((LEADS_H, INPUTS))
    late = since[np.isfinite(since)]
    if not late.size:
        return found
    day = errors[max(known - DAY_H, 0) : known]
    day = day[np.isfinite(day)]
    lead = np.arange(LEADS_H)
    same = place + lead - DAY_H * ((place - known + lead) // DAY_H + 1)
    found[:, 0] = late[-1]
    found[:, 1] = late[-3:].mean()
    found[:, 2] = day.mean() if day.size else 0.0
    found[:, 3] = np.where(same >= 0, np.nan_to_num(errors[np.maximum(same, 0)]), 0.0)
    return np.clip(found, -FURTHEST, FURTHEST)


@dataclass
class Weights:
    """One zone's, of one source: sums of products by bin of lead, to which what came true is added once."""

    gram: Floats = field(default_factory=lambda: np.zeros((len(_EDGES), INPUTS, INPUTS)))
    cross: Floats = field(default_factory=lambda: np.zeros((len(_EDGES), INPUTS)))
    square: Floats = field(default_factory=lambda: np.zeros(len(_EDGES)))
    count: Floats = field(default_factory=lambda: np.zeros(len(_EDGES)))

    def add(self, lead: Integers, seen: Floats, errors: Floats) -> None:
        """Outcomes: the lead of each, the inputs that were seen, [outcomes, 4], and the error of the forecast as issued."""
        place = _BIN[lead]
        np.add.at(self.gram, place, seen[:, :, None] * seen[:, None, :])
        np.add.at(self.cross, place, seen * errors[:, None])
        np.add.at(self.square, place, errors**2)
        np.add.at(self.count, place, 1)

    def move(self, seen: Floats) -> Floats:
        """What to add to the logarithm at each lead."""
        scale = np.where(self.count > 0, self.square / np.maximum(self.count, 1), 1.0)
        scale = np.maximum(scale, 1e-6)
        prior = (_WORTH * np.bincount(_BIN))[:, None, None] * _USUAL
        right = self.cross / scale[:, None] + np.einsum("bij,bj->bi", prior, _SHARED)
        weights = np.linalg.solve(self.gram / scale[:, None, None] + prior, right[..., None])[..., 0]
        moved: Floats = np.clip(np.einsum("lp,lp->l", seen, weights[_BIN]), -FURTHEST, FURTHEST)
        return moved
