"""Has a pool changed its speed for good? An engine update, a GPU that throttles, a neighbour that moved in.

A test for one change of the mean: of all ways to cut the observations in an earlier and a later part, the one whose means differ
most against what single observations scatter. The scatter is taken from neighbours in time, which a change moves only once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from batchsched.profiles.profile import Drift

EACH_SIDE = 5
"""Observations that a part must have at least."""
SURE = 4.5
"""Standard errors between the two means: what is steady passes this in about one of a hundred histories of a hundred chunks."""
LEAST = math.log(1.2)
"""A smaller change is no drift, however sure it is."""
LEAST_SCATTER = 0.05


class Caution(NamedTuple):
    """What it takes: the least change of the mean that counts, and the least that observations are taken to scatter."""

    least: float = LEAST
    scatter: float = LEAST_SCATTER


OF_CHUNKS = Caution()
OF_PIECES = Caution(math.log(1.5), 0.15)
"""Pieces of one chunk are more alike than chunks are, and another chunk is no other pool: only much counts."""


def drifted(history: Sequence[tuple[datetime, float]], caution: Caution = OF_CHUNKS) -> Drift | None:
    """The latest sure change in a history of log times (observed over expected), in any order; None where it is steady."""
    ordered = sorted(history)
    values = np.array([value for _, value in ordered], float)
    found: Drift | None = None
    since = 0
    while (change := _change(values[since:], caution)) is not None:
        cut, moved = change
        since += cut
        found = Drift(ordered[since][0], math.exp(moved))
    return found


def _change(values: NDArray[np.float64], caution: Caution) -> tuple[int, float] | None:
    """Where the later part begins, and by how much its mean lies above the earlier's."""
    count = len(values)
    if count < 2 * EACH_SIDE:
        return None
    # The median of the absolute difference of two draws from a normal is 0.954 of its spread.
    scatter = max(caution.scatter, float(np.median(np.abs(np.diff(values)))) / 0.954)
    cuts, so_far = np.arange(EACH_SIDE, count - EACH_SIDE + 1), np.cumsum(values)
    before = so_far[cuts - 1]
    moved = (so_far[-1] - before) / (count - cuts) - before / cuts
    errors = np.abs(moved) / (scatter * np.sqrt(1 / cuts + 1 / (count - cuts)))
    errors[np.abs(moved) < caution.least] = 0.0
    best = int(errors.argmax())
    return (int(cuts[best]), float(moved[best])) if errors[best] > SURE else None
