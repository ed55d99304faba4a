"""The control loop: observe, forecast, plan, publish; and the answers that follow from the plan in force.

A claim only follows the plan; below it stands the latest safe start, which reads profiles, windows and the clock alone and holds
when the solver or the forecast does not.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec

from batchsched.clock import Clock
from batchsched.errors import BatchschedError, ForecastUnavailable, InvalidConfiguration
from batchsched.forecasts import Provider, one_signal
from batchsched.observe import Observer, View
from batchsched.planner import Plan, make_plan
from batchsched.planner.latest_start import latest_safe_starts
from batchsched.planner.verdict import verdict as judge
from batchsched.queue import plans
from batchsched.queue.database import Database
from batchsched.settings import Settings
from batchsched.units import iso
from batchsched.windows import WindowTimer, check, is_open

log = logging.getLogger(__name__)
LOOP_MARGIN_S = 5.0
"""Taken off every latest safe start: what the loop, a poll and a lease may take."""
SETTLE_S = 0.3
"""Between two plans: events that come together make two at most, and a single one is answered at once."""
GRACE_S = 10.0
REFRESH_AFTER = timedelta(seconds=2)


class Wanted(msgspec.Struct, frozen=True):
    """A batch that a pool should lease now, up to so many requests (infinite once its latest safe start has come)."""

    batch_id: str
    model: str
    requests: float


class Offer(msgspec.Struct, frozen=True):
    """What a pool should do now: work in order; a model to get ready; when to look again."""

    work: list[Wanted]
    prepare: str | None
    next_at: datetime | None


class Published(msgspec.Struct, frozen=True):
    """The plan in force, with what it was made from."""

    view: View
    plan: Plan
    latest_start_at: dict[str, datetime | None]
    """None: even at once is too late for the asked confidence."""

    def at(self, seconds: float) -> datetime:
        """The instant so many seconds from the plan's origin."""
        return self.view.now + timedelta(seconds=seconds)


