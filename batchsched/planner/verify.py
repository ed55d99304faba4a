"""An independent check of a plan, before it is published. It shares no code with the solvers, on purpose."""

from __future__ import annotations

import math
from collections import defaultdict

from batchsched.errors import UnsafePlan
from batchsched.planner.plan import Allotment, Load, Plan
from batchsched.planner.problem import Configuration, Job, Problem

_SLACK = 1e-5
"""Relative rounding that is let pass."""


def verify(problem: Problem, plan: Plan) -> None:
    """Raises UnsafePlan with every rule that the plan breaks."""
    broken = violations(problem, plan)
    if broken:
        more = f" (and {len(broken) - 10} more)" if len(broken) > 10 else ""
        raise UnsafePlan("The plan breaks its rules: " + "; ".join(broken[:10]) + more + ".")


def violations(problem: Problem, plan: Plan) -> list[str]:
    """What is wrong with the plan, in words; empty when it is safe."""
    broken = _malformed(problem, plan)
    rules = (_overfull, _too_wide, _unserved, _cold, _idle)
    return broken or [text for rule in rules for text in rule(problem, plan)]


def _malformed(problem: Problem, plan: Plan) -> list[str]:
    broken: list[str] = []
    jobs = {job.batch_id: job for job in problem.jobs}
    known = {one.name for one in problem.pools} | {link.name for link in problem.links}
    for use in plan.uses:
        what = f"{use.batch_id} on {use.pool} in slot {use.slot_index}"
        if use.batch_id not in jobs:
            broken.append(f"{what}: there is no such job")
            continue
        config = _config(jobs[use.batch_id], use)
        if config is None or next(iter(config.takes)) != use.pool or not known.issuperset({*config.takes, *config.links}):
            broken.append(f"{what}: the job may not run there")
        if not 0 <= use.slot_index < len(plan.slots):
            broken.append(f"{what}: there is no such slot")
        if not (math.isfinite(use.seconds) and use.seconds >= 0):
            broken.append(f"{what}: {use.seconds} seconds")
        if isinstance(use, Load) and use.starts < 0:
            broken.append(f"{what}: {use.starts} engine starts")
    for name, counts in (("late", plan.late), ("later", plan.later)):
        for batch_id, requests in counts.items():
            if batch_id not in jobs or not (math.isfinite(requests) and requests >= 0):
                broken.append(f"{batch_id}: {requests} requests {name}")
    return broken or _misplaced(problem, plan)


def _config(job: Job, use: Allotment | Load) -> Configuration | None:
    """What a job is run by there: work has its own name for it, a start the name that it has itself."""
    wanted = (use.config or use.pool) if isinstance(use, Allotment) else None
    for own in job.seconds_on:
        config = job.configurations.get(own) or Configuration(job.model, {own: 1.0})
        if own == wanted or (wanted is None and config.name == use.config):
            return config
    return None


def _misplaced(problem: Problem, plan: Plan) -> list[str]:
    """Slots with gaps; allotments outside their slot."""
    broken: list[str] = []
    clock = problem.slots[0].start_s if problem.slots else 0.0
    for slot in plan.slots:
        if abs(slot.start_s - clock) > _SLACK or slot.length_s <= 0:
            broken.append(f"the slots have a gap at {clock} s")
        clock = slot.start_s + slot.length_s
    for a in plan.allotments:
        slot = plan.slots[a.slot_index]
        if a.start_s < slot.start_s - _SLACK or a.end_s > slot.start_s + slot.length_s + _SLACK or a.end_s < a.start_s:
            broken.append(f"{a.batch_id} on {a.pool}: {a.start_s}..{a.end_s} s is not within slot {a.slot_index}")
    return broken


def _overfull(problem: Problem, plan: Plan) -> list[str]:
    """More than a pool or a link has open in a slot; a closed pool has nothing."""
    jobs = {job.batch_id: job for job in problem.jobs}
    taken: dict[tuple[str, int], float] = defaultdict(float)
    for use in plan.uses:
        config = _config(jobs[use.batch_id], use)
        for name, share in [*config.takes.items(), *config.links.items()] if config else []:
            taken[name, use.slot_index] += use.seconds * share
    capacity = {pool.name: pool.capacity for pool in problem.pools} | {link.name: link.capacity for link in problem.links}
    parts = _parts(problem, plan)
    broken: list[str] = []
    for (name, index), seconds in sorted(taken.items()):
        open_s = sum(length_s * capacity[name][t] for t, length_s in parts[index])
        if seconds > open_s * (1 + _SLACK) + _SLACK:
            broken.append(f"{name} in slot {index}: {seconds:.3f} replica-seconds where {open_s:.3f} are open")
    return broken


