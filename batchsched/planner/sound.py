"""What of a problem makes sense: the rest is left out, and said."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import TypeVar

import msgspec

from batchsched.planner.problem import Configuration, Effort, Job, Link, PoolState, Problem, Risk, Supply

_SHOWN = 5
_MAPPINGS = {"seconds_on", "power_w_on", "startup_s_on", "idle_w_on", "transfer_g_on", "load_g_on", "configurations"}
_LEAST_CONFIDENCE, _MOST_CONFIDENCE = 1e-9, 1 - 1e-9
_MOST = 1e15
"""No fleet has a larger number of anything, and squares and products of these still are numbers."""
_LEAST = 1e-9
"""Of what is above 0: less is as good as nothing."""
_WIDEST = 5.0
"""Of the logarithm: one in a hundred is off by a factor of 100,000. Nobody knows less."""
_MOST_REQUESTS = 10**12
_MOST_REPLICAS = 10**9
_STEADY_S = Supply().steady_s
_Named = TypeVar("_Named", PoolState, Link, Job)


def sound(problem: Problem) -> tuple[Problem, list[str]]:
    """The problem without numbers that no fleet has (NaN, infinite, negative, huge), without configurations of pools that it does
    not have, and without what is there twice; and what was wrong, in words. What is unknown is never taken for free: a pool
    without a sensible capacity is closed, a job whose work, watts or files make no sense somewhere does not run there.

    Raises ValueError where the slots have a gap, or one has no length.
    """
    clock = problem.slots[0].start_s if problem.slots else 0.0
    for slot in problem.slots:
        if not (math.isfinite(slot.length_s) and slot.length_s > 0 and abs(slot.start_s - clock) < 1e-3):
            raise ValueError(f"The slots have a gap, or one without length, at {clock} s.")
        clock = slot.end_s
    wrong: list[str] = []
    dearest = {name: _dearest(problem.pools, name) for name in ("energy_g_per_kwh", "price_g_per_s")}
    pools = [_pool(pool, len(problem.slots), dearest, wrong) for pool in _once(problem.pools, "pool", wrong)]
    links = [
        _link(link, len(problem.slots), dearest, wrong) for link in _once(problem.links, "link", wrong, [p.name for p in pools])
    ]
    known = {pool.name for pool in pools} | {link.name for link in links}
    jobs = [_job(job, known, wrong) for job in _once(problem.jobs, "job", wrong)]
    ours = {"pools": pools, "links": links, "jobs": jobs, **_rest(problem, wrong)}
    change = {name: value for name, value in ours.items() if value != getattr(problem, name)}
    more = [f"and {len(wrong) - _SHOWN} more of these"] if len(wrong) > _SHOWN else []
    return (msgspec.structs.replace(problem, **change) if change else problem), wrong[:_SHOWN] + more


def sound_job(problem: Problem, job: Job) -> Job:
    """The same of a job that is none of the problem's, silently."""
    return _job(job, problem.capacity.keys(), [])


def _usable(values: Iterable[float | None], least: float = 0.0) -> bool:
    known = [value for value in values if value is not None]  # of futures there are tens of thousands
    return not known or (min(known) >= least and max(known) <= _MOST and not math.isnan(sum(known)))


def _spread(sigma: float) -> float:
    """A standard deviation of a logarithm; 0 where it is none."""
    return min(sigma, _WIDEST) if sigma >= 0 else 0.0


def _dearest(pools: list[PoolState], name: str) -> float:
    return max((value for pool in pools if _usable([value := getattr(pool, name)])), default=0.0)


def _once(things: list[_Named], what: str, wrong: list[str], taken: Collection[str] = ()) -> list[_Named]:
    """The first of each name."""
    names = [thing.batch_id if isinstance(thing, Job) else thing.name for thing in things]
    seen = set(taken)
    if len(seen.union(names)) == len(seen) + len(names):
        return things
    kept = []
    for name, thing in zip(names, things, strict=True):
        if name in seen:
            wrong.append(f"{what} {name} is there twice: the first counts")
        else:
            kept.append(thing)
        seen.add(name)
    return kept


