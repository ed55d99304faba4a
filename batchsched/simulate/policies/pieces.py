"""Policies that decide on each batch once, when it comes, and run it in one piece, on one pool, without a break.

- **lowest window** (the lowest window of GAIA, Hanafy et al., ASPLOS 2024; the strategy for workloads that cannot be interrupted
  of Let's Wait Awhile, Wiesner et al., Middleware 2021): where the whole piece emits least.
- **lowest slot** (GAIA): where the first hour emits least, whatever comes after it.
- **carbon-time** (GAIA): where it saves most, against a start at once, for a second from its coming until it is done.

The papers' jobs have a length and a number of machines: here as many replicas as let a batch run in an eighth of its window, and
its expected work. GAIA takes the mean length of all jobs where a job's own is not known; here it is, as for all policies. The
papers ignore capacity, and have one place: here what was decided before keeps its room, and all pools are looked at alike.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from batchsched.planner import Job, Plan, Problem
from batchsched.planner.fleet_model import Floats, Ints
from batchsched.simulate.policies.chosen import Chosen
from batchsched.simulate.policies.policy import Planner, Queue
from batchsched.simulate.policies.rows import Rows, fastest

Score = Callable[[Floats, Floats, Floats, float], Floats]
"""Of the grams of each piece, of its grams were all of it as its first slot, of the seconds until it is done, and of the grams
of the piece that begins at once on the newest hardware; the least wins."""


def lowest_window() -> Planner:
    """Where the whole piece emits least."""
    return InOnePiece(lambda grams, _first_g, _end_s, _now_g: grams)


def lowest_slot() -> Planner:
    """Where its first slot emits least."""
    return InOnePiece(lambda _grams, first_g, _end_s, _now_g: first_g)


def carbon_time() -> Planner:
    """Where most is saved for the time until it is done."""
    return InOnePiece(lambda grams, _first_g, end_s, now_g: (grams - now_g) / end_s)


class InOnePiece:
    """Each batch where `score` is least."""

    def __init__(self, score: Score) -> None:
        self._score, self._queue, self._chosen = score, Queue(), Chosen()

    def __call__(self, problem: Problem, now_s: float) -> Plan:
        """What was chosen before stays; then the new ones, in order of coming."""
        rows = Rows(problem)
        jobs = self._queue.ordered(rows.jobs)
        self._chosen.forget(jobs)
        for job in jobs:
            if job in self._chosen:
                self._chosen.follow(rows, job, now_s)
        for job in jobs:
            if job not in self._chosen:
                self._chosen.keep(rows, job, self._best(rows, job), now_s)
                self._chosen.follow(rows, job, now_s)
        return rows.plan()

    def _best(self, rows: Rows, job: Job) -> list[tuple[str, int, float]]:
        """Configuration, slot and seconds; none where it fits nowhere in one piece."""
        now_g = _now_g(rows, job)
        found: list[tuple[float, int, str]] = []
        for key in fastest(job):
            starts, grams, first_g, end_s = _pieces(rows, job, key)
            if len(starts):
                scores = self._score(grams, first_g, end_s, now_g)
                best = int(np.argmin(scores))
                found.append((float(scores[best]), int(starts[best]), key))
        return _cells(rows, job, *min(found)[1:]) if found else []


def _pieces(rows: Rows, job: Job, key: str) -> tuple[Ints, Floats, Floats, Floats]:
    """The slots in which it may begin so that there is room without a break until it is done, in time; and for each of them the
    grams, the grams were all as in that slot, and the seconds until it is done."""
    width, slots = rows.width(job, key), rows.in_time(job)
    lasts_s = job.seconds_on[key] / width + job.startup_s_on[key]
    free, rate = rows.free_s(job, key)[:slots], rows.second_g(job, key)[:slots] * width
    done_s = rows.start_s[:slots] + lasts_s
    last = np.searchsorted(rows.end_s[:slots], done_s - 1e-6)
    starts = np.flatnonzero(last < slots)
    last, done_s = last[starts], done_s[starts]
    full = np.append(0, np.cumsum(free < width * rows.length_s[:slots] - 1e-6))
    needed = width * (done_s - rows.start_s[last])
    open_to = (full[last] == full[starts]) & (free[last] >= needed - 1e-6)
    starts, last, done_s = starts[open_to], last[open_to], done_s[open_to]
    spent = np.append(0.0, np.cumsum(rate * rows.length_s[:slots]))
    grams = spent[last] - spent[starts] + rate[last] * (done_s - rows.start_s[last])
    return starts, grams, rate[starts] * lasts_s, done_s


def _now_g(rows: Rows, job: Job) -> float:
    """Grams of all of it where it begins at once on the newest hardware and has no break, whether there is room or not."""
    key = rows.newest(job)[0]
    width = rows.width(job, key)
    done_s = np.minimum(rows.end_s, rows.start_s[0] + job.seconds_on[key] / width + job.startup_s_on[key])
    return float(rows.second_g(job, key) @ np.maximum(0.0, done_s - rows.start_s)) * width


def _cells(rows: Rows, job: Job, start: int, key: str) -> list[tuple[str, int, float]]:
    """The piece that begins there."""
    width = rows.width(job, key)
    left = job.seconds_on[key] + width * job.startup_s_on[key]
    cells: list[tuple[str, int, float]] = []
    for slot in range(start, len(rows.length_s)):
        seconds = min(left, width * float(rows.length_s[slot]))
        cells.append((key, slot, seconds))
        left -= seconds
        if left <= 1e-6:
            break
    return cells