def _parts(problem: Problem, plan: Plan) -> list[list[tuple[int, float]]]:
    """Of each of the plan's slots, which of the problem's it lies in, with how many seconds."""
    out: list[list[tuple[int, float]]] = []
    first = 0
    for slot in plan.slots:
        start, end = slot.start_s, slot.start_s + slot.length_s
        while first < len(problem.slots) and problem.slots[first].start_s + problem.slots[first].length_s <= start:
            first += 1
        mine: list[tuple[int, float]] = []
        for t in range(first, len(problem.slots)):
            if problem.slots[t].start_s >= end:
                break
            until = problem.slots[t].start_s + problem.slots[t].length_s
            mine.append((t, min(end, until) - max(start, problem.slots[t].start_s)))
        out.append(mine)
    return out


def _too_wide(problem: Problem, plan: Plan) -> list[str]:
    """More replicas at once than the job has chunks."""
    taken: dict[tuple[str, int], float] = defaultdict(float)
    for a in plan.allotments:
        taken[a.batch_id, a.slot_index] += a.seconds
    jobs = {job.batch_id: job for job in problem.jobs}
    return [
        f"{batch_id} in slot {index}: more than its {jobs[batch_id].width} replicas at once"
        for (batch_id, index), seconds in sorted(taken.items())
        if seconds > jobs[batch_id].width * plan.slots[index].length_s * (1 + _SLACK) + _SLACK
    ]


def _unserved(problem: Problem, plan: Plan) -> list[str]:
    """Every request is done in time, counted late, or left for later with leave."""
    broken: list[str] = []
    mine: dict[str, list[Allotment]] = defaultdict(list)
    for a in plan.allotments:
        mine[a.batch_id].append(a)
    for job in problem.jobs:
        slack = _SLACK * max(1.0, job.remaining_requests)
        total = in_time = 0.0
        for a in mine[job.batch_id]:
            seconds = job.seconds_on[a.config or a.pool]
            if abs(a.requests * seconds - a.seconds * job.remaining_requests) > slack * seconds:
                broken.append(f"{job.batch_id} on {a.pool}: {a.requests:.3f} requests do not take {a.seconds:.3f} s")
            total += a.requests
            in_time += a.requests if a.end_s <= job.deadline_s + _SLACK else 0.0
        broken += _miscounted(problem, plan, job, total, in_time, slack)
    return broken


def _miscounted(problem: Problem, plan: Plan, job: Job, total: float, in_time: float, slack: float) -> list[str]:
    beyond = job.deadline_s > problem.end_s
    late, later = plan.late.get(job.batch_id, 0.0), plan.later.get(job.batch_id, 0.0)
    if total > job.remaining_requests + slack:
        return [f"{job.batch_id}: {total:.3f} requests assigned of {job.remaining_requests}"]
    if total > in_time + slack and not job.finish_late:
        return [f"{job.batch_id}: {total - in_time:.3f} requests assigned after the deadline"]
    if later > 0 and not beyond:
        return [f"{job.batch_id}: {later:.3f} requests left for later, but the deadline lies within the horizon"]
    if abs(in_time + late + later - job.remaining_requests) > slack:
        return [f"{job.batch_id}: {in_time:.3f} in time and {late + later:.3f} late are not {job.remaining_requests} requests"]
    return []


