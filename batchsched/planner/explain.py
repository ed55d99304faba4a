"""A plan in words: why here, why then, what running now would have cost, what it waits for, how long it may wait."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from batchsched.planner.plan import Allotment, Plan
from batchsched.planner.problem import Configuration, Job, PoolState, Problem
from batchsched.planner.verdict import run_now_grams
from batchsched.units import JOULES_PER_KWH, format_duration, format_grams

if TYPE_CHECKING:
    from batchsched.planner.alternatives import Alternative
    from batchsched.planner.shadow import Shadow

_SOON_S = 1.0
_LITTLE = 0.002
"""A difference below this share is not worth a word."""


def explain(
    problem: Problem,
    plan: Plan,
    batch_id: str,
    *,
    origin_at: datetime,
    latest_start_s: float | None = None,
    in_time: bool = False,
    shadow: Shadow | None = None,
) -> list[str]:
    """Sentences about one job. `origin_at`: the instant of second 0; `in_time`: it is left to the plan, though its latest safe
    start has passed; `shadow`: the problem's prices, to say what the next best would cost everybody. Raises KeyError where the
    job is not in the problem."""
    job = next((job for job in problem.jobs if job.batch_id == batch_id), None)
    if job is None:
        raise KeyError(batch_id)
    mine = plan.of(batch_id)
    out = [_where(problem, job, run, origin_at) for run in _runs(mine)]
    if not mine:
        out.append(
            "No pool has room for it before its deadline." if job.seconds_on else f"No pool may run the model {job.model}."
        )
    out += [text for text in (_why_then(problem, mine), *_next_best(problem, plan, job, mine, origin_at, shadow)) if text]
    waiting = waiting_for(problem, plan, batch_id)
    if waiting:
        out.append(f"Until {_clock(origin_at, waiting[1])} it waits for {waiting[0]}.")
    out += _run_now(problem, plan, job)
    if latest_start_s is not None:
        out.append(_latest(job, latest_start_s, origin_at, in_time=in_time))
    if batch_id in plan.late:
        out.append(f"{plan.late[batch_id]:.0f} of its requests are not expected to be done by the deadline.")
    if batch_id in plan.later:
        out.append(f"{plan.later[batch_id]:.0f} of its requests are left for after the planned horizon.")
    return out


def waiting_for(problem: Problem, plan: Plan, batch_id: str) -> tuple[str, float] | None:
    """What a job waits for, and until which second (its engine starts then); None while it may run or has no place."""
    mine = plan.of(batch_id)
    starts = [plan.slots[use.slot_index].start_s for use in plan.uses if use.batch_id == batch_id and use.seconds > 0]
    if not mine or min(starts) <= _SOON_S:
        return None
    first, until = mine[0], min(starts)
    pool = problem.pool(first.pool)
    opens = next((index for index, open_to in enumerate(pool.capacity) if open_to > 0), None)
    if opens is None or problem.slots[opens].start_s >= until - _SOON_S:
        return f"pool {pool.name} to open", until
    before = f"pool {pool.name} to open, and then for " if opens else ""
    now, then = pool.intensity_g_per_kwh[opens], _mean(problem, pool, [first])
    if now is not None and then is not None and then < now and plan.solver != "at-once":
        return f"{before}cleaner power in {pool.zone} ({then:.0f} instead of {now:.0f} gCO2e/kWh)", until
    if any(a.slot_index == opens for a in plan.on(pool.name)):
        return f"{before}batches with an earlier deadline", until
    return f"{before}its turn on pool {pool.name}", until


def _runs(mine: list[Allotment]) -> list[list[Allotment]]:
    """Allotments of adjoining slots in one configuration, together; in order of time."""
    runs: dict[str, list[list[Allotment]]] = {}
    for a in mine:
        on_pool = runs.setdefault(a.key, [])
        if on_pool and abs(on_pool[-1][-1].end_s - a.start_s) < _SOON_S:
            on_pool[-1].append(a)
        else:
            on_pool.append([a])
    return sorted((run for on_pool in runs.values() for run in on_pool), key=lambda run: (run[0].start_s, run[0].key))


def _where(problem: Problem, job: Job, run: list[Allotment], origin_at: datetime) -> str:
    pool = problem.pool(run[0].pool)
    place = f"{_named(problem, job, run[0].key)} in {pool.zone}" + (" (a simulated place)" if pool.simulated else "")
    start, end = _clock(origin_at, run[0].start_s), _clock(origin_at, run[-1].end_s)
    share = sum(a.requests for a in run) / max(1, job.remaining_requests)
    return f"Between {start} and {end} it runs on {place}: {min(1.0, share):.0%} of what is left."


def _why_then(problem: Problem, mine: list[Allotment]) -> str:
    if not mine:
        return ""
    pool = problem.pool(mine[0].pool)
    now, then = pool.intensity_g_per_kwh[0], _mean(problem, pool, [a for a in mine if a.pool == pool.name])
    if now is None or then is None:
        return (
            f"The carbon intensity in {pool.zone} is not known for all of that time, so it goes early rather than wait blindly."
        )
    if now - then < 0.005 * max(now, 1e-9):
        return f"Power in {pool.zone} is at {now:.0f} gCO2e/kWh now and expected at {then:.0f} then: no gain in waiting."
    return f"Power in {pool.zone} is expected at {then:.0f} gCO2e/kWh then, {now:.0f} now."


def _next_best(
    problem: Problem, plan: Plan, job: Job, mine: list[Allotment], origin_at: datetime, shadow: Shadow | None
) -> list[str]:
    """The next best hour and the next best place, by prices; by what the place alone would cost where there are none."""
    from batchsched.planner.alternatives import next_hour, next_place

    if shadow is None or not mine:
        return [_why_here(problem, plan, job, mine)]
    hour, place = next_hour(shadow, job, mine), next_place(shadow, job, mine)
    told = [_dearer(hour, "At the next best other time", origin_at)] if hour else []
    if place is None:
        return [*told, _why_here(problem, plan, job, mine)]
    return [*told, _dearer(place, f"On {_named(problem, job, place.place.key)}, the next best place", origin_at)]


def _dearer(other: Alternative, where: str, origin_at: datetime) -> str:
    at = f"{where} (from {_clock(origin_at, other.start_s)}),"
    if other.full:
        return f"{at} there is no room for it unless other work is late."
    if other.more_g <= _LITTLE * max(other.place.own_g, 1e-9):
        return f"{at} it would cost no more worth speaking of."
    said = f"{at} all batches together would cost at least {format_grams(other.more_g)} more"
    if abs(other.more_g - other.power_g) <= 0.05 * other.more_g:
        return f"{said}, for its power."
    if other.power_g > other.more_g:
        return f"{said}: {format_grams(other.power_g)} for its power, less what the place that it leaves saves other work."
    if other.power_g <= 0.05 * other.more_g:
        return f"{said}, for other work needs that place more."
    return f"{said}: {format_grams(other.power_g)} for its power, the rest because other work needs that place."


def _why_here(problem: Problem, plan: Plan, job: Job, mine: list[Allotment]) -> str:
    planned = plan.grams_expected.get(job.batch_id)
    used = {a.key for a in mine}
    open_to = [key for key in job.seconds_on if key not in used and problem.has(job.configuration(key))]
    others = {key: _best_alone(problem, job, key) for key in open_to}
    known = {name: grams for name, grams in others.items() if grams is not None}
    if not known or planned is None:
        return ""
    planned += sum(_made_g_per_s(problem, job.configuration(a.key)) * a.seconds for a in mine)
    name = min(known, key=lambda n: (known[n], n))
    if known[name] <= planned and plan.solver == "at-once":
        return ""  # it is free, but nothing is shifted
    if known[name] <= planned:
        could = f"P{_named(problem, job, name)[1:]} could do it for {format_grams(known[name])}"
        return f"{could}, but is needed for other work or for the deadline."
    return f"On {_named(problem, job, name)}, the next best, it would cost at least {format_grams(known[name])}."


def _named(problem: Problem, job: Job, key: str) -> str:
    """A configuration: its pools, with the model that serves the job there where it accepts several, and how."""
    config = job.configuration(key)
    names = [*config.takes, *(link.pool for link in problem.links if link.pool and link.name in config.links)]
    pools = f"pool{'s' if len(names) > 1 else ''} {' and '.join(names)}"
    model = f" with {config.model}" if job.configurations else ""
    return pools + model + (f" ({config.mode})" if config.mode != "standalone" else "")


def _best_alone(problem: Problem, job: Job, key: str) -> float | None:
    """Grams in a configuration's cleanest open slots before the deadline, were it alone there; None where it does not fit."""
    config = job.configuration(key)
    pool = problem.pool(config.pool)
    left, grams = job.seconds_on[key], 0.0
    slots = [
        (g, min(c, float(job.width)) * slot.length_s)
        for slot, c, g in zip(problem.slots, _open(problem, config), pool.intensity_g_per_kwh, strict=True)
        if g is not None and slot.end_s <= job.deadline_s
    ]
    for intensity, seconds in sorted(slots):
        take = min(left, seconds)
        grams += take * job.power_w_on[key] / JOULES_PER_KWH * pool.pue * intensity
        left -= take
    grams += _made_g_per_s(problem, config) * job.seconds_on[key]  # 0 unless the policy weighs it
    return grams if left <= 1e-6 else None


