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
FIRM, LAST = 8, 16
"""From these rounds on, what is whole stays as it is: what is there, and then what is not there too."""
MOST_ROUNDS = 20
_WHOLE = 1e-4


def round_up(
    replicas: Replicas, lower: Floats, upper: Floats, stop_g: float = np.inf, most_work: int | None = None
) -> Solved | None:
    """Whole replicas within these bounds [J]; None where they cost `stop_g` or more. The program keeps the last bounds.

    `most_work`: simplex steps for each answer in between.
    """
    spills = np.full(replicas.spill_arc.shape, np.inf)
    for turn in range(MOST_ROUNDS):
        replicas.hold(lower, upper, spills)
        now = replicas.solve(most_work)
        if not now.cost_g < stop_g:
            return None
        down = np.floor(now.ready + _WHOLE)
        fraction = now.ready - down
        if not ((lower < upper) & (fraction > _WHOLE)).any():
            fitted = _fitted(replicas, now)
            if (fitted >= now.spilled - 1e-6).all():
                return now
            spills = np.where((now.spilled > 1e-6) | (turn >= LAST), fitted, spills)
        lower, upper = _rounded(replicas, turn, lower.copy(), upper.copy(), down, fraction)
    return None


def _rounded(
    replicas: Replicas, turn: int, lower: Floats, upper: Floats, down: Floats, fraction: Floats
) -> tuple[Floats, Floats]:
    """Bounds with some more of the places decided."""
    left = np.flatnonzero((lower < upper) & (fraction > _WHOLE))
    share, least = (SHARE, UP) if turn < FIRM else (1.0, 0.0)
    left = left[np.argsort(-fraction[left], kind="stable")][: max(LEAST, int(share * left.size))]
    if turn >= FIRM:
        whole = (lower < upper) & (fraction <= _WHOLE) & ((down > 0) | (turn >= LAST))
        lower[whole] = upper[whole] = down[whole]
    taken, cap = _taken(replicas, lower), np.floor(replicas.model.capacity + 1e-9)
    for j in left.tolist():
        k, t = replicas.config[j], replicas.slot[j]
        more = replicas.model.gpus[k] * (down[j] + 1 - lower[j])
        if fraction[j] >= least and (taken[:, t] + more <= cap[:, t]).all():
            taken[:, t] += more
            lower[j] = upper[j] = down[j] + 1
        else:
            upper[j] = max(lower[j], down[j])
    return lower, upper


def _fitted(replicas: Replicas, now: Solved) -> Floats:
    """[S] seconds of spills that are left when each takes whole replicas and the GPUs are counted; the largest first."""
    m = replicas.model
    taken, cap = _taken(replicas, np.round(now.ready)), np.floor(m.capacity + 1e-9)
    keys, cell = np.unique(m.arc_config[replicas.spill_arc] * m.slots + replicas.spill_slot, return_inverse=True)
    asked = np.bincount(cell, now.spilled / replicas.spill_useful, minlength=keys.size)
    granted = np.zeros(keys.size)
    for i in np.argsort(-asked, kind="stable").tolist():
        if asked[i] <= 1e-6:
            break
        k, t = divmod(int(keys[i]), m.slots)
        takes = m.gpus[k] > 0
        fits = np.floor((cap[takes, t] - taken[takes, t]) / m.gpus[k, takes]).min()
        granted[i] = max(0.0, min(fits, np.ceil(asked[i] - 1e-6)))
        taken[:, t] += granted[i] * m.gpus[k]
    share = np.minimum(1.0, granted / np.maximum(asked, 1e-9))
    return now.spilled * share[cell]


def _taken(replicas: Replicas, ready: Floats) -> Floats:
    """[P, T] GPUs of these replicas."""
    m = replicas.model
    table = np.zeros(m.load_g.shape)
    table[replicas.config, replicas.slot] = ready
    out: Floats = m.gpus.T @ table
    return out
