"""The control loop: observe, forecast, plan, publish; and the answers that follow from the plan in force.

Of several servers the leader plans; all of them go by the plan that the database holds. A claim only follows the plan; below
it stands the latest safe start, which reads profiles, windows and the clock alone and holds when solver or forecast do not.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
from sqlalchemy import Connection

from batchsched import exposed
from batchsched.carbon.models import Hardware
from batchsched.changes import cannot_wait, little
from batchsched.clock import Clock
from batchsched.doors import Doors
from batchsched.errors import BatchschedError, ForecastUnavailable, PlannerBusy
from batchsched.forecasts import Provider, one_signal
from batchsched.judging import judged
from batchsched.observe import Observer, View
from batchsched.planner import Plan, Problem, make_plan
from batchsched.planner.allowance import request_s
from batchsched.planner.churn import carried_on
from batchsched.planner.fairness import Turns, arrivals, contested
from batchsched.planner.last import standing
from batchsched.planner.latest_start import latest_safe_starts
from batchsched.published import Coming, Published, Recipe
from batchsched.queue import chunks, ledger, plans, shares, tallies, workers
from batchsched.queue.database import Database, again
from batchsched.queue.rows import Row
from batchsched.risks import Risks
from batchsched.settings import Settings
from batchsched.solving import READY_S, SEED, PlanMaker, Solved, Solver, versions
from batchsched.wanted import Crew, crew
from batchsched.ways import undrafted

if TYPE_CHECKING:
    from batchsched.forecasts.calibration import Calibrator

log = logging.getLogger(__name__)
LOOP_MARGIN_S = 5.0
"""Taken off every latest safe start: what the loop, a poll and a lease may take."""
SETTLE_S = 0.3
"""Between two plans: events that come together make two at most, and a single one is answered at once."""
POLL_S = 0.5
"""How often a leader asks whether other servers want a new plan, and the others whether there is one."""
TROUBLE_S = 2.0
GRACE_S = 10.0
LITTLE = 0.05
"""Of the solver's work, where little has changed since all of it was done."""
QUEUE_S = 10.0
"""How long a question (what if, replay) waits for those before it."""
REFRESH_AFTER = timedelta(seconds=2)


class Lead(Protocol):
    """Does this server plan?"""

    def leading(self) -> bool:
        """It may act as the leader now."""
        ...

    @property
    def epoch(self) -> int:
        """Grows with each change of the lead."""
        ...


class Offer(msgspec.Struct, frozen=True):
    """What a pool should do now: work by turns, and when to look again. The rest are engines by model, as the plan has them."""

    turns: Turns
    next_at: datetime | None = None
    engines: Mapping[str, int] = {}
    """Now."""
    coming: Mapping[str, Coming] = {}
    """Of those that begin next, where it is time to load them."""
    keep: Mapping[str, int] = {}
    """Which stay ready meanwhile, however long they idle."""
    most: int | None = None
    """Workers that may be at work at once, where windows leave a part of the pool open; None: all."""


