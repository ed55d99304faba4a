"""The latest safe start: until when waiting still keeps a deadline with the asked confidence.

Reads profiles, opening hours and deadlines, nothing else, so it holds when the solver, the forecast or the network is down.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise

import msgspec

from batchsched.planner.backward import Need, Span, fill_backward
from batchsched.planner.doubt import doubts, factor
from batchsched.planner.pieces import in_pieces, piece_s, spread
from batchsched.planner.problem import SURE, Job, Problem, Supply


class OpenPool(msgspec.Struct, frozen=True):
    """When a pool is open, with how many replicas: intervals in seconds, in any order; overlaps count once."""

    name: str
    replicas: float
    intervals: list[tuple[float, float]]
    supply: Supply = SURE
    speed: float = 1.0
    """How fast one replica works as a rule, by what efforts say: less where others have a part of it, which the replicas and
    intervals count already."""


def latest_safe_starts(jobs: list[Job], pools: list[OpenPool], margin_s: float = 0.0) -> dict[str, float]:
    """Seconds at which each job must start, earliest deadline first from then on; negative: already late.

    Counted at each job's confidence and with one engine start before its work. Jobs that share pools are stacked, so that they do
    not all wait for the last moment; and each leaves time for the chunks of others that its replicas may have in hand by then,
    for these are not taken from them: half of what one takes there. -inf where the pools' open time before the deadline does not
    suffice at all: give intervals that begin far enough before 0 to see by how much a job is late. `margin_s`: taken off the
    result, for the control loop's own delay.
    """
    spans = spans_of(pools)
    supplies: dict[str, tuple[Supply, float]] = {}
    for pool in pools:  # a pool may come in several layers
        supplies[pool.name] = pool.supply, supplies.get(pool.name, (SURE, 0.0))[1] + pool.replicas
    speeds = {pool.name: pool.speed for pool in pools}
    needs = [_need(job, supplies, speeds) for job in jobs if job.seconds_on and job.remaining_requests > 0]
    starts, busy_s = fill_backward(needs, spans).starts, _busy_s(jobs, supplies)
    return {
        job.batch_id: starts.get(job.batch_id, job.deadline_s if job.remaining_requests <= 0 else -math.inf)
        - busy_s.get(job.batch_id, 0.0)
        - margin_s
        for job in jobs
    }


def _busy_s(jobs: Sequence[Job], supplies: Mapping[str, tuple[Supply, float]]) -> dict[str, float]:
    """For how long replicas may be at work on others' chunks when a job must start: on average half of one, pools by what they
    do of the job. Where all chunks that may be in hand at once have a replica each, nobody waits."""
    cut = {job.batch_id: piece_s(job) for job in jobs if job.max_replicas and job.remaining_requests > 0}
    all_s, count, width = defaultdict[str, float](float), Counter[str](), Counter[str]()
    for job in jobs:
        for pool, seconds in cut.get(job.batch_id, {}).items():
            all_s[pool] += seconds
            count[pool] += 1
            width[pool] += job.width
    full = {pool for pool, many in count.items() if many > 1 and pool in supplies and 0 < supplies[pool][1] < width[pool]}
    found: dict[str, float] = {}
    for name, pieces in cut.items():
        rates = {pool: supplies[pool][1] / s for pool, s in pieces.items() if pool in full and s > 0}
        others_s = (rate * (all_s[pool] - pieces[pool]) / (count[pool] - 1) for pool, rate in rates.items())
        found[name] = 0.5 * math.fsum(others_s) / math.fsum(rates.values()) if rates else 0.0
    return found


def open_pools(problem: Problem, look_back_s: float = 30 * 86400.0) -> list[OpenPool]:
    """The pools of a problem as intervals. One that is open now is taken to have been so for `look_back_s` seconds.

    A slot counts as open for its share of replicas, so exact windows are better where they are known.
    """
    pools: list[OpenPool] = []
    for state in problem.pools:
        levels = sorted(set(state.capacity) - {0.0})
        below = 0.0
        for level in levels:  # one layer for each step of the capacity
            intervals = [
                (slot.start_s - (look_back_s if t == 0 else 0.0), slot.end_s)
                for t, slot in enumerate(problem.slots)
                if state.capacity[t] >= level
            ]
            pools.append(OpenPool(state.name, level - below, intervals, state.supply))
            below = level
    return pools


def _need(job: Job, supplies: Mapping[str, tuple[Supply, float]], speeds: Mapping[str, float]) -> Need:
    replicas = {at: count for at, (_, count) in supplies.items() if at in job.work_on}
    own = spread(job, sum(replicas.values())) if job.max_replicas else 0.0
    times = {place: factor(doubt, job.confidence) for place, doubt in doubts(job, supplies, own).items()}
    startup = max(job.startup_s_on.values(), default=0.0)
    work = {at: s * times[at] for at, s in job.work_on.items()}
    if job.max_replicas:
        work = in_pieces(work, job.width, replicas, job.largest, speeds)
    return Need(job.batch_id, job.deadline_s, work, job.width, startup)


def spans_of(pools: list[OpenPool]) -> list[Span]:
    """Stretches between all openings and closings, with the replicas of each pool; 0 where it is closed."""
    changes: dict[float, list[tuple[int, bool]]] = defaultdict(list)
    layers: dict[str, list[int]] = defaultdict(list)
    for i, pool in enumerate(pools):
        layers[pool.name].append(i)
        for start, end in _merge(pool.intervals):
            changes[start].append((i, True))
            changes[end].append((i, False))
    is_open = [False] * len(pools)
    replicas = dict.fromkeys(layers, 0.0)
    out: list[Span] = []
    for start, end in pairwise(sorted(changes)):
        for i, opens in changes[start]:
            is_open[i] = opens
        changed = {pools[i].name for i, _ in changes[start]}
        replicas = replicas | {name: sum(pools[i].replicas for i in layers[name] if is_open[i]) for name in changed}
        out.append(Span(start, end, replicas))
    return out


def _merge(intervals: list[tuple[float, float]]) -> list[tuple[float, float]]:
    out: list[tuple[float, float]] = []
    for start, end in sorted(intervals):
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(out[-1][1], end))
        elif end > start:
            out.append((start, end))
    return out
