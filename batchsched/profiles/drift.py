"""Has a pool changed its speed for good? An engine update, a GPU that throttles, a neighbour that moved in.

A test for one change of the mean: of all ways to cut the observations in an earlier and a later part, the one whose means differ
most against what single observations scatter. The scatter is taken from neighbours in time, which a change moves only once.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import NamedTuple

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
    found: Drift | None = None
    while (change := _change(ordered, caution)) is not None:
        cut, moved = change
        found = Drift(ordered[cut][0], math.exp(moved))
        ordered = ordered[cut:]
    return found


def _change(ordered: Sequence[tuple[datetime, float]], caution: Caution) -> tuple[int, float] | None:
    """Where the later part begins, and by how much its mean lies above the earlier's."""
    values = [value for _, value in ordered]
    count = len(values)
    if count < 2 * EACH_SIDE:
        return None
    steps = [abs(b - a) for a, b in pairwise(values)]
    # The median of the absolute difference of two draws from a normal is 0.954 of its spread.
    scatter = max(caution.scatter, statistics.median(steps) / 0.954)
    total, before = math.fsum(values), math.fsum(values[:EACH_SIDE])
    best, sure = (0, 0.0), SURE
    for cut in range(EACH_SIDE, count - EACH_SIDE + 1):
        moved = (total - before) / (count - cut) - before / cut
        errors = abs(moved) / (scatter * math.sqrt(1 / cut + 1 / (count - cut)))
        if abs(moved) >= caution.least and errors > sure:
            best, sure = (cut, moved), errors
        before += values[cut]
    return best if best[0] else None