class Scheduler:
    """Keeps a plan in force. Thread-safe: plans are replaced whole."""

    def __init__(self, database: Database, settings: Settings, provider: Provider, clock: Clock) -> None:
        """Raises InvalidConfiguration for a bad window, SignalMismatch where zones' signals differ."""
        self._database = database
        self._settings = settings
        self._clock = clock
        self._observer = Observer(database, settings, provider)
        self.fleet = self._observer.fleet
        _check_signals(provider, [site.zone for site in self.fleet.sites.values()])
        self._windows = {name: pool.window for name, pool in self.fleet.pools.items() if pool.window}
        for name, window in self._windows.items():
            try:
                check(window)
            except InvalidConfiguration as problem:
                raise InvalidConfiguration(f"key 'pools.{name}.window': {problem.message}") from None
        self._timer = WindowTimer(self._windows, lambda _name, _open: self.poke(), clock)
        self._published: Published | None = None
        self._tally: dict[tuple[str, str], float] = {}
        self._since: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)

    # -- the loop --

    def start(self) -> None:
        """Begin to plan."""
        self._timer.start()
        self._thread.start()

    def stop(self) -> None:
        """End after the plan in hand."""
        self._stopping.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._timer.stop()
            self._thread.join(timeout=30)

    def poke(self) -> None:
        """Something changed: plan again soon."""
        self._wake.set()

    def _run(self) -> None:
        if self._settings.planner.solver == "cp-sat":
            self._load_solver()
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                self.plan_now()
            except BatchschedError as problem:
                log.error("No new plan: %s The last one and the latest safe starts stay in force.", problem.message)
            except Exception:
                log.exception("No new plan. The last one and the latest safe starts stay in force.")
            self._stopping.wait(SETTLE_S)
            self._wake.wait(self._pause_s())

    def _load_solver(self) -> None:
        """Its library takes half a second to load: better now than when the first batch waits."""
        try:
            import batchsched.planner.cpsat  # noqa: F401  # pyright: ignore[reportUnusedImport]
        except ImportError as problem:
            log.error("The solver cannot be loaded (%s); plans are greedy.", problem)

    def _pause_s(self) -> float:
        """Until the next slot begins, and never longer than the replanning period."""
        slot_s = self._settings.planner.slot_s
        return min(self._settings.planner.replan_s, slot_s - self._clock.now().timestamp() % slot_s + 0.05)

    def plan_now(self) -> Published:
        """Observe, plan and publish once."""
        with self._lock:
            self._since = {}
        view = self._observer.look(self._clock.now())
        published = Published(view, self._plan(view), _latest_starts(view))
        with self._lock:
            self._published = published
            # What was leased while the solver worked may be in the view or not; counted twice, it only waits for the next plan.
            self._tally = {key: view.leased.get(key, 0.0) + self._since.get(key, 0.0) for key in {*view.leased, *self._since}}
        if view.problem.jobs:
            with self._database.write() as connection:
                plans.add(connection, view.now, _archived(published))
        return published

    def _plan(self, view: View, at_most_s: float = math.inf) -> Plan:
        """A plan; an empty one where none can be made, for then the latest safe starts alone decide."""
        try:
            return make_plan(view.problem, self._settings.planner.solver, min(at_most_s, self._settings.planner.solve_s))
        except Exception as problem:
            log.exception("No plan could be made; each batch starts at its latest safe start.")
            return Plan(view.problem.slots, [], status="failed", notes=[f"No plan could be made: {problem}"])

    @property
    def published(self) -> Published | None:
        """The plan in force; None before the first."""
        return self._published

    @property
    def observer(self) -> Observer:
        """How it looks at the world."""
        return self._observer

    # -- what follows from the plan --

    def served_models(self) -> list[str]:
        """Models that some pool may serve."""
        return [name for name in self.fleet.models if self.fleet.pools_for(name)]

    def offer(self, pool: str, now: datetime) -> Offer:
        """What a pool should lease now: first what can wait no longer, then what the plan opens, each by deadline."""
        published = self._published
        if published is None:
            return Offer([], None, None)
        if not self._open(pool, now):
            return Offer([], None, None)
        work: list[Wanted] = []
        jobs = sorted(published.view.problem.jobs, key=lambda job: (job.deadline_s, job.batch_id))
        for job in jobs:
            if pool in job.seconds_on:
                requests = (
                    math.inf if self._must(published, job.batch_id, now) else self._allowance(published, job.batch_id, pool, now)
                )
                if requests > 0:
                    work.append(Wanted(job.batch_id, job.model, requests))
        work.sort(key=lambda wanted: math.isfinite(wanted.requests))
        self._refresh(published, pool, now, idle=not work)
        next_at, prepare = self._coming(published, pool, now)
        return Offer(work, prepare, next_at)

    def may_go_on(self, batch_id: str, pool: str, now: datetime) -> bool:
        """May a chunk that is running there go on running?"""
        published = self._published
        if not self._open(pool, now):
            return False
        if published is None or batch_id not in published.view.batches or self._must(published, batch_id, now):
            return True
        grace = timedelta(seconds=min(GRACE_S, self._settings.planner.slot_s / 2))
        mine = [a for a in published.plan.of(batch_id) if a.pool == pool]
        return any(published.at(a.start_s) - grace <= now < published.at(a.end_s) + grace for a in mine)

    def leased(self, batch_id: str, pool: str, requests: int) -> None:
        """So many requests of a batch were just leased by a pool."""
        with self._lock:
            for tally in (self._tally, self._since):
                tally[batch_id, pool] = tally.get((batch_id, pool), 0.0) + requests

    def _open(self, pool: str, now: datetime) -> bool:
        window = self._windows.get(pool)
        return window is None or is_open(window, now)

    def _must(self, published: Published, batch_id: str, now: datetime) -> bool:
        """Has its latest safe start come? True also where it was too late from the beginning."""
        if batch_id not in published.latest_start_at:
            return False
        latest = published.latest_start_at[batch_id]
        return latest is None or latest <= now

    def _allowance(self, published: Published, batch_id: str, pool: str, now: datetime) -> float:
        """Requests that the plan opens up to now, less those leased since it was made."""
        mine = [a for a in published.plan.of(batch_id) if a.pool == pool and published.at(a.start_s) <= now]
        if not any(now < published.at(a.end_s) for a in mine):
            return 0.0
        left = sum(a.requests for a in mine) - self._tally.get((batch_id, pool), 0.0)
        return left if left > 1e-6 else 0.0

    def _refresh(self, published: Published, pool: str, now: datetime, *, idle: bool) -> None:
        """Plan again where a pool has done its share of the slot early: it is faster than thought, and may well do more."""
        open_now = any(published.at(a.start_s) <= now < published.at(a.end_s) for a in published.plan.on(pool))
        if idle and open_now and now - published.view.now > REFRESH_AFTER:
            self.poke()

    def _coming(self, published: Published, pool: str, now: datetime) -> tuple[datetime | None, str | None]:
        """When something next begins on a pool, and the model to load if it is time to."""
        later = [a for a in published.plan.on(pool) if published.at(a.start_s) > now]
        jobs = {job.batch_id: job for job in published.view.problem.jobs}
        starts = [published.at(later[0].start_s)] if later else []
        starts += [
            at
            for batch_id, at in published.latest_start_at.items()
            if at is not None and at > now and pool in jobs[batch_id].seconds_on
        ]
        prepare = None
        if later:
            job = jobs[later[0].batch_id]
            if published.at(later[0].start_s) - now <= timedelta(seconds=job.startup_s_on[pool]):
                prepare = job.model
        return min(starts, default=None), prepare

    # -- a batch's own answers --

    def verdict(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The answer at submission for a batch that has just been validated, as JSON."""
        view = self._observer.look(self._clock.now(), batch)
        plan = self._plan(view, at_most_s=1.0)
        verdict = judge(view.problem, plan, batch["id"])
        finish_s = verdict.expected_finish_s
        return {
            "feasible": verdict.feasible,
            "probability": round(verdict.probability, 4),
            "expected_finish_at": iso(view.now + timedelta(seconds=finish_s)) if finish_s is not None else None,
            "expected_grams": verdict.expected_grams,
            "expected_grams_run_now": verdict.expected_grams_run_now,
            "reason": verdict.reason,
        }


def _latest_starts(view: View) -> dict[str, datetime | None]:
    starts = latest_safe_starts(view.problem.jobs, view.pools, LOOP_MARGIN_S)
    return {
        batch_id: view.now + timedelta(seconds=seconds) if math.isfinite(seconds) else None
        for batch_id, seconds in starts.items()
    }


def _check_signals(provider: Provider, zones: list[str]) -> None:
    known: list[str] = []
    for zone in zones:
        try:
            provider.signal_of(zone)
            known.append(zone)
        except ForecastUnavailable as problem:
            log.warning("%s", problem.message)
    one_signal(provider, known)


def _archived(published: Published) -> dict[str, Any]:
    """A plan as it is kept: with the forecasts, so that the decision can be replayed."""
    body: dict[str, Any] = {
        "made_at": iso(published.view.now),
        "plan": msgspec.to_builtins(published.plan),
        "problem": msgspec.to_builtins(published.view.problem),
        "forecasts": {zone: forecast.to_rows() for zone, forecast in published.view.forecasts.items()},
        "latest_start_at": {key: iso(at) if at else None for key, at in published.latest_start_at.items()},
        "notes": published.view.notes,
    }
    return body
