"""What of a problem makes sense: the rest is left out, and said."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable

import msgspec

from batchsched.planner.problem import Job, Link, PoolState, Problem

_SHOWN = 5
_MAPPINGS = {"seconds_on", "power_w_on", "startup_s_on"}
_LEAST_CONFIDENCE, _MOST_CONFIDENCE = 1e-9, 1 - 1e-9


def sound(problem: Problem) -> tuple[Problem, list[str]]:
    """The problem without numbers that no fleet has (NaN, infinite, negative), and without configurations of pools that it does
    not have; and what was wrong with the numbers, in words. What is unknown is never taken for free: a pool without a sensible
    capacity is closed, a job whose work or watts make no sense somewhere does not run there.

    Raises ValueError where the slots are none: without time there is no plan.
    """
    clock = problem.slots[0].start_s if problem.slots else 0.0
    for slot in problem.slots:
        if not (math.isfinite(slot.length_s) and slot.length_s > 0 and abs(slot.start_s - clock) < 1e-3):
            raise ValueError(f"The slots have a gap, or one without length, at {clock} s.")
        clock = slot.end_s
    wrong: list[str] = []
    pools = [_pool(pool, len(problem.slots), wrong) for pool in problem.pools]
    links = [_link(link, len(problem.slots), wrong) for link in problem.links]
    known = {pool.name for pool in pools} | {link.name for link in links}
    jobs = [_job(job, known, wrong) for job in problem.jobs]
    more = [f"and {len(wrong) - _SHOWN} more of these"] if len(wrong) > _SHOWN else []
    same = [*pools, *links, *jobs] == [*problem.pools, *problem.links, *problem.jobs]
    return (problem if same else msgspec.structs.replace(problem, pools=pools, links=links, jobs=jobs)), wrong[:_SHOWN] + more


def _usable(values: Iterable[float | None], least: float = 0.0) -> bool:
    return all(value is None or (math.isfinite(value) and value >= least) for value in values)


def _pool(pool: PoolState, slots: int, wrong: list[str]) -> PoolState:
    change: dict[str, object] = {}
    if len(pool.capacity) != slots or not _usable(pool.capacity):
        wrong.append(f"the capacity of pool {pool.name} makes no sense: it is taken to be closed where it does not")
        change["capacity"] = _fitted(pool.capacity, slots)
    intensity = pool.intensity_g_per_kwh
    if len(intensity) != slots or any(g is not None and not math.isfinite(g) for g in intensity):
        wrong.append(f"the intensity at pool {pool.name} makes no sense: it is unknown where it does not")
        padded = [*intensity, *[None] * slots][:slots]
        change["intensity_g_per_kwh"] = [g if g is not None and math.isfinite(g) else None for g in padded]
    if not (math.isfinite(pool.pue) and pool.pue > 0):
        wrong.append(f"the PUE of pool {pool.name} is {pool.pue}: its intensity is unknown")
        change |= {"pue": 1.0, "intensity_g_per_kwh": [None] * slots}
    if not _usable([pool.embodied_g_per_s]):
        wrong.append(f"the making of pool {pool.name} is {pool.embodied_g_per_s} g/s: it is unknown")
        change["embodied_g_per_s"] = None
    return msgspec.structs.replace(pool, **change) if change else pool


def _link(link: Link, slots: int, wrong: list[str]) -> Link:
    if len(link.capacity) == slots and _usable(link.capacity):
        return link
    wrong.append(f"the capacity of link {link.name} makes no sense: it is taken to be closed where it does not")
    return msgspec.structs.replace(link, capacity=_fitted(link.capacity, slots))


def _fitted(capacity: list[float], slots: int) -> list[float]:
    return [c if math.isfinite(c) and c > 0 else 0.0 for c in [*capacity, *[0.0] * slots][:slots]]


def _job(job: Job, known: Collection[str], wrong: list[str]) -> Job:
    if _fine(job, known):
        return job
    change: dict[str, object] = {}
    here = {key: s for key, s in job.seconds_on.items() if all(name in known for name, _ in job.configuration(key).shares)}
    able = {key: s for key, s in here.items() if job.remaining_requests <= 0 or _able(job, key)}
    if len(able) < len(here):
        names = " and ".join(sorted(here.keys() - able.keys()))
        wrong.append(f"seconds, watts or engine start of {job.batch_id} on {names} make no sense: it does not run there")
    if len(able) < len(job.seconds_on):
        change = {name: {key: getattr(job, name)[key] for key in able} for name in _MAPPINGS}
    if math.isnan(job.deadline_s):
        change["deadline_s"] = -math.inf
    if not _LEAST_CONFIDENCE <= job.confidence <= _MOST_CONFIDENCE:
        change["confidence"] = min(_MOST_CONFIDENCE, max(_LEAST_CONFIDENCE, job.confidence)) if job.confidence > 0 else 0.99
    usual = {"sigma": 0.0, "sigma_own": 0.0, "weight": 1.0}
    change |= {name: value for name, value in usual.items() if not _usable([getattr(job, name)])}
    if odd := sorted(change.keys() - _MAPPINGS):
        wrong.append(f"{' and '.join(odd)} of {job.batch_id} make no sense")
    return msgspec.structs.replace(job, **change) if change else job


def _fine(job: Job, known: Collection[str]) -> bool:
    """Is all of it plainly so? The quick look; what fails it is looked at closely."""
    work, watts, starts = job.seconds_on, job.power_w_on, job.startup_s_on
    numbers = [*work.values(), *watts.values(), *starts.values(), job.sigma, job.sigma_own, job.weight]
    at_home = not job.configurations and all(map(known.__contains__, work))
    agree = work.keys() == watts.keys() == starts.keys() and min(numbers) >= 0 and min(work.values(), default=1.0) > 0
    timely = not math.isnan(job.deadline_s) and _LEAST_CONFIDENCE <= job.confidence <= _MOST_CONFIDENCE
    return at_home and agree and timely and all(map(math.isfinite, numbers))


def _able(job: Job, key: str) -> bool:
    seconds, watts, startup = job.seconds_on[key], job.power_w_on.get(key), job.startup_s_on.get(key)
    return watts is not None and startup is not None and _usable([seconds, watts, startup]) and seconds > 0
