"""By when the expected work must be done, so that what may come on top of it still fits before the deadline.

The planner assigns the mean of the work, for that is what will most likely be paid for. What separates the mean from the asked
quantile must still fit after it. Filling those margins backwards from the deadlines gives each job an earlier, planned deadline.
A profile's error is common to the jobs of a model, so its margins add up; the error of each job's own token counts is
independent of the others, so within one busy stretch only the root of their sum of squares is kept.
"""

from __future__ import annotations

import math
from statistics import NormalDist

from batchsched.planner.backward import Filled, Need, Span, fill_backward
from batchsched.planner.problem import Job, Problem, quantile_factor


def due_times(problem: Problem) -> dict[str, float]:
    """Seconds by which each job's expected work should be done; -inf where even its margin alone does not fit."""
    spans = [
        Span(slot.start_s, slot.end_s, {pool.name: pool.capacity[t] for pool in problem.pools})
        for t, slot in enumerate(problem.slots)
    ]
    end = problem.end_s
    jobs = [job for job in problem.jobs if job.deadline_s <= end and job.seconds_on]
    margins = {job.batch_id: quantile_factor(job.confidence, job.spread) - 1 for job in jobs}
    due = _dues(jobs, margins, spans)
    if any(job.sigma_own > 0 for job in jobs):
        due = _dues(jobs, _pooled(jobs, margins, due), spans)
    return {job.batch_id: due.get(job.batch_id, job.deadline_s) for job in problem.jobs}


def _dues(jobs: list[Job], margins: dict[str, float], spans: list[Span]) -> dict[str, float]:
    needs = [
        Need(job.batch_id, job.deadline_s, {pool: s * margins[job.batch_id] for pool, s in job.seconds_on.items()}, job.width)
        for job in jobs
        if margins[job.batch_id] > 0
    ]
    filled = fill_backward(needs, spans)
    return {job.batch_id: _due(job, filled) for job in jobs}


def _due(job: Job, filled: Filled) -> float:
    """The start of the busy stretch that holds its margin: within it, others' margins may come first."""
    return filled.busy_since(filled.starts.get(job.batch_id, job.deadline_s), set(job.seconds_on))


def _pooled(jobs: list[Job], margins: dict[str, float], due: dict[str, float]) -> dict[str, float]:
    """Margins with the independent errors of each busy stretch pooled; jobs without margin keep none."""
    out = dict(margins)
    squares: dict[tuple[float, str], float] = {}
    for job in sorted(jobs, key=lambda j: (j.deadline_s, j.batch_id)):
        work = min(job.seconds_on.values())
        z = NormalDist().inv_cdf(job.confidence)
        common = quantile_factor(job.confidence, job.sigma) - 1
        own = z * job.sigma_own * (1 + common) * work
        key = (due[job.batch_id], job.model)
        before = squares.get(key, 0.0)
        squares[key] = before + own * own
        if work > 0 and before > 0:
            added = math.sqrt(squares[key]) - math.sqrt(before)
            out[job.batch_id] = min(margins[job.batch_id], common + added / work)
    return out
