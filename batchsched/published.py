"""The plan in force, with what every server needs to go by it: it is read back from the database as it was published."""

from __future__ import annotations

import logging
import math
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec

from batchsched.forecasts import IntensityForecast
from batchsched.planner import Allotment, Job, Plan, Problem, Slot, prepared
from batchsched.planner.allowance import allowances, fastest_key, key_now, request_s
from batchsched.planner.fairness import Turns, Want
from batchsched.planner.plan import Hold, Load
from batchsched.planner.problem import Configuration
from batchsched.queue.overrides import Overrides
from batchsched.timing import Timing, slot_at

if TYPE_CHECKING:
    from batchsched.planner.shadow import Shadow

log = logging.getLogger(__name__)
SLACK = 0.02
"""Of a replica: rounding of the plan's figures wants none more; but the least of work wants one."""


class Recipe(msgspec.Struct, frozen=True):
    """What a plan was made with: the same problem, recipe and versions make the same plan, unless a note says that it was cut
    short."""

    solver: Literal["cp-sat", "greedy", "at-once", "stopgap"] = "greedy"
    """`stopgap`: what stood carried on, until a better plan was found."""
    work_s: float = 0.0
    seed: int = 0
    versions: dict[str, str] = {}
    """Of the packages that decide."""


class Coming(NamedTuple):
    """Engines of one model that are to be ready when something begins, and how long one takes to start."""

    engines: int
    startup_s: float


class _Suiting(NamedTuple):
    """Batches that a pool may work on at all; the instants at which what it should do with them may change: their latest safe
    starts, the ends of what is left to the plan, and seconds from the plan's origin at which it has something there no more."""

    names: frozenset[str]
    latest: list[datetime]
    ends_s: list[float]
    models: dict[tuple[int, int], Mapping[str, str]]
    """Worked out, by how many of these have passed."""


