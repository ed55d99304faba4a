"""What a policy is: a way to decide, under the same capacity, profiles and forecasts as all others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import msgspec

from batchsched.planner import Job, Plan, Problem
from batchsched.planner.problem import Risk

Planner = Callable[[Problem, float], Plan]
"""Of a problem, and of the seconds from the start of the simulation, which is midnight UTC, to the problem's origin."""


class Policy(msgspec.Struct, frozen=True):
    """A way to decide."""

    name: str
    planner: Callable[[], Planner]
    """Makes one, which may remember."""
    sees: Literal["issued", "perfect"] = "issued"
    lean: float = 0.0
    """So many standard deviations are added to what is expected of an hour: above 0 for caution; below 0 for the value of
    waiting, since one who waits may still choose."""
    risk: Risk = Risk()
    churn: float = 0.0
    """As `planner.churn` has it."""
    min_run_s: float = 0.0
    """As `planner.min_run_s` has it."""
    replan_s: float = 3600.0
    """How often forecasts are taken anew and everything is planned again; a new batch is planned at the next tick."""


class Queue:
    """Batches in the order in which they came: a job does not say when, so whoever plans remembers."""

    def __init__(self) -> None:
        self._place: dict[str, int] = {}
        self._came = 0

    def ordered(self, jobs: Iterable[Job]) -> list[Job]:
        """These jobs, first come first; of several that are new by what they are called."""
        named = {job.batch_id: job for job in jobs}
        for name in sorted(named.keys() - self._place.keys()):
            self._place[name] = self._came
            self._came += 1
        self._place = {name: place for name, place in self._place.items() if name in named}
        return sorted(named.values(), key=lambda job: self._place[job.batch_id])
