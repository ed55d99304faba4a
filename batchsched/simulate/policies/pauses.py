"""Policies that stop work while the grid is dirty and go on when it is clean, with as many replicas as a paper's job has
machines.

- **lowest slots** (the strategy for workloads that can be interrupted of Let's Wait Awhile, Wiesner et al., Middleware 2021;
  GAIA, Hanafy et al., ASPLOS 2024, names it WaitAwhile): when a batch comes, the slots with the lowest intensity until its
  deadline, as many as it needs, on the pool on which they emit least together; decided once.
- **threshold** (GAIA's suspend and resume, after Ecovisor): in each hour, run if it is below the 30th percentile of the 24 h
  after the batch came, or if all its slack is spent. The paper has one place: here an hour is as clean as the cleanest pool in
  it, work goes there, and the percentile is of these. What a plan holds of later hours is only its intent.

As many replicas as let a batch run in an eighth of its window; what came before keeps its room.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np

from batchsched.planner import Job, Plan, Problem
from batchsched.planner.fleet_model import Floats
from batchsched.simulate.policies.chosen import Chosen
from batchsched.simulate.policies.policy import Queue
from batchsched.simulate.policies.rows import Rows, fastest

PERCENTILE = 0.3
AHEAD_S = 24 * 3600.0


class LowestSlots:
    """When a batch comes, the cleanest slots on one pool."""

    def __init__(self) -> None:
        self._queue, self._chosen = Queue(), Chosen()

    def __call__(self, problem: Problem, now_s: float) -> Plan:
        """What was chosen before stays; then the new ones, in order of coming."""
        rows = Rows(problem)
        jobs = self._queue.ordered(rows.jobs)
        self._chosen.forget(jobs)
        for job in sorted(jobs, key=lambda job: job not in self._chosen):
            if job not in self._chosen:
                found = [one for key in fastest(job) if (one := _lowest(rows, job, key))]
                cells = min(found, key=lambda one: one[0])[1] if found else []
                self._chosen.keep(rows, job, cells, now_s)
            self._chosen.follow(rows, job, now_s)
        return rows.plan()


def _lowest(rows: Rows, job: Job, key: str) -> tuple[float, list[tuple[str, int, float]]] | None:
    """Grams, and slots with their seconds in order of time; None where there is too little room in time."""
    width, slots = rows.width(job, key), rows.in_time(job)
    most = np.minimum(rows.free_s(job, key)[:slots], width * rows.length_s[:slots])
    second_g = rows.second_g(job, key)[:slots]
    left = job.seconds_on[key] + width * job.startup_s_on[key]
    taken: dict[int, float] = {}
    for slot in np.argsort(second_g, kind="stable").tolist():
        if left <= 1e-6:
            break
        if most[slot] > 1e-6:
            taken[slot] = min(left, float(most[slot]))
            left -= taken[slot]
    if left > 1e-6:
        return None
    grams = sum(second_g[slot] * seconds for slot, seconds in taken.items())
    return float(grams), [(key, slot, taken[slot]) for slot in sorted(taken)]


class Came(msgspec.Struct, frozen=True):
    """What was settled of a batch when it came: its threshold, and its replicas by configuration."""

    threshold_g: float
    width: dict[str, int]


class Threshold:
    """Below its threshold a batch runs."""

    def __init__(self) -> None:
        self._queue = Queue()
        self._came: dict[str, Came] = {}

    def __call__(self, problem: Problem, _now_s: float) -> Plan:
        """Batches in order of coming."""
        rows, came = Rows(problem), {}
        for job in self._queue.ordered(rows.jobs):
            second_g = _second_g(rows, job)
            settled = self._came.get(job.batch_id)
            if settled is None:
                widths = {key: rows.width(job, key) for key in job.seconds_on}
                settled = Came(_percentile(rows, second_g.min(axis=0)), widths)
            came[job.batch_id] = settled
            _place(rows, job, second_g, settled)
        self._came = came
        return rows.plan()


def _second_g(rows: Rows, job: Job) -> Floats:
    """Grams of a second of its work where it is fastest, of what takes longer elsewhere so much more, [configurations, slots]:
    what turns out of the lengths of its requests changes nothing about it."""
    grams: Floats = np.array([rows.grams(job, key) for key in fastest(job)]) / min(job.seconds_on.values())
    return grams


def _place(rows: Rows, job: Job, second_g: Floats, came: Came) -> None:
    """In the clean slots in order of time; where they do not suffice its slack is spent at last, and it runs from then on."""
    keys, ranks, slots = fastest(job), np.argsort(second_g, axis=0, kind="stable"), rows.in_time(job)
    clean = second_g.min(axis=0)[:slots] < came.threshold_g
    for slot in [*np.flatnonzero(clean).tolist(), *np.flatnonzero(~clean)[::-1].tolist()]:
        if rows.left(job) <= 1e-9:
            return
        _run(rows, job, slot, [keys[n] for n in ranks[:, slot].tolist()], came.width)
    rows.rest(job)


def _run(rows: Rows, job: Job, slot: int, keys: list[str], width: Mapping[str, int]) -> None:
    """With its replicas, on the cleanest pool that has room, and on the next with what of them has none there."""
    share = 1.0
    for key in keys:
        most = (width.get(key) or rows.width(job, key)) * float(rows.length_s[slot])
        share -= rows.put(job, key, slot, share * most) / most
        if share <= 1e-6 or rows.left(job) <= 1e-9:
            return


def _percentile(rows: Rows, values: Floats) -> float:
    """Of the next `AHEAD_S`, each value weighed by how long it lasts; between two of them in proportion."""
    lasts_s = np.clip(np.minimum(rows.end_s, AHEAD_S) - rows.start_s, 0.0, None)
    order = np.argsort(values, kind="stable")
    order = order[lasts_s[order] > 0]
    before = np.append(0.0, np.cumsum(lasts_s[order])[:-1])
    return float(np.interp(PERCENTILE, before / max(float(before[-1]), 1e-9), values[order]))
