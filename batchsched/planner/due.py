"""By when the expected work must be done, so that what may come on top of it still fits before the deadline.

The planner assigns the mean of the work, for that is what will most likely be paid for. What separates the mean from the asked
quantile must still fit after it. Filling those margins backwards from the deadlines gives each job an earlier, planned deadline.
A profile's error is common to the jobs of a model, and a pool's to all that it does, so these margins add up; the error of each
job's own token counts, and replicas that fail, are independent of the others, so within one busy stretch only the root of their
sum of squares is kept.
"""

from __future__ import annotations

import math
from statistics import NormalDist

from batchsched.planner.backward import Filled, Need, Span, fill_backward
from batchsched.planner.doubt import Doubt, doubts, factor
from batchsched.planner.problem import Job, Problem, quantile_factor

Margins = dict[str, dict[str, float]]
"""What may come on top of each job's expected work, as a share of it, by place."""


def due_times(problem: Problem) -> dict[str, float]:
    """Seconds by which each job's expected work should be done; -inf where even its margin alone does not fit."""
    spans = [
        Span(slot.start_s, slot.end_s, {pool.name: pool.capacity[t] for pool in problem.pools})
        for t, slot in enumerate(problem.slots)
    ]
    end = problem.end_s
    jobs = [job for job in problem.jobs if job.deadline_s <= end and job.seconds_on]
    supplies = {pool.name: (pool.supply, float(pool.replicas)) for pool in problem.pools}
    doubted = {job.batch_id: doubts(job, supplies) for job in jobs}
    margins = {
        job.batch_id: {place: factor(doubt, job.confidence) - 1 for place, doubt in doubted[job.batch_id].items()} for job in jobs
    }
    due = _dues(jobs, margins, spans)
    if any(doubt.own_share > 0 for found in doubted.values() for doubt in found.values()):
        due = _dues(jobs, _pooled(jobs, doubted, margins, due), spans)
    return {job.batch_id: due.get(job.batch_id, job.deadline_s) for job in problem.jobs}


def _dues(jobs: list[Job], margins: Margins, spans: list[Span]) -> dict[str, float]:
    needs = [
        Need(job.batch_id, job.deadline_s, {at: s * margins[job.batch_id][at] for at, s in job.work_on.items()}, job.width)
        for job in jobs
        if any(margin > 0 for margin in margins[job.batch_id].values())
    ]
    filled = fill_backward(needs, spans)
    return {job.batch_id: _due(job, filled) for job in jobs}


def _due(job: Job, filled: Filled) -> float:
    """The start of the busy stretch that holds its margin: within it, others' margins may come first."""
    return filled.busy_since(filled.starts.get(job.batch_id, job.deadline_s), job.pools)


def _pooled(jobs: list[Job], doubted: dict[str, dict[str, Doubt]], margins: Margins, due: dict[str, float]) -> Margins:
    """Margins with the independent errors of each busy stretch pooled; jobs without margin keep none."""
    out = dict(margins)
    squares: dict[tuple[float, str], float] = {}
    for job in sorted(jobs, key=lambda j: (j.deadline_s, j.batch_id)):
        fastest = min(job.work_on, key=lambda place: (job.work_on[place], place))
        work, doubt, mine = job.work_on[fastest], doubted[job.batch_id][fastest], margins[job.batch_id]
        common = quantile_factor(job.confidence, doubt.common) - 1 + doubt.stops * doubt.stop
        own = NormalDist().inv_cdf(job.confidence) * doubt.own_share * (1 + common) * work
        key = (due[job.batch_id], job.model)
        before = squares.get(key, 0.0)
        squares[key] = before + own * own
        if work > 0 and before > 0 and mine[fastest] > 0:
            kept = (common + (math.sqrt(squares[key]) - math.sqrt(before)) / work) / mine[fastest]
            out[job.batch_id] = {place: margin * min(1.0, kept) for place, margin in mine.items()}
    return out
