"""From fractions of replicas to whole ones: some are rounded at a time, and the program answers anew with the rest."""

from __future__ import annotations

import numpy as np

from batchsched.planner.fleet_model import Floats
from batchsched.planner.fleet_replicas import Replicas, Solved

UP = 0.35
"""Fractions from this on are rounded up where GPUs are free: a replica too few is dearer than one too many."""
SHARE = 0.5
"""Of the fractions that are left, so many are rounded at a time, the largest first."""
LEAST = 8
FIRM, LAST = 8, 12
"""From these rounds on, what is whole stays as it is: what is there, and then what is not there too."""
MOST_ROUNDS = 16
_WHOLE = 1e-4


def round_up(replicas: Replicas, begin: Solved, lower: Floats, upper: Floats, stop_g: float = np.inf) -> Solved | None:
    """Whole replicas within these bounds [J], from an answer in fractions; None where they cost `stop_g` or more.

    The program keeps the last bounds.
    """
    now, cap = begin, np.floor(replicas.model.capacity + 1e-9)
    for turn in range(MOST_ROUNDS):
        if not now.cost_g < stop_g:
            return None
        grown = replicas.places - len(lower)
        lower, upper = np.append(lower, np.zeros(grown)), np.append(upper, np.full(grown, np.inf))
        down = np.floor(now.ready + _WHOLE)
        fraction = now.ready - down
        left = np.flatnonzero((lower < upper) & (fraction > _WHOLE))
        if not left.size:
            return now
        share, least = (SHARE, UP) if turn < FIRM else (1.0, 0.0)
        left = left[np.argsort(-fraction[left], kind="stable")][: max(LEAST, int(share * left.size))]
        if turn >= FIRM:
            whole = (lower < upper) & (fraction <= _WHOLE) & ((down > 0) | (turn >= LAST))
            lower[whole] = upper[whole] = down[whole]
        taken = np.zeros(cap.shape)
        np.add.at(taken.T, replicas.slot, lower[:, None] * replicas.model.gpus[replicas.config])
        for j in left.tolist():
            k, t = replicas.config[j], replicas.slot[j]
            more = replicas.model.gpus[k] * (down[j] + 1 - lower[j])
            if fraction[j] >= least and (taken[:, t] + more <= cap[:, t]).all():
                taken[:, t] += more
                lower[j] = upper[j] = down[j] + 1
            else:
                upper[j] = max(lower[j], down[j])
        replicas.hold(lower, upper)
        now = replicas.solve()
    return None
