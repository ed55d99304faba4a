"""A linear program over place and time, after PRISM (Shi, Shen, Ding, 2026).

PRISM routes groups of requests to regions at the least impact under the regions' capacity, one program for the whole day:
`min z` subject to the impact of the routing being at most (1 + z) times its least, each group routed whole, and capacity in each
region and hour. With one kind of impact, carbon, that is the least carbon. Its groups have their hour; here a group is a batch,
and it may be routed to any hour until it is due, which is what "over place and time" adds. The program knows no engine starts.
It is made anew from scratch at each planning, of at most `MOST_CELLS` of a batch's best cells.
"""

from __future__ import annotations

import numpy as np

from batchsched.planner import Job, Plan, Problem
from batchsched.planner.fleet_model import Floats, Ints
from batchsched.simulate.fluid import Choices, divided
from batchsched.simulate.policies.policy import Queue
from batchsched.simulate.policies.rows import Rows, fastest

MOST_CELLS = 200
LEFT_OUT = 10.0
"""What has no room weighs so many times as much as the dearest way to do any batch."""


class Routing:
    """All batches at once."""

    def __init__(self) -> None:
        self._queue = Queue()

    def __call__(self, problem: Problem, _now_s: float) -> Plan:
        """What the program leaves of a batch, by rounding or for lack of room, goes where it emits least, in order of coming."""
        rows = Rows(problem)
        jobs = self._queue.ordered(rows.jobs)
        parts = [part for number, job in enumerate(jobs) if (part := _choices(rows, job, number)) is not None]
        if parts:
            self._route(rows, jobs, Choices(*(np.concatenate(columns) for columns in zip(*parts, strict=True))))
        for job in jobs:
            rows.fill(job, rows.cheapest(job))
            rows.rest(job)
        return rows.plan()

    def _route(self, rows: Rows, jobs: list[Job], choices: Choices) -> None:
        names = list(rows.pools)
        room_s = np.concatenate([rows.room_s(name) for name in names])
        found = divided(choices, room_s, LEFT_OUT * float(choices.grams.max()))
        slots = len(rows.length_s)
        for n in np.flatnonzero(found.x[: len(choices.job)] > 1e-9).tolist():
            job, cell = jobs[int(choices.job[n])], int(choices.cell[n])
            key = names[cell // slots]
            rows.put(job, key, cell % slots, float(found.x[n]) * job.seconds_on[key])


def _choices(rows: Rows, job: Job, number: int) -> tuple[Ints, Ints, Floats, Floats, Floats] | None:
    """Of one batch, by itself on pools; None where there are none in time."""
    keys = [key for key in fastest(job) if key in rows.pools and job.configuration(key).plain]
    slots = rows.in_time(job)
    if not keys or not slots:
        return None
    places = {name: n for n, name in enumerate(rows.pools)}
    grams = np.array([rows.grams(job, key)[:slots] for key in keys]).ravel()
    free_s = np.array([rows.free_s(job, key)[:slots] for key in keys]).ravel()
    seconds = np.repeat([job.seconds_on[key] for key in keys], slots)
    cell = np.repeat([places[key] for key in keys], slots) * len(rows.length_s) + np.tile(np.arange(slots), len(keys))
    best = np.argsort(np.where(free_s > 1e-6, grams, np.inf), kind="stable")[:MOST_CELLS]
    best = best[free_s[best] > 1e-6]
    most = np.minimum(1.0, free_s[best] / seconds[best])
    return np.full(len(best), number), cell[best], grams[best], seconds[best], most