class Published(msgspec.Struct, frozen=True, dict=True):
    """A plan, what it was made from, and what follows from it at an instant. Shared by threads, never changed."""

    made_at: datetime
    problem: Problem
    plan: Plan
    latest_start_at: dict[str, datetime | None]
    """Of each batch; None: no start would have been early enough for the asked confidence."""
    contested: list[str] = []
    """Batches whose deadlines are out of reach, or not within reach of all of them."""
    connected: list[str] = []
    """Pools with a live worker, or a launcher that can start one."""
    overrides: Overrides = Overrides()
    """What operators had decided by then: how its pools and its shifting stand."""
    shut: dict[str, list[tuple[datetime, datetime]]] = {}
    """When windows are shut for the forecast's sake, by name."""
    notes: list[str] = []
    unfit: dict[str, list[str]] = {}
    """Why pools cannot run a model, by model."""
    ways: dict[str, list[str]] = {}
    """Which other ways to serve a model may be planned where, and why, by model."""
    engineless: dict[str, str] = {}
    """Why no worker's engine starts, by pool."""
    recipe: Recipe | None = None
    """None: made by a version that did not say."""
    id: int = 0
    """Grows from plan to plan."""

    def body(self, forecasts: Mapping[str, IntensityForecast]) -> dict[str, Any]:
        """As it is kept: with the forecasts, so that the decision can be replayed."""
        return {**msgspec.structs.asdict(self), "forecasts": {zone: forecast.to_rows() for zone, forecast in forecasts.items()}}

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Published:
        """As it was kept. Raises msgspec.ValidationError for a plan of another version that this one cannot read."""
        return msgspec.convert({**_today(row["body"]), "id": row["id"]}, cls)

    @cached_property
    def jobs(self) -> dict[str, Job]:
        """The jobs, by batch."""
        return {job.batch_id: job for job in self.problem.jobs}

    @cached_property
    def shadow(self) -> Shadow | None:
        """Prices of the problem, worked out when they are first asked for, in up to a second; None where there are none."""
        from batchsched.planner.shadow import Arrays, Shadow
        from batchsched.planner.sound import sound

        if self.overrides.frozen or not self.plan.allotments:
            return None
        try:
            return Shadow.cast(Arrays.of(*prepared(sound(self.problem)[0])))
        except Exception:
            log.exception("The plan's prices cannot be worked out; explanations do without.")
            return None

    @cached_property
    def tenants(self) -> set[str]:
        """Those who have work that somebody could take up now."""
        open_now = {(a.pool, self._model(a)) for a in self.plan.allotments if a.start_s < 1.0}
        placed = {a.batch_id for a in self.plan.allotments if (a.pool, self._model(a)) in open_now}
        return {
            job.tenant
            for job in self.problem.jobs
            if not self._timing.there.isdisjoint(job.pools)
            and (job.batch_id in placed or self.hurries(job.batch_id, self.made_at))
        }

    @cached_property
    def _contested(self) -> frozenset[str]:
        return frozenset(self.contested)

    def at(self, seconds: float) -> datetime:
        """The instant so many seconds from the plan's origin."""
        return self.made_at + timedelta(seconds=seconds)

    def _since_s(self, now: datetime) -> float:
        """Seconds from the plan's origin."""
        return (now - self.made_at).total_seconds()

    def must(self, batch_id: str, now: datetime) -> bool:
        """Can it wait no longer, unless the plan has it in time (`waits`)? Its latest safe start has come, was too early from the
        beginning, nothing is shifted, or it was told to start now."""
        job = self.jobs.get(batch_id)
        return (job is not None and job.at_once) or self._presses(batch_id, now)

    def _presses(self, batch_id: str, now: datetime) -> bool:
        if batch_id not in self.latest_start_at:
            return False
        if self.overrides.frozen:
            return True
        latest = self.latest_start_at[batch_id]
        return latest is None or latest <= now

    def left_to_plan(self, batch_id: str, pool: str, now: datetime) -> bool:
        """Is a batch that can wait no longer nothing for a pool, since the plan has it in time, elsewhere or later? Its latest
        safe start counts on all pools at once, with all other work to be done as well, so it comes early; and who works on it
        from then on asks for no grams."""
        now_s = self._since_s(now)
        return self.waits(batch_id, now) and not any(a.start_s <= now_s < a.end_s for a in self.plan.at(batch_id, pool))

    def waits(self, batch_id: str, now: datetime) -> bool:
        """Is a batch left to the plan after its latest safe start?"""
        if self.overrides.frozen or (job := self.jobs.get(batch_id)) is None or job.at_once or not self._presses(batch_id, now):
            return False
        return self._since_s(now) < self._timing.relied_on_until_s(batch_id)

    def hurries(self, batch_id: str, now: datetime) -> bool:
        """Is it worked on whatever the plan says?"""
        return self.must(batch_id, now) and not self.waits(batch_id, now)

    def belated(self, batch_id: str, pool: str, requests: int, now: datetime, chunks: int = 1) -> bool:
        """Should a pool that others use too, and that has so many requests of a batch in hand, let go of them? `chunks`: so many
        its worker has in hand, and works on together."""
        if (key := self.key(batch_id, pool, now)) is None:
            return False
        job = self.jobs[batch_id]
        work_s = chunks * requests * request_s(job, key)
        return self._timing.belated(batch_id, pool, work_s, requests / max(1, job.remaining_requests), self._since_s(now))

    @cached_property
    def _timing(self) -> Timing:
        late = frozenset(name for name in self.jobs if name in self._contested or self.latest_start_at.get(name) is None)
        there, engineless = frozenset(self.connected), frozenset(self.engineless)
        return Timing(self.problem, self.plan, self.jobs, late, there, engineless)

    def suits(self, batch_id: str, pool: str) -> bool:
        """May a pool work on a batch at all?"""
        job = self.jobs.get(batch_id)
        return job is not None and job.goes_on(pool)

    def able(self, pool: str, ready: Collection[str]) -> list[str]:
        """Those of these batches that a pool may work on at all."""
        names = self._suiting(pool).names
        return [name for name in ready if name in names]

    def models(self, pool: str, now: datetime) -> Mapping[str, str]:
        """Of each batch that a pool may work on at all the model to serve it with now, where it has one (`model`)."""
        mine = self._suiting(pool)
        passed = bisect_right(mine.latest, now), bisect_right(mine.ends_s, self._since_s(now))
        if (known := mine.models.get(passed)) is None:
            found = ((name, self.model(name, pool, now)) for name in mine.names)
            known = mine.models[passed] = {name: model for name, model in found if model}
        return known

    def _suiting(self, pool: str) -> _Suiting:
        if (known := self._by_pool.get(pool)) is None:
            names = frozenset(name for name, job in self.jobs.items() if job.goes_on(pool))
            latest = sorted(at for name in names for at in self._freed_at(name))
            ends_s = {a.end_s for a in self.plan.on(pool)} | {slot.end_s for slot in self.problem.slots if self._shared}
            known = self._by_pool[pool] = _Suiting(names, latest, sorted(ends_s), {})
        return known

    def _freed_at(self, batch_id: str) -> list[datetime]:
        """Its latest safe start; where it is left to the plan then, the end of that too."""
        if (latest := self.latest_start_at.get(batch_id)) is None:
            return []
        until_s = self._timing.relied_on_until_s(batch_id)
        return [latest, self.at(until_s)] if until_s > self._since_s(latest) else [latest]

    @cached_property
    def _by_pool(self) -> dict[str, _Suiting]:
        """What was worked out of `_suiting`. Every claim asks for it, of all batches."""
        return {}

    def startup_s(self, batch_id: str, pool: str, model: str) -> float:
        """How long an engine of a model takes to start on a pool for a batch; 0 where that is not to be."""
        if (job := self.jobs.get(batch_id)) is None:
            return 0.0
        return max((job.startup_s_on[key] for key in job.keys_on(pool) if job.configuration(key).model == model), default=0.0)

    def key(self, batch_id: str, pool: str, now: datetime) -> str | None:
        """The job's name for the configuration in which a pool should work on a batch: the planned one, the fastest that can be
        had now where it can wait no longer or has no place there; None where the pool may not work on it."""
        job = self.jobs.get(batch_id)
        if job is None:
            return None
        to_be_had = partial(self._to_be_had, now)
        if self.hurries(batch_id, now):
            return fastest_key(job, pool, to_be_had)
        return key_now(self.plan, job, pool, self._since_s(now), to_be_had)

    def _to_be_had(self, now: datetime, config: Configuration) -> bool:
        """Is there now all that it takes beside the replicas of its own pool?"""
        if len(config.shares) == 1 or (index := self._slot(now, self.problem.slots)) is None:
            return True
        return all(self._shared[name][index] > 0 for name, _ in config.shares[1:] if name in self._shared)

    @cached_property
    def _shared(self) -> dict[str, list[float]]:
        """In each slot of the problem, what there is of all that configurations of several pools take."""
        several = any(len(config.shares) > 1 for job in self.problem.jobs for config in job.configurations.values())
        return self.problem.capacity if several else {}

    def model(self, batch_id: str, pool: str, now: datetime) -> str | None:
        """The model with which a pool should serve a batch; None where it may not."""
        key = self.key(batch_id, pool, now)
        return None if key is None else self.jobs[batch_id].configuration(key).model

    def _model(self, a: Allotment) -> str:
        return self.jobs[a.batch_id].configuration(a.key).model

    def turns(
        self,
        pool: str,
        now: datetime,
        ready: Mapping[str, str],
        leased: Mapping[str, float],
        served_s: Mapping[str, float],
        weights: Mapping[str, float],
    ) -> Turns:
        """What a pool may work on now, of the batches in `ready`, each with the model to serve it with. `leased`: the pool's
        tally, by batch."""
        waiting = {name for name in ready if not self.must(name, now)}
        here = dict.fromkeys([*(a.batch_id for a in self.plan.on(pool)), *leased])  # of no other work there is any account
        free = {name: self.jobs[name] for name in here if self.suits(name, pool) and not self.must(name, now)}
        now_s, to_be_had = self._since_s(now), partial(self._to_be_had, now)
        allowed, room_s = allowances(self.plan, free, pool, now_s, leased, to_be_had)
        wants = [
            self._want(name, key, allowed[name] if name in waiting else math.inf, model, self._presses(name, now))
            for name, model in ready.items()
            if (name not in waiting or name in allowed)
            and (key := self.key(name, pool, now)) is not None
            and self._timing.may_begin(name, pool, now_s)
            and not self.left_to_plan(name, pool, now)
        ]
        return Turns(wants, served_s, weights, room_s)

    def _want(self, batch_id: str, key: str, requests: float, model: str, presses: bool) -> Want:
        job = self.jobs[batch_id]
        return Want(
            batch_id=batch_id,
            tenant=job.tenant,
            model=model,
            deadline_s=job.deadline_s,
            priority=job.priority,
            requests=requests,
            request_s=request_s(job, key),
            startup_s=job.startup_s_on[key],
            due=presses and batch_id not in self._contested,
            at_once=job.at_once,
            renamed=model != job.model,
        )

    def on_now(self, batch_id: str, pool: str, now: datetime, grace_s: float) -> bool:
        """Is a pool to work on a batch now, or on another in whose place it may be, give or take `grace_s`?

        True also for what the plan does not know.
        """
        if batch_id not in self.jobs or self.must(batch_id, now):
            return True
        if not any(a.pool == pool for a in self.plan.of(batch_id)):
            return False
        now_s, model = self._since_s(now), self.model(batch_id, pool, now)
        near = [a for a in self.plan.on(pool) if a.start_s - grace_s <= now_s < a.end_s + grace_s]
        return any(self._model(a) == model for a in near)

    def start_at(self, batch_id: str) -> datetime | None:
        """When a batch is to start by the plan, or when it can wait for that no longer where that comes first; None: nobody
        knows."""
        return min([*(self.at(a.start_s) for a in self.plan.of(batch_id)[:1]), *self._freed_at(batch_id)[-1:]], default=None)

    def busy_now(self, pool: str, now: datetime) -> bool:
        """Does the plan have anything on a pool now?"""
        now_s = self._since_s(now)
        return any(a.start_s <= now_s < a.end_s for a in self.plan.on(pool))

    @cached_property
    def _uses(self) -> dict[tuple[str, int], list[tuple[str, str, float]]]:
        """What takes engines, by pool and slot: batch, model, replica-seconds of work, starting or standing ready."""
        found: dict[tuple[str, int], list[tuple[str, str, float]]] = {}
        others: list[Load | Hold] = [*self.plan.loads, *self.plan.holds]
        uses = [(use, use.model) for use in others] + [(a, self._model(a)) for a in self.plan.allotments]
        for use, model in uses:
            found.setdefault((use.pool, use.slot_index), []).append((use.batch_id, model, use.seconds))
        return found

    def _slot(self, now: datetime, slots: Sequence[Slot]) -> int | None:
        """The slot that is on; None: all of them are over."""
        return slot_at(slots, self._since_s(now))

    def _engines_in(self, pool: str, index: int, unfinished: Collection[str] | None = None) -> dict[str, int]:
        """How many engines of each model a pool has in a slot; `unfinished`: for these batches alone."""
        seconds: dict[str, float] = {}
        for batch_id, model, taken_s in self._uses.get((pool, index), ()):
            if unfinished is None or batch_id in unfinished:
                seconds[model] = seconds.get(model, 0.0) + taken_s
        length_s = self.plan.slots[index].length_s
        return {model: max(1, math.ceil(s / length_s - SLACK)) for model, s in seconds.items() if s > 0}

    def engines(self, pool: str, now: datetime) -> dict[str, int]:
        """How many engines of each model the plan has on a pool now: for work, starting, or standing ready."""
        index = self._slot(now, self.plan.slots)
        if index is None:
            return {}
        if (known := self._counted.get((pool, index))) is None:
            known = self._counted[pool, index] = self._engines_in(pool, index)
        return known

    @cached_property
    def _counted(self) -> dict[tuple[str, int], dict[str, int]]:
        """What was worked out of `engines`, by pool and slot."""
        return {}

    @cached_property
    def _keeps(self) -> dict[tuple[str, int], dict[str, int]]:
        """The same of `kept`."""
        return {}

    def kept(self, pool: str, now: datetime) -> dict[str, int]:
        """How many engines of each model a pool keeps ready: as many as the plan has work for before it starts any, and where it
        does, beside those."""
        index = self._slot(now, self.plan.slots)
        if index is None:
            return {}
        if (known := self._keeps.get((pool, index))) is None:
            known = self._keeps[pool, index] = self._kept_from(pool, index)
        return known

    def _kept_from(self, pool: str, index: int) -> dict[str, int]:
        starts: dict[tuple[str, int], int] = {}
        for load in self.plan.loads:
            if load.pool == pool and load.slot_index > index and load.starts:
                starts[load.model, load.slot_index] = starts.get((load.model, load.slot_index), 0) + load.starts
        found, begun = dict[str, int](), set[str]()
        for t in range(index, len(self.plan.slots)):
            for model, engines in self._engines_in(pool, t).items():
                if model not in begun:
                    found[model] = max(found.get(model, 0), engines - starts.get((model, t), 0))
            begun |= {model for model, slot_index in starts if slot_index == t}
        return {model: engines for model, engines in found.items() if engines > 0}

    def coming(self, pool: str, now: datetime, unfinished: Collection[str]) -> tuple[datetime | None, dict[str, Coming]]:
        """When something next begins on a pool; and the models to have ready by then, where it is time to load them.

        `unfinished`: batches of which something is left to be leased; the plan's work of others is done.
        """
        now_s = self._since_s(now)
        latest = self._suiting(pool).latest
        starts = latest[bisect_right(latest, now) :][:1]
        first = self._next(pool, now_s, unfinished)
        if not first:
            return min(starts, default=None), {}
        in_s, startup_s = first[0].start_s - now_s, dict[str, float]()
        for a in first:
            startup_s[self._model(a)] = max(self.jobs[a.batch_id].startup_s_on[a.key], startup_s.get(self._model(a), 0.0))
        engines = self._engines_in(pool, first[0].slot_index, unfinished)
        loading = {model: Coming(engines.get(model, 1), takes_s) for model, takes_s in startup_s.items() if in_s <= takes_s}
        return min([self.at(first[0].start_s), *starts]), loading

    def _next(self, pool: str, now_s: float, unfinished: Collection[str]) -> list[Allotment]:
        """What begins together next, of these batches."""
        found: list[Allotment] = []
        for a in self.plan.on(pool):
            if a.start_s > now_s and a.batch_id in unfinished:
                if found and a.start_s > found[0].start_s:
                    break
                found.append(a)
        return found


def _today(body: dict[str, Any]) -> dict[str, Any]:
    """A body as it would be written today: jobs once named the model that serves them on a pool instead of configurations."""
    jobs = [
        {**job, "configurations": {pool: {"model": model, "takes": {pool: 1.0}} for pool, model in served.items()}}
        if (served := job.get("model_on"))
        else job
        for job in body["problem"]["jobs"]
    ]
    return {**body, "problem": {**body["problem"], "jobs": jobs}}
