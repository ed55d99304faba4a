"""Jobs that differ only in size and deadline, taken together: what the solver sees.

A class has one set of configurations, at one set of relative speeds. How its share of the fleet is divided among its jobs is
decided afterwards, by earliest deadline (disaggregate.py).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence

import msgspec

from batchsched.planner.price import RISK_SHARE, late_marks, work_s
from batchsched.planner.problem import Configuration, Job, Problem

_STEPS_PER_E = 20
"""Relative speeds within 5 % count as equal."""
_EPS_S = 1e-6


class Mark(msgspec.Struct, frozen=True):
    """By the end of the first `slots` slots `work_s` of a class should be done; each second missing costs `share` of a loss.

    `lost`: what is missing here is given up for good, and no later mark asks for it again; that can be at most `own_s`, the work
    that falls due just here.
    """

    slots: int
    share: float
    lost: bool
    work_s: float
    own_s: float


class WorkClass(msgspec.Struct, frozen=True):
    """Work is counted in seconds where it is fastest; `ratio` says how many seconds another configuration takes for one of these.

    All mappings have the jobs' names for the configurations.
    """

    configs: dict[str, Configuration]
    jobs: list[Job]
    ratio: dict[str, float]
    power_w: dict[str, float]
    startup_s: dict[str, float]
    transfer_g_per_s: dict[str, float]
    load_g: dict[str, float]
    idle_w: dict[str, float]
    weight: float
    marks: list[Mark]
    width: int

    @property
    def work_s(self) -> float:
        """All of its work."""
        return sum(work_s(job) for job in self.jobs)


def classes(problem: Problem, due: dict[str, float]) -> list[WorkClass]:
    """The classes of a problem's runnable jobs, in a fixed order."""
    groups: dict[tuple[object, ...], list[Job]] = defaultdict(list)
    for job in problem.jobs:
        if job.remaining_requests > 0 and work_s(job) > 0:
            least = work_s(job)
            speeds = tuple((p, round(_STEPS_PER_E * math.log(s / least))) for p, s in sorted(job.seconds_on.items()))
            configs = tuple(job.configuration(key).name for key, _ in speeds)
            groups[configs, speeds, job.weight, job.finish_late].append(job)
    return [_class(problem, due, jobs) for _, jobs in sorted(groups.items(), key=lambda item: repr(item[0]))]


def _class(problem: Problem, due: dict[str, float], jobs: list[Job]) -> WorkClass:
    keys, works = list(jobs[0].seconds_on), [(job, work_s(job)) for job in jobs]
    total = sum(work for _, work in works)
    return WorkClass(
        {key: jobs[0].configuration(key) for key in keys},
        jobs,
        {key: max(job.seconds_on[key] / work for job, work in works) for key in keys},
        {key: sum(job.power_w_on[key] * work for job, work in works) / total for key in keys},
        {key: max(job.startup_s_on[key] for job in jobs) for key in keys},
        {key: sum(job.transfer_g_per_s(key) * work for job, work in works) / total for key in keys},
        {key: max(job.load_g_on.get(key, 0.0) for job in jobs) for key in keys},
        {key: max(job.idle_w(key) for job in jobs) for key in keys},
        jobs[0].weight,
        _marks(problem, due, jobs),
        sum(job.width for job in jobs),
    )


def _marks(problem: Problem, due: dict[str, float], jobs: list[Job]) -> list[Mark]:
    """Prefix rows: by each due time and deadline, the work of all jobs that are due by then."""
    ends = [slot.end_s for slot in problem.slots]
    asked: dict[tuple[int, float, bool], set[str]] = defaultdict(set)
    for job in jobs:
        if job.deadline_s > problem.end_s:
            asked[len(ends), RISK_SHARE, not job.finish_late].add(job.batch_id)
            continue
        asked[slots_by(ends, due[job.batch_id]), RISK_SHARE, False].add(job.batch_id)
        for at in (job.deadline_s, *late_marks(problem, job)):
            asked[slots_by(ends, at), 1.0, not job.finish_late].add(job.batch_id)
    work = {job.batch_id: work_s(job) for job in jobs}
    owed: dict[tuple[float, bool], set[str]] = defaultdict(set)
    marks: list[Mark] = []
    for (slots, share, lost), names in sorted(asked.items()):
        kind = owed[0.0 if lost else share, lost]
        kind |= names
        marks.append(Mark(slots, share, lost, sum(work[n] for n in sorted(kind)), sum(work[n] for n in sorted(names))))
    return marks


def slots_by(ends: Sequence[float], at: float) -> int:
    """How many slots end by an instant; `ends`: of all slots, in order."""
    return bisect_right(ends, at + _EPS_S)
