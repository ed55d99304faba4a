"""Batches that stay on one configuration: which one, before anything else is planned.

Earliest due time first, as the greedy planner goes: each takes what weighs least of what holds it whole before its due time;
where nothing does, what holds most of it.
"""

from __future__ import annotations

import msgspec

from batchsched.planner import MOST_CUTS
from batchsched.planner.due import due_times
from batchsched.planner.greedy import Filler, by_due
from batchsched.planner.hastened import hastened
from batchsched.planner.price import price
from batchsched.planner.problem import Effort, Job, Problem, cut


def one_each(problem: Problem) -> Problem:
    """The same with one configuration left to each uniform job."""
    if not any(job.uniform and len(job.seconds_on) > 1 for job in problem.jobs):
        return problem
    fast = msgspec.structs.replace(problem, jobs=[fastest(job) for job in problem.jobs])
    due = due_times(fast)  # what separates a quantile from the mean is counted where it is surest to fit
    instants = sorted({due[job.batch_id] for job in problem.jobs if job.uniform and due[job.batch_id] > 0})
    fine = cut(problem, instants[:MOST_CUTS])
    due = hastened(fine, due)
    filler = Filler(fine, price(fine))
    chosen: dict[str, Job] = {}
    for job in by_due(problem.jobs, due):
        chosen[job.batch_id] = only(job, filler.best(job, due[job.batch_id])) if job.uniform and job.seconds_on else job
        filler.place(chosen[job.batch_id], due[job.batch_id])
    return msgspec.structs.replace(problem, jobs=[chosen[job.batch_id] for job in problem.jobs])


def fastest(job: Job) -> Job:
    """A uniform job where it is fastest; any other as it is."""
    if not job.uniform or not job.seconds_on:
        return job
    return only(job, min(job.seconds_on, key=lambda key: (job.seconds_on[key], key)))


def only(job: Job, key: str) -> Job:
    """The job with one of its configurations; where else it might be as its requests name it is kept for the baseline."""
    given_up = {pool: effort for pool in job.seconds_on if pool != key and (effort := _plain(job, pool))}
    return msgspec.structs.replace(job, seconds_on={key: job.seconds_on[key]}, as_named=job.as_named | given_up)


def _plain(job: Job, pool: str) -> Effort | None:
    config = job.configuration(pool)
    return job.named_on(pool) if config.plain and config.pool == pool else None
