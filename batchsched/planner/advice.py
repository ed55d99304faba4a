"""What would make an infeasible job feasible: each option is judged as the job would be judged with it."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Literal

import msgspec

from batchsched.planner.problem import Job, PoolState, Problem
from batchsched.planner.room import chances, each_chance
from batchsched.planner.sound import sound_job
from batchsched.units import format_duration

Kind = Literal["deadline", "sites", "zones", "model", "pool"]
MORE_REPLICAS = (1, 2, 4, 8)
_DELAYS_S = sorted({60.0 * math.ceil(1.05**step) for step in range(320)})
"""From a minute to ten years, in steps of 5 per cent."""


class Option(msgspec.Struct, frozen=True):
    """One thing that would do by itself, and the probability of the deadline with it. What its kind does not need is empty."""

    kind: Kind
    probability: float
    deadline_s: float | None = None
    sites: list[str] = []
    """All that the batch may then go to."""
    zones: list[str] = []
    """The same."""
    model: str | None = None
    """Accepted beside those that it accepts."""
    pool: str | None = None
    replicas: int = 0
    """More of that pool than there are."""


class Alternative(msgspec.Struct, frozen=True):
    """The job as it would be where its batch allowed more: another site, another zone, or another model."""

    job: Job
    sites: list[str] = []
    zones: list[str] = []
    model: str | None = None

    @property
    def kind(self) -> Kind:
        """Of the option that it is; a site more may need a zone more."""
        return "sites" if self.sites else "zones" if self.zones else "model"


def options(problem: Problem, job: Job, alternatives: Iterable[Alternative] = ()) -> list[Option]:
    """What would do, at most one of each kind: the earliest deadline, to 5 % of the delay; the surest sites and zones; the first
    model; the fewest replicas. The horizon ends with the last deadline; beyond it time is taken to be as open as
    before, on average."""
    begin = max(0.0, job.deadline_s)
    tried = [Option("deadline", 0.0, deadline_s=begin + delay_s) for delay_s in _DELAYS_S]
    variants = [msgspec.structs.replace(job, deadline_s=begin + delay_s) for delay_s in _DELAYS_S]
    for other in alternatives:
        tried.append(Option(other.kind, 0.0, sites=other.sites, zones=other.zones, model=other.model))
        variants.append(sound_job(problem, other.job))
    good = _good(problem, tried, variants, job.confidence)
    first = {kind: next((option for option in good if option.kind == kind), None) for kind in ("deadline", "model")}
    surest = {
        kind: max((option for option in good if option.kind == kind), key=lambda option: option.probability, default=None)
        for kind in ("sites", "zones")
    }
    found = [first["deadline"], surest["sites"], surest["zones"], first["model"], _replicas(problem, job)]
    return [option for option in found if option is not None]


def _good(problem: Problem, tried: Sequence[Option], variants: Sequence[Job], confidence: float) -> list[Option]:
    """Those that would do, in their order; of the deadlines the earliest alone."""
    found: dict[int, Option] = {}
    for n, chance in each_chance(problem, variants):
        if chance >= confidence:
            found[n] = msgspec.structs.replace(tried[n], probability=chance)
            if tried[n].kind == "deadline":  # of what is left all are later deadlines
                break
    return [found[n] for n in sorted(found)]


def words(job: Job, found: Iterable[Option]) -> str:
    """The options as a clause; empty where there are none."""
    told = [_words(job, option) for option in found]
    return f"{told[0]} would do{''.join(f', so would {more}' for more in told[1:])}" if told else ""


def _words(job: Job, option: Option) -> str:
    if option.deadline_s is not None:
        return f"a deadline {format_duration(option.deadline_s - max(0.0, job.deadline_s))} later"
    places = [f"the {kind} {' and '.join(names)}" for kind, names in (("sites", option.sites), ("zones", option.zones)) if names]
    if places:
        return " with ".join(places)
    if option.model:
        return f"accepting the model {option.model}"
    return f"{option.replicas} more {'replica' if option.replicas == 1 else 'replicas'} in pool {option.pool}"


def _replicas(problem: Problem, job: Job) -> Option | None:
    """The fewest replicas more, of its fastest pool that is in service."""
    pools = {pool.name: pool for pool in problem.pools if pool.replicas > 0 and max(pool.capacity, default=0.0) > 0}
    work = job.work_on
    name = min(work.keys() & pools.keys(), key=lambda name: (work[name], name), default=None)
    if name is None:
        return None

    @cache
    def chance(more: int) -> float:
        grown = [_with(pool, more if pool.name == name else 0) for pool in problem.pools]
        return chances(msgspec.structs.replace(problem, pools=grown), [job])[0]

    at = bisect_left(MORE_REPLICAS, True, key=lambda more: chance(more) >= job.confidence)
    return Option("pool", chance(MORE_REPLICAS[at]), pool=name, replicas=MORE_REPLICAS[at]) if at < len(MORE_REPLICAS) else None


def _with(pool: PoolState, more: int) -> PoolState:
    """The pool with more replicas, open when it is."""
    if not more:
        return pool
    grown = (pool.replicas + more) / pool.replicas
    return msgspec.structs.replace(pool, replicas=pool.replicas + more, capacity=[grown * c for c in pool.capacity])