def _rest(problem: Problem, wrong: list[str]) -> dict[str, object]:
    """What belongs to no pool and no job."""
    count, odd = len(problem.slots), []
    for zone, rows in problem.scenarios.items():
        if not rows or not all(len(row) == count and _usable(row, -_MOST) for row in rows):
            odd.append(zone)
            wrong.append(f"the futures of zone {zone} make no sense: it has none but the forecast")
    risk = problem.risk
    if not (0 <= risk.weight <= 1 and 0 <= risk.level < 1):
        wrong.append(f"a risk of weight {risk.weight} and level {risk.level} makes no sense: plans are for the mean")
        risk = Risk()
    files, churn = _spread(problem.transfer_sigma), problem.churn if _usable([problem.churn]) else 0.0
    if files != problem.transfer_sigma:
        wrong.append(f"the spread of moving files is {problem.transfer_sigma}: it is taken to be {files:g}")
    if churn != problem.churn:
        wrong.append(f"the limit on churn is {problem.churn}: there is none")
    run_s = problem.min_run_s if _usable([problem.min_run_s]) else 0.0
    if run_s != problem.min_run_s:
        wrong.append(f"the least run of an engine is {problem.min_run_s} s: there is none")
    futures = {zone: rows for zone, rows in problem.scenarios.items() if zone not in odd} if odd else problem.scenarios
    return {"scenarios": futures, "risk": risk, "transfer_sigma": files, "churn": churn, "min_run_s": run_s}


def _pool(pool: PoolState, slots: int, dearest: dict[str, float], wrong: list[str]) -> PoolState:
    change: dict[str, object] = {}
    if len(pool.capacity) != slots or not _usable(pool.capacity):
        wrong.append(f"the capacity of pool {pool.name} makes no sense: it is taken to be closed where it does not")
        change["capacity"] = _fitted(pool.capacity, slots)
    intensity = pool.intensity_g_per_kwh
    if len(intensity) != slots or not _usable(intensity, -_MOST):
        wrong.append(f"the intensity at pool {pool.name} makes no sense: it is unknown where it does not")
        padded = [*intensity, *[None] * slots][:slots]
        change["intensity_g_per_kwh"] = [g if _usable([g], -_MOST) else None for g in padded]
    if not _LEAST <= pool.pue <= _MOST:
        wrong.append(f"the PUE of pool {pool.name} is {pool.pue}: its intensity is unknown")
        change |= {"pue": 1.0, "intensity_g_per_kwh": [None] * slots}
    if not _usable([pool.embodied_g_per_s]):
        wrong.append(f"the making of pool {pool.name} is {pool.embodied_g_per_s} g/s: it is unknown")
        change["embodied_g_per_s"] = None
    usual = {name: getattr(pool, name) if _usable([getattr(pool, name)]) else worst for name, worst in dearest.items()}
    usual |= {name: _spread(getattr(pool, name)) for name in ("energy_sigma", "embodied_sigma")}
    usual |= {"replicas": min(_MOST_REPLICAS, max(0, pool.replicas)), "supply": _supply(pool.supply)}
    odd = {name: value for name, value in usual.items() if value != getattr(pool, name)}
    if odd:
        wrong.append(f"{' and '.join(sorted(odd))} of pool {pool.name} make no sense")
    return msgspec.structs.replace(pool, **change, **odd) if change or odd else pool


def _supply(supply: Supply) -> Supply:
    return Supply(
        _spread(supply.sigma),
        _spread(supply.slot_sigma),
        supply.steady_s if _LEAST <= supply.steady_s <= _MOST else _STEADY_S,
        supply.failures_per_replica_h if _usable([supply.failures_per_replica_h]) else 0.0,
        supply.repair_s if _usable([supply.repair_s]) else 0.0,
    )


def _link(link: Link, slots: int, dearest: dict[str, float], wrong: list[str]) -> Link:
    change: dict[str, object] = {}
    if len(link.capacity) != slots or not _usable(link.capacity):
        wrong.append(f"the capacity of link {link.name} makes no sense: it is taken to be closed where it does not")
        change["capacity"] = _fitted(link.capacity, slots)
    if not _usable([link.embodied_g_per_s]):
        wrong.append(f"the making of link {link.name} is {link.embodied_g_per_s} g/s: it is unknown")
        change["embodied_g_per_s"] = None
    if not _usable([link.price_g_per_s]):
        wrong.append(f"the price of link {link.name} is {link.price_g_per_s} g/s: it is taken for the dearest pool's")
        change["price_g_per_s"] = dearest["price_g_per_s"]
    return msgspec.structs.replace(link, **change) if change else link


