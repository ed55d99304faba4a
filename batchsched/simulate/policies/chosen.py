"""What was decided of a batch when it came, once and for all: stretches of time on configurations."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from batchsched.planner import Job
from batchsched.simulate.policies.rows import Rows

Stretch = tuple[str, float, float, float]
"""A job's name for a configuration; from when to when, in seconds of the simulation; replica-seconds of work and of starting."""


class Chosen:
    """Of all batches that are open."""

    def __init__(self) -> None:
        self._of: dict[str, list[Stretch]] = {}

    def __contains__(self, job: Job) -> bool:
        return job.batch_id in self._of

    def keep(self, rows: Rows, job: Job, cells: Iterable[tuple[str, int, float]], now_s: float) -> None:
        """From now on it is to run there: name of the configuration, slot, seconds."""
        stretches = [(key, now_s + float(rows.start_s[t]), now_s + float(rows.end_s[t]), s) for key, t, s in cells]
        self._of[job.batch_id] = stretches

    def forget(self, jobs: Iterable[Job]) -> None:
        """All but these."""
        named = {job.batch_id for job in jobs}
        self._of = {name: stretches for name, stretches in self._of.items() if name in named}

    def follow(self, rows: Rows, job: Job, now_s: float) -> None:
        """Place what lies ahead as it was decided. What it takes longer than was thought then it goes on with where it is or is
        to be; what has no place even so runs as soon as it can."""
        first = None
        for key, start_s, end_s, seconds in self._of[job.batch_id]:
            if key in job.seconds_on:
                for slot in self._slots(rows, start_s - now_s, end_s - now_s):
                    first = (key, slot) if first is None else first
                    common = min(end_s - now_s, rows.end_s[slot]) - max(start_s - now_s, rows.start_s[slot])
                    rows.put(job, key, slot, seconds * float(common) / (end_s - start_s))
        if first is not None:
            self._go_on(rows, job, *first)
        rows.rest(job)

    def _go_on(self, rows: Rows, job: Job, key: str, first: int) -> None:
        """No wider than it was to be."""
        width = rows.width(job, key)
        for slot in range(first, rows.in_time(job)):
            rows.put(job, key, slot, width * float(rows.length_s[slot]) - rows.placed_s(job, key, slot))

    @staticmethod
    def _slots(rows: Rows, start_s: float, end_s: float) -> range:
        """Those that have more than an instant in common with a stretch."""
        since = int(np.searchsorted(rows.end_s, start_s + 1e-3, side="right"))
        until = int(np.searchsorted(rows.start_s, end_s - 1e-3, side="left"))
        return range(since, until)
