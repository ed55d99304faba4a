"""What people do today: work runs at night, by cron, on the newest hardware that is free, whatever the grid says.

From 22 to 6 o'clock where the pool stands (its zone's winter time). A batch whose deadline comes before the night has room for it
is started by hand when it comes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from batchsched.forecasts.zones import utc_offset_h
from batchsched.planner import Job, Plan, Problem
from batchsched.simulate.policies.policy import Queue
from batchsched.simulate.policies.rows import Cell, Rows

FROM_H, UNTIL_H = 22, 6
Flags = NDArray[np.bool_]


class NightWindow:
    """Each batch in the nights before its deadline."""

    def __init__(self) -> None:
        self._queue = Queue()

    def __call__(self, problem: Problem, now_s: float) -> Plan:
        """Batches in order of coming."""
        rows = Rows(problem)
        dark = {name: _dark(rows, pool.zone, now_s) for name, pool in rows.pools.items()}
        for job in self._queue.ordered(rows.jobs):
            rows.fill(job, _cells(rows, job, dark))
            rows.soonest(job, rows.newest(job))
        return rows.plan()


def _cells(rows: Rows, job: Job, dark: dict[str, Flags]) -> Iterator[Cell]:
    """Those of the night that end in time, in order of time, the newest first."""
    keys = rows.newest(job)
    return ((key, slot) for slot in range(rows.in_time(job)) for key in keys if dark[job.configuration(key).pool][slot])


def _dark(rows: Rows, zone: str, now_s: float) -> Flags:
    """Of each slot: does the middle of it lie in the night there?"""
    hour = ((now_s + (rows.start_s + rows.end_s) / 2) / 3600 + utc_offset_h(zone)) % 24
    dark: Flags = (hour >= FROM_H) | (hour < UNTIL_H)
    return dark