class Scheduler:
    """Keeps a plan in force. Thread-safe: plans are replaced whole."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        provider: Provider,
        clock: Clock,
        lead: Lead,
        hardware: Hardware,
        learnt: Callable[[str], Calibrator | None] = lambda _: None,
        maker: PlanMaker | None = None,
    ) -> None:
        """`learnt`: how forecasts of a zone have erred, where that is known. `maker`: who makes the plans; None: the solver.

        Raises InvalidConfiguration for a bad window, SignalMismatch where zones' signals differ."""
        self._database = database
        self._settings = settings
        self._clock = clock
        self._lead = lead
        self._observer = Observer(database, settings, provider, hardware, learnt)
        self._solver = maker or Solver(settings.planner, on_ready=self.poke)
        self._questions = Solver(settings.planner)  # people never stand in the way of a plan
        self._questioning = threading.Lock()
        self.fleet = self._observer.fleet
        self._risks = Risks(database, self._observer)
        _check_signals(provider, [site.zone for site in self.fleet.sites.values()])
        self.doors = Doors(database, self._observer.windows, self.fleet, lambda: self._published, self.poke, clock)
        self._weights = {name: tenant.weight for name, tenant in settings.tenants.items()}
        self._published: Published | None = None
        self._searched: Published | None = None
        """The last one that all of the solver's work went into."""
        self._unreadable = 0
        """The number of a plan of another version that this one cannot read, to say so once."""
        self._asked = 0
        self._planning = threading.Lock()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)

    # -- the loop --

    def start(self) -> None:
        """Begin to plan."""
        self.doors.start()
        self._thread.start()

    def stop(self) -> None:
        """End after the plan in hand."""
        self._stopping.set()
        self._wake.set()
        if self._thread.ident is not None:
            self.doors.stop()
            self._thread.join(timeout=30)
        self._solver.stop()
        self._questions.stop()

    @property
    def alive(self) -> bool:
        """Does its loop turn, once it was started?"""
        return self._thread.ident is None or self._thread.is_alive()

    def poke(self) -> None:
        """Something changed: plan again soon, here or where the leader is."""
        self._wake.set()

    def poked(self) -> bool:
        """Did something change since this was last asked? One that comes just now stays for the next time."""
        poked = self._wake.is_set()
        if poked:
            self._wake.clear()
        return poked

    def _run(self) -> None:
        if self._lead.leading():
            self._solver.start()
        while not self._stopping.is_set():
            poked = self.poked()
            leading = self._lead.leading()
            if leading:
                self._guarded(partial(self.plan_now, ready_s=0.0), "No new plan")
            else:
                self._guarded(partial(self._follow, poked), "The plan in force cannot be read")
            self._stopping.wait(SETTLE_S)
            self._rest(leading, self._pause_s() if leading else POLL_S)

    def _guarded(self, step: Callable[[], object], trouble: str) -> None:
        stays = "The last plan and the latest safe starts stay in force."
        try:
            step()
        except BatchschedError as problem:
            log.error("%s: %s %s", trouble, problem.message, stays)
            self._stopping.wait(TROUBLE_S)
        except Exception:
            log.exception("%s. %s", trouble, stays)
            self._stopping.wait(TROUBLE_S)

    def _rest(self, leading: bool, pause_s: float) -> None:
        """Until the pause is over, or something happens: here, at another server, or with the lead."""
        while pause_s > 0 and not self._wake.wait(min(POLL_S, pause_s)):
            pause_s -= POLL_S
            if self._lead.leading() != leading or (leading and self._is_asked()):
                return

    def _is_asked(self) -> bool:
        """Did another server ask for a new plan?"""
        try:
            with self._database.read() as connection:
                asked = ledger.count_of(connection, exposed.REPLANS_ASKED)
        except BatchschedError:
            return False
        changed, self._asked = asked != self._asked, asked
        return changed

    def _follow(self, poked: bool) -> None:
        """Take over the leader's newest plan; hand on that something changed here."""
        if poked:
            with self._database.write() as connection:
                ledger.bump(connection, exposed.REPLANS_ASKED)
        with self._database.read() as connection:
            self._in_force(connection)

    def _pause_s(self) -> float:
        """Until the next slot begins or shifting is to begin again, and never longer than the replanning period."""
        slot_s, now = self._settings.planner.slot_s, self._clock.now()
        frozen = self._published.overrides.frozen if self._published else None
        thaw_s = (frozen.until - now).total_seconds() if frozen and frozen.until else math.inf
        return max(0.0, min(self._settings.planner.replan_s, slot_s - now.timestamp() % slot_s + 0.05, thaw_s))

    def plan_now(self, ready_s: float = READY_S) -> Published:
        """Observe, plan and publish once. What is returned is not in force where another server took the lead meanwhile.

        `ready_s`: how long to wait for a solver that is still coming up; when it has, a better plan follows by itself.
        """
        with self._planning:  # a plan's tallies follow from those of the plan before it
            epoch = self._lead.epoch
            with self._database.read() as connection:
                before = self._in_force(connection)  # another leader's, or that of before a restart
            view = self._look(before)
            self.doors.watch(view.openings)
            draft, recipe = self._draft(view), self._recipe(self._work_s(view), frozen=view.overrides.frozen is not None)

            def publish(plan: Plan, recipe: Recipe, failure: str | None = None) -> Published:
                nonlocal view
                made = self._publish(msgspec.structs.replace(draft, plan=plan, recipe=recipe), view, epoch, failure)
                view = msgspec.structs.replace(view, tallied=view.leased)  # now tallies count from this look
                return made

            def meanwhile(plan: Plan) -> None:
                self._guarded(partial(publish, plan, msgspec.structs.replace(recipe, solver="stopgap")), "No plan meanwhile")

            solved = self._solved(view, recipe.work_s, ready_s, meanwhile if cannot_wait(before, view) else None)
            published = publish(solved.plan, recipe, solved.failure)
            if recipe.work_s >= self._settings.planner.solve_s and not solved.stood_in:
                self._searched = published
            self._guarded(partial(self._risks.look, view, published.plan), "What was promised cannot be judged")
            return published

    def _look(self, before: Published | None) -> View:
        """With what stands, where the search begins."""
        view = self._observer.look(self._clock.now())
        if before is None:
            return view
        stood = standing(before.plan, (view.now - before.made_at).total_seconds())
        problem = msgspec.structs.replace(view.problem, standing=stood, churn=self._settings.planner.churn)
        return msgspec.structs.replace(view, problem=problem)

    def _work_s(self, view: View) -> float:
        """All that the settings allow at least once in each replanning period, and where more than little has changed since."""
        limits, last = self._settings.planner, self._searched
        fresh = last is not None and timedelta() <= view.now - last.made_at < timedelta(seconds=limits.replan_s)
        return limits.solve_s * (LITTLE if last is not None and fresh and little(last, view) else 1.0)

    def _draft(self, view: View) -> Published:
        """What is published, but for the plan."""
        latest = _latest_starts(view)
        return Published(
            made_at=view.now,
            problem=kept(view.problem),
            plan=Plan(view.problem.slots, []),
            latest_start_at=latest,
            contested=sorted(_contested(view, latest)),
            connected=sorted(view.connected),
            overrides=view.overrides,
            shut={name: list(spans) for name, spans in view.openings.shut.items()},
            notes=view.notes,
            unfit=view.unfit,
            ways=view.ways,
            engineless=view.engineless,
        )

    @again
    def _publish(self, published: Published, view: View, epoch: int, failure: str | None) -> Published:
        if self._published is not None and not published.problem.jobs and not self._published.problem.jobs:
            self._published = msgspec.structs.replace(
                published, id=self._published.id
            )  # nothing to do, as before: not worth a row
            return self._published
        keep = timedelta(days=self._settings.planner.keep_plans_days)
        with self._database.write() as connection:
            number = plans.add(connection, published.made_at, published.body(view.forecasts), epoch)
            if number is None:
                log.warning("Another server leads by now; the plan made here is not published.")
                return published
            tallies.rebase(connection, view.leased, view.tallied)
            shares.settle(connection, published.tenants, arrivals)
            plans.prune(connection, published.made_at - keep)
            if failure:
                ledger.bump(connection, exposed.SOLVER_FAILURES, failure)
        self._published = msgspec.structs.replace(published, id=number)  # once it is kept, not before
        return self._published

    def _in_force(self, connection: Connection) -> Published | None:
        """The newest plan, by whomever it was made: read anew where it is another than the last."""
        mine, newest = self._published, plans.newest(connection)
        if newest <= (mine.id if mine else 0) or newest == self._unreadable:
            return mine
        row = plans.latest(connection)
        try:
            mine = Published.of_row(row) if row else mine
        except (msgspec.ValidationError, KeyError) as problem:
            self._unreadable = newest
            log.warning("Plan %d is of a version that this server cannot read (%s); the next one will do.", newest, problem)
            return mine
        self._published = mine
        return mine

    def _solved(self, view: View, work_s: float, ready_s: float, meanwhile: Callable[[Plan], None] | None) -> Solved:
        """A plan; an empty one where none can be made, for then the latest safe starts alone decide."""
        try:
            if view.overrides.frozen:
                return Solved(make_plan(view.problem, "at-once"))
            return self._solver.plan(view.problem, work_s, ready_s=ready_s, meanwhile=meanwhile)
        except Exception as problem:
            log.exception("No plan could be made; each batch starts at its latest safe start.")
            return Solved(Plan(view.problem.slots, [], status="failed", notes=[f"No plan could be made: {problem}"]))

    def solved(self, *problems: Problem, frozen: bool = False) -> list[Solved]:
        """The plans of problems, made as plans are; nothing is published. Raises PlannerBusy, UnsafePlan."""
        with self._one_question():
            if frozen:
                return [Solved(make_plan(problem, "at-once")) for problem in problems]
            return [self._questions.plan(problem) for problem in problems]

    def _recipe(self, work_s: float, *, frozen: bool = False) -> Recipe:
        return Recipe("at-once" if frozen else self._settings.planner.solver, work_s, SEED, versions())

    def again(self, problem: Problem, recipe: Recipe | None) -> Solved:
        """The plan of a problem by a recipe; None: by that of today. Raises PlannerBusy, UnsafePlan."""
        recipe = recipe or self._recipe(self._settings.planner.solve_s)
        with self._one_question():
            if recipe.solver == "stopgap":
                return Solved(carried_on(problem, make_plan(problem, "greedy")))
            if recipe.solver == self._settings.planner.solver:
                return self._questions.plan(problem, recipe.work_s, recipe.seed)
            return Solved(make_plan(problem, recipe.solver, recipe.work_s, recipe.seed))

    @contextmanager
    def _one_question(self) -> Generator[None]:
        if not self._questioning.acquire(timeout=QUEUE_S):
            raise PlannerBusy("The planner is busy with others' questions; try again in a minute.")
        try:
            yield
        finally:
            self._questioning.release()

    @property
    def published(self) -> Published | None:
        """The plan in force; None before the first."""
        return self._published

    def startup_s(self, batch_id: str, pool: str, model: str) -> float:
        """How long an engine of a model takes to start on a pool for a batch, by the plan in force; 0 where that is not to be."""
        return self._published.startup_s(batch_id, pool, model) if self._published else 0.0

    @property
    def observer(self) -> Observer:
        """How it looks at the world."""
        return self._observer

    # -- what follows from the plan --

    def served_models(self) -> list[str]:
        """Models that some pool may serve."""
        return [name for name in self.fleet.models if self.fleet.pools_for(name)]

    def offer(
        self,
        connection: Connection,
        pool: str,
        now: datetime,
        *,
        worker: str = "",
        renames: bool = True,
        lacking: Collection[str] = (),
    ) -> Offer:
        """What a worker should lease now, within the transaction that leases it: nobody else leases for its pool meanwhile.

        `renames`: its worker can serve requests with another model than they name; `lacking`: models that it cannot have. Where a
        batch was to have another and cannot, it gets the one that it names, if the pool serves that.
        """
        published = self._in_force(connection)
        closed, most = self.doors.entry(connection, pool, now, worker)
        if published is None or closed:
            return Offer(Turns([], {}, {}))
        ready = chunks.ready(connection, now)
        able = published.able(pool, ready)
        if able and tallies.take_turns(connection, pool):
            published = self._in_force(connection) or published
            if most is not None and self.doors.closed(connection, pool, now, worker):
                return Offer(Turns([], {}, {}))  # who claimed at the same time took the last place
        leased = tallies.of_pool(connection, pool) if able else {}
        now_with = published.models(pool, now) if able else {}
        chosen = {name: now_with[name] for name in able if name in now_with}
        planned = {name: published.jobs[name] for name in chosen}
        models = {name: planned[name].model if model in lacking or not renames else model for name, model in chosen.items()}
        models |= undrafted(connection, models, {name: planned[name].model for name in models}, self.fleet, now)
        models = {name: model for name, model in models.items() if model not in lacking and self.fleet.pools[pool].serves(model)}
        several = len({planned[name].tenant for name in models}) > 1  # else it is nobody else's turn
        served = self._served(connection, published) if several else {}
        turns = published.turns(pool, now, models, leased, served, self._weights)
        self._refresh(published, pool, now, idle=turns.over)
        next_at, coming = published.coming(pool, now, ready)
        coming = {model: one for model, one in coming.items() if renames and model not in lacking}
        return Offer(turns, next_at, published.engines(pool, now), coming, published.kept(pool, now), most)

    def crew(
        self, connection: Connection, pool: str, now: datetime, lead_s: float, unfinished: Collection[str], alive: Sequence[Row]
    ) -> Crew:
        """What a pool should have at work now, or after the lead (see wanted.py). `alive`: the live workers, which stay as they
        are while there is no plan."""
        published, soon = self._in_force(connection), now + timedelta(seconds=lead_s)
        if published is None:
            return Crew(sum(worker["pool"] == pool and not workers.rests(worker) for worker in alive))
        if not (count := self.doors.most(connection, pool, now, soon)):
            return Crew(0, next_at=published.coming(pool, now, unfinished)[0])
        return crew(published, pool, now, count=count, lead_s=lead_s, unfinished=unfinished)

    def _served(self, connection: Connection, published: Published) -> dict[str, float]:
        """What each tenant was served, with what its leases are still expected to take."""
        served = shares.served(connection)
        for (batch_id, pool), requests in chunks.in_flight(connection).items():
            if job := published.jobs.get(batch_id):
                per_request_s = request_s(job, next(iter(job.keys_on(pool)), ""))
                expected_s = requests * per_request_s / self._weights.get(job.tenant, 1.0)
                served[job.tenant] = served.get(job.tenant, 0.0) + expected_s
        return served

    def may_go_on(self, batch_id: str, pool: str, now: datetime, closed: str | None = None) -> bool:
        """May a chunk that is running there go on running? `closed`: how the pool is closed."""
        published = self._published
        if closed:
            return closed == "cordoned"
        if published is not None and pool in published.overrides.pools:
            return True  # it was opened since
        return published is None or published.on_now(batch_id, pool, now, min(GRACE_S, self._settings.planner.slot_s / 2))

    def belated(self, chunk: Row, now: datetime, beside: int) -> bool:
        """Would a chunk, one of so many, end too late where others use its servers too, and in time elsewhere?"""
        published, left = self._published, chunk["lines"] - chunk["completed"] - chunk["failed"]
        return published is not None and left > 0 and published.belated(chunk["batch_id"], chunk["pool"], left, now, beside)

    def _refresh(self, published: Published, pool: str, now: datetime, *, idle: bool) -> None:
        """Plan again where a pool has done its share of the slot early: it is faster than thought, and may well do more."""
        if idle and now - published.made_at > REFRESH_AFTER and published.busy_now(pool, now):
            self.poke()

    # -- a batch's own answers --

    def verdict(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The answer at submission for a batch that has just been validated, as JSON."""
        return self.verdicts([batch])[0]

    def verdicts(self, found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The same of several that came at once, each judged beside all: in one look, by one plan."""
        return judged(self._observer.look(self._clock.now(), found), found, self.fleet)


def kept(problem: Problem) -> Problem:
    """As it is published: without futures that no plan was made by, which would be most of it."""
    return problem if problem.risk.weight > 0 else msgspec.structs.replace(problem, scenarios={})


def _latest_starts(view: View) -> dict[str, datetime | None]:
    starts = latest_safe_starts(view.problem.jobs, view.pools, LOOP_MARGIN_S)
    return {
        batch_id: view.now + timedelta(seconds=seconds) if math.isfinite(seconds) else None
        for batch_id, seconds in starts.items()
    }


def _contested(view: View, latest: Mapping[str, datetime | None]) -> set[str]:
    """Where every latest safe start lies ahead, every deadline can be met."""
    if all(at is not None and at > view.now for at in latest.values()):
        return set()
    return contested(view.problem.jobs, view.pools)


def _check_signals(provider: Provider, zones: list[str]) -> None:
    known: list[str] = []
    for zone in zones:
        try:
            provider.signal_of(zone)
            known.append(zone)
        except ForecastUnavailable as problem:
            log.warning("%s", problem.message)
    one_signal(provider, known)
