"""The answer at submission: will this job make its deadline, when is it likely to finish, what will it cost."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from batchsched.planner.advice import Alternative, Option, options, words
from batchsched.planner.plan import Allotment, Plan
from batchsched.planner.problem import Job, Problem
from batchsched.planner.room import Room, room
from batchsched.planner.sound import sound
from batchsched.units import JOULES_PER_KWH

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
    options: list[Option] = []
    """Of a job that is not feasible: what would make it so."""


def verdict(
    problem: Problem,
    plan: Plan,
    batch_id: str,
    alternatives: Iterable[Alternative] | None = (),
    open_to: Room | None = None,
) -> Verdict:
    """Judge one job of the problem, as far as that makes sense (sound.py). Raises KeyError where it is not among the jobs.

    `alternatives`: the job as it might be, looked at only where it is not feasible as it is; None: seek no advice, which takes
    most of the time. `open_to`: its room until its deadline, where that is known.

    `probability` is that of running from now on, in the order of deadlines (room.py). A plan that waits uses up what of it lies
    above the asked confidence, and no more.
    """
    if open_to is None:  # who knows the room has asked what makes sense
        problem, _ = sound(problem)
    job = next((job for job in problem.jobs if job.batch_id == batch_id), None)
    if job is None:
        raise KeyError(batch_id)
    open_to = open_to or room(problem, job, job.deadline_s)
    chance = open_to.probability
    feasible = chance >= job.confidence
    mending = [] if feasible or alternatives is None else options(problem, job, alternatives)
    return Verdict(
        feasible,
        chance,
        finish_s(problem, plan, job),
        plan.grams_expected.get(batch_id),
        run_now_grams(problem, job),
        _reason(job, open_to.times, chance, mending, sought=alternatives is not None) + _served_by(plan, job),
        mending,
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


def finish_s(problem: Problem, plan: Plan, job: Job) -> float | None:
    """When a plan is done with a job; None where it does nothing for it."""
    mine = plan.of(job.batch_id)
    if not mine:
        return None
    pools = {pool.name: pool for pool in problem.pools}
    loading = {(load.pool, load.slot_index): load.seconds for load in plan.loads if load.batch_id == job.batch_id}

    def end(a: Allotment) -> float:
        busy = a.seconds + loading.get((a.pool, a.slot_index), 0.0)
        return min(a.end_s, a.start_s + busy / max(1, min(job.width, pools[a.pool].replicas)))

    return max(end(a) for a in mine)


def _reason(job: Job, times: float, chance: float, mending: list[Option], *, sought: bool) -> str:
    if chance >= job.confidence:
        fits = f"{times:.1f}" if times < AMPLE else f"more than {AMPLE}"
        return f"There is time for {fits} times the expected work before the deadline."
    advice = words(job, mending)
    if not job.seconds_on:
        return f"No pool may run the model {job.model}{f'; {advice}' if advice else ''}."
    if times <= 0:
        advice = advice or "no pool that may run it opens within the planned horizon"
    elif sought:
        advice = advice or "nothing that was tried would do"
    said = f"The deadline holds with a probability of {chance:.0%}, asked are {job.confidence:.0%}"
    return f"{said}; {advice}." if advice else f"{said}."


def _served_by(plan: Plan, job: Job) -> str:
    """Of a job that accepts several models: those that are planned to serve it."""
    models = sorted({job.configuration(a.key).model for a in plan.of(job.batch_id)})
    return f" It is planned with the model {' and '.join(models)}." if job.configurations and models else ""