def _fitted(capacity: list[float], slots: int) -> list[float]:
    return [c if 0 <= c <= _MOST else 0.0 for c in [*capacity, *[0.0] * slots][:slots]]


def _job(job: Job, known: Collection[str], wrong: list[str]) -> Job:
    if _fine(job, known):
        return job
    here = [key for key in job.seconds_on if all(name in known for name, _ in job.configuration(key).shares)]
    able = {key for key in here if _able(job, key)}
    if len(able) < len(here):
        names = " and ".join(sorted(set(here) - able))
        wrong.append(f"seconds, watts, engine start or files of {job.batch_id} on {names} make no sense: it does not run there")
    ours: dict[str, object] = {
        name: {key: value for key, value in getattr(job, name).items() if key in able} for name in _MAPPINGS
    }
    ours |= {name: _spread(getattr(job, name)) for name in ("sigma", "sigma_own")}
    ours["deadline_s"] = -math.inf if math.isnan(job.deadline_s) else min(job.deadline_s, _MOST)
    ours["confidence"] = min(_MOST_CONFIDENCE, max(_LEAST_CONFIDENCE, job.confidence)) if job.confidence > 0 else 0.99
    ours["weight"] = job.weight if _usable([job.weight]) else 1.0
    ours["remaining_requests"] = min(_MOST_REQUESTS, max(0, job.remaining_requests))
    ours["most_in_piece"] = job.most_in_piece if _countable(job.most_in_piece) else None
    ours["as_named"] = {pool: effort for pool, effort in job.as_named.items() if _usable(_numbers(effort))}
    change = {name: value for name, value in ours.items() if value != getattr(job, name)}
    if odd := sorted(change.keys() - _MAPPINGS):
        wrong.append(f"{' and '.join(odd)} of {job.batch_id} make no sense")
    return msgspec.structs.replace(job, **change) if change else job


def _fine(job: Job, known: Collection[str]) -> bool:
    """Is all of it plainly so? The quick look; what fails it is looked at closely."""
    work, watts, starts = job.seconds_on, job.power_w_on, job.startup_s_on
    numbers = [*work.values(), *watts.values(), *starts.values(), *job.idle_w_on.values(), job.sigma, job.sigma_own, job.weight]
    if job.transfer_g_on or job.load_g_on or job.as_named:
        named = (number for effort in job.as_named.values() for number in _numbers(effort))
        numbers += [*job.transfer_g_on.values(), *job.load_g_on.values(), *named]
    at_home = not job.configurations and all(map(known.__contains__, work))
    agree = work.keys() == watts.keys() == starts.keys() and min(numbers) >= 0 and min(work.values(), default=1.0) >= _LEAST
    timely = job.deadline_s <= _MOST and _LEAST_CONFIDENCE <= job.confidence <= _MOST_CONFIDENCE
    counted = _countable(job.remaining_requests) and _countable(job.most_in_piece) and max(job.sigma, job.sigma_own) <= _WIDEST
    return at_home and agree and timely and counted and max(numbers) <= _MOST and not math.isnan(sum(numbers))


def _countable(requests: int | None) -> bool:
    return requests is None or 0 <= requests <= _MOST_REQUESTS


def _able(job: Job, key: str) -> bool:
    """Do its numbers make sense in that configuration? What is done may take no time."""
    seconds, watts, startup = job.seconds_on[key], job.power_w_on.get(key, math.nan), job.startup_s_on.get(key, math.nan)
    besides = [mapping.get(key, 0.0) for mapping in (job.idle_w_on, job.transfer_g_on, job.load_g_on)]
    done = job.remaining_requests <= 0
    return _usable([seconds, watts, startup, *besides]) and (seconds >= _LEAST or done) and _takes_some(job.configuration(key))


def _takes_some(config: Configuration) -> bool:
    return bool(config.takes) and _usable((n for _, n in config.shares), _LEAST)


def _numbers(effort: Effort) -> tuple[float, float, float]:
    return effort.seconds, effort.power_w, effort.startup_s