def _made_g_per_s(problem: Problem, config: Configuration) -> float:
    """What the making of all that a replica takes weighs in a second."""
    making = {one.name: one.embodied_g_per_s or 0.0 for one in problem.places}
    return sum(making[name] * taken for name, taken in config.shares)


def _open(problem: Problem, config: Configuration) -> list[float]:
    """Replicas of a configuration that are open in each slot."""
    rows = [[open_ / taken for open_ in problem.capacity[name]] for name, taken in config.shares]
    return [min(column) for column in zip(*rows, strict=True)]


def _run_now(problem: Problem, plan: Plan, job: Job) -> list[str]:
    now, planned = run_now_grams(problem, job), plan.grams_expected.get(job.batch_id)
    if now is None or planned is None:
        return []
    at_once = f"run at once on the newest hardware at home it would be {format_grams(now)}"
    return [f"The plan is expected to emit {format_grams(planned)}; {at_once}."]


def _latest(job: Job, latest_start_s: float, origin_at: datetime, *, in_time: bool) -> str:
    deadline = _clock(origin_at, job.deadline_s)
    if in_time:
        return f"Its latest safe start has passed; the plan has it in time for {deadline}, so it is left to that."
    if latest_start_s <= 0 or not math.isfinite(latest_start_s):
        return f"It may not wait any longer: the deadline at {deadline} would be at risk."
    latest = f"{_clock(origin_at, latest_start_s)} at the latest (in {format_duration(latest_start_s)})"
    return f"Unless the plan of then has it in time, it starts at {latest}, so that {deadline} is kept with {job.confidence:.0%}."


def _mean(problem: Problem, pool: PoolState, mine: list[Allotment]) -> float | None:
    """Intensity over the work of these allotments; None where part of it is unknown."""
    weighted = [(pool.intensity_g_per_kwh[_parent(problem, a)], a.seconds) for a in mine]
    total = sum(seconds for _, seconds in weighted)
    if total <= 0 or any(g is None for g, _ in weighted):
        return None
    return sum((g or 0.0) * seconds for g, seconds in weighted) / total


def _parent(problem: Problem, a: Allotment) -> int:
    """The problem's slot in which an allotment of the plan's finer slots lies."""
    middle = (a.start_s + a.end_s) / 2
    return next((t for t, slot in enumerate(problem.slots) if slot.start_s <= middle < slot.end_s), len(problem.slots) - 1)


def _clock(origin_at: datetime, seconds: float) -> str:
    """An instant for people, in UTC, with the day where it is not today's."""
    at = origin_at + timedelta(seconds=max(-1e8, min(1e8, seconds)))
    shape = "%H:%M:%S UTC" if at.date() == origin_at.date() else "%a %d %b %H:%M UTC"
    return at.strftime(shape)