def _cold(problem: Problem, plan: Plan) -> list[str]:
    """Work on replicas that are not ready for it, and more replicas kept ready than there are."""
    jobs = {job.batch_id: job for job in problem.jobs}
    work: dict[str, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    startup: dict[str, float] = {}
    configs: dict[str, Configuration] = {}
    for a in plan.allotments:
        if config := _config(jobs[a.batch_id], a):
            configs[config.name] = config
            work[config.name][a.slot_index] += a.seconds
            startup[config.name] = min(startup.get(config.name, math.inf), jobs[a.batch_id].startup_s_on[a.config or a.pool])
    loads: dict[str, list[Load]] = defaultdict(list)
    for load in plan.loads:
        loads[load.config].append(load)
    pools = {pool.name: pool for pool in problem.pools}
    holding: dict[str, list[float]] = {name: [0.0] * len(plan.slots) for name in pools}
    broken: list[str] = []
    for name, busy in sorted(work.items()):
        mine, config = loads[name], configs[name]
        broken += _too_short(plan, name, mine, startup[name])
        for load in mine:
            busy[load.slot_index] += load.seconds
        held = _least_held(plan, busy, _starts(mine))
        if held[0] > _loaded(problem, config):
            first = min(t for t, seconds in busy.items() if seconds > 0)
            broken.append(f"{name}: work in slot {first} and later on {held[0]} replicas that nobody started")
        for pool, share in config.takes.items():
            holding[pool] = [before + kept * share for before, kept in zip(holding[pool], held[1:], strict=True)]
    return broken + _overheld(problem, holding)


def _loaded(problem: Problem, config: Configuration) -> int:
    """Replicas of a configuration that are ready before the first slot."""
    first = next(iter(config.takes))
    plain = config.mode == "standalone" and not config.links and config.takes == {first: 1.0}
    return sum(pool.loaded.count(config.model if plain else config.name) for pool in problem.pools if pool.name == first)


def _overheld(problem: Problem, holding: dict[str, list[float]]) -> list[str]:
    broken: list[str] = []
    for pool in sorted(problem.pools, key=lambda pool: pool.name):
        there = max([len(pool.loaded), *(math.ceil(open_) for open_ in pool.capacity)], default=0)
        over = next((t for t, count in enumerate(holding[pool.name]) if count > there * (1 + _SLACK)), None)
        if over is not None:
            count = holding[pool.name][over]
            broken.append(f"{pool.name} in slot {over}: {count:g} replicas hold models, but there are {there}")
    return broken


def _idle(problem: Problem, plan: Plan) -> list[str]:
    """Replicas that wait for later work are said to, at the most watts of those that work on them."""
    jobs = {job.batch_id: job for job in problem.jobs}
    watts: dict[str, float] = defaultdict(float)
    busy: dict[str, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    starts: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for a in plan.allotments if any(job.idle_w_on for job in problem.jobs) else []:
        job, own = jobs[a.batch_id], a.config or a.pool
        if config := _config(job, a):
            busy[config.name][a.slot_index] += a.seconds
            watts[config.name] = max(watts[config.name], min(job.idle_w_on.get(own, 0.0), job.power_w_on[own]))
    for load in plan.loads:
        busy[load.config][load.slot_index] += load.seconds
        starts[load.config][load.slot_index] += load.starts
    said: dict[tuple[str, int], float] = defaultdict(float)
    for hold in plan.holds:
        said[hold.config, hold.slot_index] += hold.power_w * hold.seconds
    broken: list[str] = []
    for name in sorted(name for name in watts if watts[name] > 0):
        held = _least_held(plan, busy[name], starts[name])
        for t, slot in enumerate(plan.slots):
            stay = held[t + 1] - starts[name][t]
            joules = max(0.0, stay * slot.length_s - busy[name][t]) * watts[name]
            if joules > said[name, t] * (1 + _SLACK) + watts[name] * slot.length_s * _SLACK * max(1, stay):
                broken.append(f"{name} waits in slot {t} for {joules:.0f} J, and the plan says {said[name, t]:.0f} J")
    return broken


def _too_short(plan: Plan, what: str, loads: list[Load], startup_s: float) -> list[str]:
    """Starts take their time, from the beginning of their slot on; what would pass the horizon's end is not asked for."""
    asked: dict[int, float] = defaultdict(float)
    for load in loads:
        left, t = startup_s, load.slot_index
        while load.starts and left > 0 and t < len(plan.slots):
            asked[t] += load.starts * min(left, plan.slots[t].length_s)
            left -= plan.slots[t].length_s
            t += 1
    for load in loads:
        asked[load.slot_index] -= load.seconds
    return [
        f"{what}: engine starts take {seconds:.1f} s more in slot {t} than the plan says"
        for t, seconds in sorted(asked.items())
        if seconds > _SLACK * (1 + sum(load.seconds for load in loads))
    ]


def _starts(loads: list[Load]) -> dict[int, int]:
    """Replicas that begin, by slot."""
    found: dict[int, int] = defaultdict(int)
    for load in loads:
        found[load.slot_index] += load.starts
    return found


def _least_held(plan: Plan, busy: dict[int, float], starts: dict[int, int]) -> list[int]:
    """Replicas that must hold a model before the first slot, and at the end of each one, for what is done after it."""
    held = [0] * (len(plan.slots) + 1)
    for t in range(len(plan.slots) - 1, -1, -1):
        needed, begun = math.ceil(busy.get(t, 0.0) / plan.slots[t].length_s * (1 - _SLACK) - _SLACK), starts.get(t, 0)
        held[t] = max(0, needed - begun, held[t + 1] - begun)
    return held
