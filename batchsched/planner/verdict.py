"""The answer at submission: will this job make its deadline, when is it likely to finish, what will it cost."""

from __future__ import annotations

import math
from statistics import NormalDist

import msgspec

from batchsched.planner.plan import Allotment, Plan
from batchsched.planner.problem import Job, PoolState, Problem, quantile_factor
from batchsched.units import JOULES_PER_KWH, format_duration

AMPLE = 100
"""Beyond that, how many times the work fits says nothing more."""


class Verdict(msgspec.Struct, frozen=True):
    """`probability`: that the deadline holds. Seconds count from the plan's origin; grams are operational, by the forecast; None
    where they are unknown."""

    feasible: bool
    probability: float
    expected_finish_s: float | None
    expected_grams: float | None
    expected_grams_run_now: float | None
    reason: str


def verdict(problem: Problem, plan: Plan, batch_id: str) -> Verdict:
    """Judge one job of the problem. Raises KeyError where it is not among the jobs.

    The time open to it before the deadline, less the expected work of jobs with earlier deadlines and one engine start, is set
    against its own lognormal work. Time beyond the horizon is taken to be as open as the horizon is on average.
    """
    job = next((job for job in problem.jobs if job.batch_id == batch_id), None)
    if job is None:
        raise KeyError(batch_id)
    share = _room(problem, job, job.deadline_s)
    chance = _probability(job, share)
    feasible = chance >= job.confidence
    return Verdict(
        feasible,
        chance,
        _finish(problem, plan, job),
        plan.grams_expected.get(batch_id),
        run_now_grams(problem, job),
        _reason(problem, job, share, chance, feasible) + _served_by(plan, job),
    )


def run_now_grams(problem: Problem, job: Job) -> float | None:
    """Grams of running the whole job at once, with the model that it names, on the newest pool that may run that, at the home
    site where one is: the baseline.

    Opening hours and other jobs are left out. None where an intensity that it needs is unknown, or there is no pool.
    """
    pools = [(pool, effort) for pool in problem.pools if (effort := job.named_on(pool.name))]
    if not pools:
        return None
    pool, effort = max(pools, key=lambda one: (one[0].home, one[0].newness, -one[1].seconds, one[0].name))
    startup = 0.0 if job.model in pool.loaded else effort.startup_s
    wide = max(1, min(job.width, pool.replicas))
    left = startup + effort.seconds / wide
    grams = 0.0
    for slot, intensity in zip(problem.slots, pool.intensity_g_per_kwh, strict=True):
        if left <= 0:
            break
        if intensity is None:
            return None
        busy = min(left, slot.length_s)
        grams += effort.power_w * wide * busy / JOULES_PER_KWH * pool.pue * intensity
        left -= busy
    return grams if left <= 1e-9 else None


def _room(problem: Problem, job: Job, until_s: float) -> float:
    """How many times the expected work fits before an instant, after all jobs with earlier deadlines."""
    pools = {pool.name: pool for pool in problem.pools}
    free = {pool.name: _open(problem, pool, until_s) for pool in problem.pools}
    earlier = [other for other in problem.jobs if _before(other, job)]
    for other in sorted(earlier, key=lambda o: (o.deadline_s, o.batch_id)):
        left = 1.0
        for name in sorted(set(other.seconds_on) & free.keys(), key=lambda n: (other.seconds_on[n], n)):
            for t, slot in enumerate(problem.slots):
                if left > 1e-9 and slot.start_s < other.deadline_s and other.seconds_on[name] > 0:
                    taken = min(left * other.seconds_on[name], free[name][t], other.width * slot.length_s)
                    free[name][t] -= taken
                    left -= taken / other.seconds_on[name]
    share = 0.0
    starts = ((pools[p], job.model_at(p), s) for p, s in job.startup_s_on.items() if p in pools)
    startup = min((0.0 if model in pool.loaded else s for pool, model, s in starts), default=0.0)
    for t, slot in enumerate(problem.slots):
        width_s = job.width * max(0.0, min(slot.end_s, until_s) - slot.start_s)
        for name in sorted(set(job.seconds_on) & free.keys(), key=lambda n: (job.seconds_on[n], n)):
            seconds = min(free[name][t], width_s)
            width_s -= seconds
            waste = min(startup, seconds)
            startup -= waste
            share += (seconds - waste) / job.seconds_on[name] if job.seconds_on[name] > 0 else math.inf
    return share * max(1.0, until_s / problem.end_s) if problem.end_s > 0 else 0.0


def _open(problem: Problem, pool: PoolState, until_s: float) -> list[float]:
    return [
        capacity * max(0.0, min(slot.end_s, until_s) - slot.start_s)
        for slot, capacity in zip(problem.slots, pool.capacity, strict=True)
    ]


def _before(other: Job, job: Job) -> bool:
    return (other.deadline_s, other.batch_id) < (job.deadline_s, job.batch_id) and other.deadline_s > 0


def _probability(job: Job, share: float) -> float:
    if job.remaining_requests <= 0:
        return 1.0
    if share <= 0:
        return 0.0
    if job.spread <= 0:
        return 1.0 if share >= 1 - 1e-9 else 0.0
    return NormalDist().cdf((math.log(share) + job.spread**2 / 2) / job.spread) if math.isfinite(share) else 1.0


def _finish(problem: Problem, plan: Plan, job: Job) -> float | None:
    mine = plan.of(job.batch_id)
    if not mine:
        return None
    pools = {pool.name: pool for pool in problem.pools}
    loading = {(load.pool, load.slot_index): load.seconds for load in plan.loads if load.batch_id == job.batch_id}

    def end(a: Allotment) -> float:
        busy = a.seconds + loading.get((a.pool, a.slot_index), 0.0)
        return min(a.end_s, a.start_s + busy / max(1, min(job.width, pools[a.pool].replicas)))

    return max(end(a) for a in mine)


def _reason(problem: Problem, job: Job, share: float, chance: float, feasible: bool) -> str:
    if not job.seconds_on:
        return f"No pool may run the model {job.model}."
    if feasible:
        fits = f"{share:.1f}" if share < AMPLE else f"more than {AMPLE}"
        return f"There is time for {fits} times the expected work before the deadline."
    asked = f"asked are {job.confidence:.0%}"
    enough = _enough(problem, job, quantile_factor(job.confidence, job.spread))
    advice = (
        f"a deadline {format_duration(enough - max(0.0, job.deadline_s))} later would do"
        if enough is not None
        else "no pool that may run it opens within the planned horizon"
    )
    return f"The deadline holds with a probability of {chance:.0%}, {asked}; {advice}."


def _served_by(plan: Plan, job: Job) -> str:
    """Of a job that accepts several models: those that are planned to serve it."""
    models = sorted({job.model_at(a.pool) for a in plan.of(job.batch_id)})
    return f" It is planned with the model {' and '.join(models)}." if job.model_on and models else ""


def _enough(problem: Problem, job: Job, times: float) -> float | None:
    """The first deadline, to the slot or the minute, by which there is time for so many times the expected work.

    None where nothing is open to it. The horizon ends with the last deadline: beyond it time is as open as before, on average.
    """
    for slot in problem.slots:
        if slot.end_s > job.deadline_s and _room(problem, job, slot.end_s) >= times:
            return slot.end_s
    share = _room(problem, job, problem.end_s)
    return math.ceil(problem.end_s * times / share / 60) * 60.0 if share > 0 else None
