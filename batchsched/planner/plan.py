"""A plan as plain data: JSON-able with msgspec, archived as it is."""

from __future__ import annotations

import math
from collections import defaultdict
from functools import cached_property

import msgspec

from batchsched.planner.problem import Job, Slot, standalone


class Allotment(msgspec.Struct, frozen=True):
    """A job's share of a pool in a slot. Times are seconds from the plan's origin."""

    batch_id: str
    pool: str
    slot_index: int
    start_s: float
    end_s: float
    requests: float
    """How many of its remaining requests are expected to be done here."""
    seconds: float
    """Replica-seconds of work, engine start-up not counted."""
    config: str = ""
    """The job's name for the configuration; empty: the pool's, which is the model that the job names by itself."""

    @property
    def key(self) -> str:
        """The job's name for the configuration, in full."""
        return self.config or self.pool

    @property
    def crumb(self) -> bool:
        """Is it too little to begin with?"""
        return is_crumb(self.requests, self.seconds, self.end_s - self.start_s)


def is_crumb(requests: float, seconds: float, slot_s: float) -> bool:
    """Less than half a request, and less than half of what a replica does in the slot."""
    return requests < 0.5 and seconds < 0.5 * slot_s


class Load(msgspec.Struct, frozen=True):
    """Engine start-up that the plan pays for; its time is taken from the slot's capacity."""

    batch_id: str
    model: str
    pool: str
    slot_index: int
    seconds: float
    """Replica-seconds."""
    config: str = ""
    """The configuration's own name (problem.Configuration); where none is given the model's by itself on the pool."""
    starts: int = 0
    """Replicas that begin here; what goes on from the slot before is not counted again."""

    def __post_init__(self) -> None:
        """Plans of a version that knew no configurations are read too."""
        if not self.config:
            msgspec.structs.force_setattr(self, "config", standalone(self.model, self.pool).name)


class Hold(msgspec.Struct, frozen=True):
    """A model that is kept ready without work for what comes later; it burns idle power meanwhile."""

    batch_id: str
    """The first job that it is kept for."""
    model: str
    pool: str
    slot_index: int
    seconds: float
    """Replica-seconds without work, between work before and work to come."""
    config: str
    """The configuration's own name."""
    power_w: float
    """Of one replica meanwhile."""


class Interval(msgspec.Struct, frozen=True):
    """A figure that is not certain: its mean, and what it stays above and below in 9 of 10 cases each."""

    expected: float
    p10: float
    p90: float


def key_of(job: Job, use: Allotment | Load) -> str:
    """The job's name for the configuration of its work or of a start for it."""
    return use.key if isinstance(use, Allotment) else job.key_of(use.config)


class Plan(msgspec.Struct, frozen=True, dict=True):
    """What each pool should work on in each slot. The first slots bind, the rest is intent."""

    slots: list[Slot]
    allotments: list[Allotment]
    loads: list[Load] = []
    late: dict[str, float] = {}
    """Requests not done by the deadline (of a job that finishes late: done after it, or not within the horizon)."""
    later: dict[str, float] = {}
    """Requests left for after the horizon, of jobs whose deadline lies beyond it."""
    due_s: dict[str, float] = {}
    """By when each job's expected work should be done, so that what may come on top of it still meets the deadline."""
    grams_expected: dict[str, float | None] = {}
    """Operational grams by the forecast; None where part of a job lies in slots of unknown intensity."""
    objective: float = 0.0
    """Grams, with unknown intensity priced high, lateness priced steeply and a trace for waiting: comparable within a problem."""
    bound: float | None = None
    """Lower bound of the objective that the solver proved for its aggregated model, whose rounding to units of work and of speed
    can put it a little above the true one (at most 5 % in tests, 0 mostly); None: none was proved."""
    solver: str = "greedy"
    status: str = ""
    notes: list[str] = []
    holds: list[Hold] = []
    """Where models are kept ready between their uses, since that weighs less than starting them again."""
    grams_interval: Interval | None = None
    """Of all that it emits, and of the making of hardware where that is weighed; None where an intensity is unknown."""

    @property
    def gap(self) -> float | None:
        """How far above the bound at most, as a share of it; None where no bound was proved."""
        if self.bound is None:
            return None
        return max(0.0, self.objective - self.bound) / self.bound if self.bound > 0 else (math.inf if self.objective > 0 else 0.0)

    @property
    def uses(self) -> list[Allotment | Load]:
        """Everything that takes time of a pool."""
        return [*self.allotments, *self.loads]

    def of(self, batch_id: str) -> list[Allotment]:
        """The allotments of one job, in order of time."""
        return self._by_job.get(batch_id, [])

    def on(self, pool: str) -> list[Allotment]:
        """The allotments on one pool, in order of time."""
        return self._by_pool.get(pool, [])

    def at(self, batch_id: str, pool: str) -> list[Allotment]:
        """The allotments of one job on one pool, in order of time."""
        return self._by_both.get((batch_id, pool), [])

    @cached_property
    def _by_job(self) -> dict[str, list[Allotment]]:
        found: dict[str, list[Allotment]] = defaultdict(list)
        for a in sorted(self.allotments, key=lambda a: (a.start_s, a.pool)):
            found[a.batch_id].append(a)
        return dict(found)

    @cached_property
    def _by_both(self) -> dict[tuple[str, str], list[Allotment]]:
        found: dict[tuple[str, str], list[Allotment]] = defaultdict(list)
        for mine in self._by_job.values():
            for a in mine:
                found[a.batch_id, a.pool].append(a)
        return dict(found)

    @cached_property
    def _by_pool(self) -> dict[str, list[Allotment]]:
        found: dict[str, list[Allotment]] = defaultdict(list)
        for a in sorted(self.allotments, key=lambda a: (a.start_s, a.batch_id)):
            found[a.pool].append(a)
        return dict(found)


def called(plan: Plan) -> str:
    """What a plan that no solver made is called where it is told of."""
    return "what stood" if plan.solver == "standing" else "the greedy plan"
