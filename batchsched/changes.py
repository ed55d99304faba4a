"""What changed since a plan was made: whether it can wait for a solver, and how much work it is worth."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from batchsched.observe import View
from batchsched.planner import Problem
from batchsched.published import Published

FEW = 0.02
"""Little changed where no larger share of the batches did,"""
ALIKE = 0.02
"""and pools are open and clean as before, but for such a share."""
SLOWER = 0.05
"""A batch changed where a request takes longer, or shorter, by more than this share."""


def cannot_wait(before: Published | None, view: View) -> bool:
    """Is there what should not wait for a solver: a batch, another deadline, one that is to start now, a pool without workers,
    what an operator decided?"""
    if before is None or before.overrides != view.overrides or not view.connected.issuperset(before.connected):
        return True
    return next(_urgent(before, view), None) is not None


def little(before: Published, view: View) -> bool:
    """Are pools and forecasts, and all but a few batches, as they were?"""
    if before.overrides != view.overrides or view.connected != frozenset(before.connected):
        return False
    jobs = {job.batch_id: job for job in view.problem.jobs}
    changed = {*_urgent(before, view), *_slower(before, view), *before.jobs.keys() - jobs.keys()}
    return len(changed) <= FEW * len(jobs) and _alike(before.problem, view.problem, (view.now - before.made_at).total_seconds())


def _urgent(before: Published, view: View) -> Iterator[str]:
    passed_s = (view.now - before.made_at).total_seconds()
    for job in view.problem.jobs:
        known = before.jobs.get(job.batch_id)
        if known is None or known.at_once != job.at_once or abs(known.deadline_s - passed_s - job.deadline_s) > 1.0:
            yield job.batch_id


def _slower(before: Published, view: View) -> Iterator[str]:
    for job in view.problem.jobs:
        known = before.jobs.get(job.batch_id)
        if known is None or known.seconds_on.keys() != job.seconds_on.keys():
            yield job.batch_id
            continue
        scale = job.remaining_requests / max(1, known.remaining_requests)
        if any(abs(job.seconds_on[key] - scale * was) > SLOWER * scale * was for key, was in known.seconds_on.items()):
            yield job.batch_id


def _alike(before: Problem, now: Problem, passed_s: float) -> bool:
    """Where both look: what pools have open, and their intensities."""
    if [pool.name for pool in before.pools] != [pool.name for pool in now.pools] or not before.slots:
        return False
    middle = np.array([slot.start_s + slot.length_s / 2 for slot in now.slots]) + passed_s
    at = np.searchsorted([slot.end_s for slot in before.slots], middle)
    seen = at < len(before.slots)
    for was, pool in zip(before.pools, now.pools, strict=True):
        for then, today in ((was.capacity, pool.capacity), (was.intensity_g_per_kwh, pool.intensity_g_per_kwh)):
            old, new = np.array(then, float)[at[seen]], np.array(today, float)[seen]
            if _apart(old, new) > ALIKE:
                return False
    return True


def _apart(old: NDArray[np.float64], new: NDArray[np.float64]) -> float:
    """The mean of what they differ by, as a share; unknown figures (NaN) differ from all others."""
    if not np.array_equal(np.isnan(old), np.isnan(new)):
        return np.inf
    most = float(np.nansum(np.maximum(np.abs(old), np.abs(new))))
    return float(np.nansum(np.abs(old - new))) / most if most > 0 else 0.0
