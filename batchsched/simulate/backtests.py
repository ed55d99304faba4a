"""A backtest: the server as in production, with queue, scheduler, planner, windows and ledger, on a virtual clock.

Only executors are modelled, and the grid is the record of one. Decided is on what was known then, paid for what came true.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from batchsched.errors import ServerError
from batchsched.forecasts import Provider
from batchsched.published import Published
from batchsched.queue import batches, chunks
from batchsched.queue.rows import Row
from batchsched.queue.states import BATCH_TRANSITIONS
from batchsched.server.workers import LeaseDesk
from batchsched.simulate.ceiling import HOUR_S, Task, hold, until_s
from batchsched.simulate.conditions import USUAL, Conditions
from batchsched.simulate.crew import Crew
from batchsched.simulate.events import Events
from batchsched.simulate.foreseen import Foreseen
from batchsched.simulate.grid import Grid
from batchsched.simulate.making import grams_per_s
from batchsched.simulate.moves import cells
from batchsched.simulate.online import Learnt
from batchsched.simulate.outcome import Outcome
from batchsched.simulate.paid import paid, transferred
from batchsched.simulate.policies import Policy
from batchsched.simulate.policy_maker import PolicyMaker
from batchsched.simulate.records import Completion, Leased, Records
from batchsched.simulate.replica import Held, Replica
from batchsched.simulate.scene import Arrival, Scene
from batchsched.simulate.seen import Seen
from batchsched.simulate.stage import Stage, trials_of
from batchsched.simulate.truth import Lines, Truth

WARM_UP_CHUNKS = 4
"""Of each batch before the start, at most."""
WARM_UP_SHARE = 0.5
"""Of all replicas' time until the start, what that may take, so that nothing of it is left then."""
Progress = Callable[[float], object]


def backtest(
    scene: Scene,
    grid: Grid,
    policy: Policy,
    conditions: Conditions = USUAL,
    on_progress: Progress | None = None,
    *,
    folder: Path | None = None,
) -> tuple[Outcome, Records]:
    """Run a scene under a policy. `on_progress` is told the share that is done; `folder`: for the queue, a temporary one where
    None. The same arguments always give the same answer. Raises ServerError where something went wrong inside, Impossible where
    it emitted less than any policy could."""
    with ExitStack() as stack:
        place = folder or Path(stack.enter_context(TemporaryDirectory(dir=_memory())))
        made = Backtest(scene, grid, policy, conditions, place)
        stack.callback(made.close)
        return made.run(on_progress), made.records


class _Alarm(logging.Handler):
    """A server logs what goes wrong and goes on; a simulation must not."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.append(self.format(record))

    def check(self) -> None:
        """Raises ServerError where anything was heard."""
        if self.heard:
            raise ServerError(f"The simulated server got into trouble: {self.heard[0]}")


class Backtest:
    """One of them: to be run once, and closed."""

    def __init__(
        self,
        scene: Scene,
        grid: Grid,
        policy: Policy,
        conditions: Conditions,
        folder: Path,
        provider: Provider | None = None,
    ) -> None:
        """`provider`: what the scheduler asks about the grid; None: the grid, as the policy sees it."""
        self._scene, self._grid, self._policy, self._conditions = scene, grid, policy, conditions
        self._alarm = _Alarm()
        logging.getLogger("batchsched").addHandler(self._alarm)
        self.events = Events(grid.start, -conditions.warm_up_h * 3600)
        self._truth = Truth(scene, conditions)
        self._maker = PolicyMaker(policy, lambda: self.events.now_s)
        self._known: dict[str, tuple[Arrival, Lines]] = {}
        self.names: dict[str, str] = {}
        """Batches of the scene by their ids in the queue; those of the warm-up are not of the scene."""
        self._left: dict[str, int] = {}
        """Lines of open batches without a result."""
        self._finished_s: dict[str, float] = {}
        self._effort: defaultdict[str, float] = defaultdict(float)
        """Of each batch, the lines that were recorded, each counted by the luck of its chunk."""
        self._foreseen = Foreseen(scene, conditions, self._truth)
        self._coming = [*warm_up(scene, conditions, self._truth), *scene.arrivals]
        self._outcome = Outcome(policy.name, len(scene.arrivals))
        self.records = Records()
        self._last: tuple[Published, float] | None = None
        seen = provider or Seen(grid, policy)
        self._stage = Stage(scene, policy, conditions, self.events.clock, self._maker, seen, folder)
        self.runtime = self._stage.runtime
        self._crew = Crew(
            scene, conditions, self._truth, LeaseDesk(self.runtime), self.events, self._known.__getitem__, self._told
        )

    def run(self, on_progress: Progress | None = None) -> Outcome:
        """To the end: of the work, or of the grid. Raises ServerError."""
        self._stage.profiled(trials_of(self._scene, self.events.clock.now()))
        alone = {name: self._truth.alone_tokens_per_s(name) for name in self._scene.rooms}
        self._stage.watched(Learnt(self._grid.start, self._scene.rooms, alone).until(self.events.now_s))
        if self._conditions.warm_up_h > 0:
            self._stage.freeze(self._grid.start)
        self.events.at(self.events.now_s, lambda: self._tick(on_progress))
        for arrival in self._scene.arrivals if self._conditions.at_once else ():
            self.events.at(arrival.at_s, self._look)
        while self.events.run(self._grid.hours * 3600.0):
            pass
        self._crew.beat(self._conditions.lease_s)
        self.runtime.lifecycle.round()
        self._alarm.check()
        return self._account()

    def close(self) -> None:
        """Let go of the queue."""
        logging.getLogger("batchsched").removeHandler(self._alarm)
        self._stage.close()

    def _tick(self, on_progress: Progress | None) -> None:
        now_s, every_s = self.events.now_s, self._conditions.tick_s
        self._look()
        if on_progress:
            on_progress(min(1.0, max(0.0, now_s) / (self._scene.days * 86400.0)))
        if self._coming or self._left or now_s < 0:
            next_s = (now_s // every_s + 1) * every_s
            self._crew.watch(next_s)
            self.events.at(next_s, lambda: self._tick(on_progress))

    def _look(self) -> None:
        """Take up what has come, plan where it is time to, let everybody ask for work."""
        now_s = self.events.now_s
        self._take_up(now_s)
        self._crew.report()
        self.runtime.lifecycle.round()
        asked = self.runtime.scheduler.poked()
        if asked or now_s % self._policy.replan_s == 0:
            self._plan(now_s)
        self._crew.beat(self._conditions.lease_s)
        self._crew.ask_all()
        self.runtime.database.checkpoint()  # as housekeeping does: what is read is looked up in the log of what was written
        if self._maker.trouble is not None:
            raise self._maker.trouble
        self._alarm.check()

    def _take_up(self, now_s: float) -> None:
        """What has come is submitted."""
        came: list[tuple[Arrival, Lines]] = []
        while self._coming and self._coming[0].at_s <= now_s:
            arrival = self._coming.pop(0)
            came.append((arrival, self._truth.lines(arrival)))
        for batch_id, (arrival, lines) in zip(self._stage.submit(came, self._grid.start), came, strict=True):
            self._known[batch_id] = (arrival, lines)
            self._left[batch_id] = lines.number
            if arrival.at_s >= 0:
                self.names[batch_id] = arrival.batch_id

    def _plan(self, now_s: float) -> None:
        published = self.runtime.scheduler.plan_now(ready_s=0.0)
        self._outcome.replans += 1
        if self._last is not None:
            before, made_s = self._last
            stood, stands = (cells(p.plan, at_s, now_s, self._left) for p, at_s in ((before, made_s), (published, now_s)))
            self._outcome.replanned(stood, stands)
        self._last = published, now_s
        self._foreseen.planned(published)
        self.records.plan(published, now_s, self.names)

    def _told(self, what: str, replica: Replica, held: Held, lines: int) -> None:
        """What a lease came to."""
        now_s, lease, grain = self.events.now_s, held.lease, held.lines.grain
        batch_id, name = lease.batch_id, self.names.get(lease.batch_id, lease.batch_id)
        self.records.leases.append(Leased(now_s, what, name, lease.chunk_id, lease.token, replica.name, lines * grain))
        if what == "leased" and (published := self.runtime.scheduler.published) is not None and now_s >= 0:
            if published.hurries(batch_id, self.events.clock.now()):
                self._outcome.hurried_s += held.ends_s - now_s
        elif what == "recorded":
            self._foreseen.ran(batch_id, replica.pool)
            self._effort[batch_id] += lines * held.luck
            self._count_down(batch_id, lines)
        elif what == "failed":
            self._foreseen.stopped(batch_id)
            if self._is_over(lease.chunk_id):
                if batch_id in self.names:
                    self._outcome.given_up[name] = self._outcome.given_up.get(name, 0.0) + len(held.todo) * grain
                self._count_down(batch_id, len(held.todo))

    def _is_over(self, chunk_id: str) -> bool:
        """After its last attempt the server makes error lines of what a chunk has left."""
        with self.runtime.database.read() as connection:
            return bool(chunks.get(connection, chunk_id)["state"] == "done")

    def _count_down(self, batch_id: str, lines: int) -> None:
        """So many more of its lines have a result."""
        self._left[batch_id] -= lines
        if self._left[batch_id] <= 0:
            del self._left[batch_id]
            self._finished_s[batch_id] = self.events.now_s

    # -- what it came to --

    def _account(self) -> Outcome:
        found, network = self._outcome, self._scene.network_kwh_per_gb
        found.work = paid(self.runtime.database, self._scene, self._grid, self.names)
        found.work += transferred(self._crew.moved, self._scene, self._grid, self.names, network)
        weighed = grams_per_s(self._scene, self._conditions.embodied, self._grid.start)
        found.embodied_g = math.fsum(one.seconds * weighed[one.pool] for one in found.work)
        found.engine_starts, found.wasted_starts = self._crew.starts, self._crew.wasted
        found.planning_cpu_s = self._maker.cpu_s
        grams: dict[str, float] = {}
        for one in found.work:
            grams[one.batch_id] = grams.get(one.batch_id, 0.0) + one.grams
        with self.runtime.database.read() as connection:
            rows = {row["id"]: row for row in batches.in_state(connection, sorted(BATCH_TRANSITIONS))}
        for batch_id, name in self.names.items():
            (arrival, lines), finished_s = self._known[batch_id], self._finished_s.get(batch_id)
            came = _completion(arrival, rows[batch_id], finished_s, grams.get(name, 0.0))
            self.records.completions.append(self._foreseen.beside(came, batch_id, arrival, lines, self._effort[batch_id]))
            if finished_s is None:
                found.unfinished.append(name)
                continue
            found.done(name, finished_s - arrival.at_s, finished_s - arrival.deadline_s)
        found.unfinished += [arrival.batch_id for arrival in self._coming if arrival.at_s >= 0]
        hold(found, self.tasks(found), self._scene.fleet, self._grid)
        return found

    def tasks(self, found: Outcome) -> list[Task]:
        """What the batches that were finished took, as it turned out: the speeds, watts and lengths that were drawn."""
        late, end_s, tasks = {*found.missed}, self._grid.hours * HOUR_S, list[Task]()
        added_w = self._scene.fleet.added_j
        for batch_id in self.names:
            (arrival, lines), effort = self._known[batch_id], self._effort[batch_id]
            if batch_id in self._finished_s:
                seconds = {pool: effort * self._truth.usual_s(arrival, pool, lines) for pool in arrival.pools}
                watts = {pool: added_w(pool, self._truth.power_w(arrival, pool), 1.0) for pool in arrival.pools}
                width = math.ceil(lines.number / self._conditions.chunk_lines)
                tasks.append(Task(arrival.at_s, until_s(arrival, late, end_s), width, seconds, watts))
        return tasks


def _completion(arrival: Arrival, row: Row, finished_s: float | None, grams: float) -> Completion:
    verdict = row["verdict"] or {}
    return Completion(
        arrival.batch_id,
        arrival.model,
        arrival.requests,
        arrival.at_s,
        arrival.deadline_s,
        finished_s,
        bool(verdict.get("feasible")),
        float(verdict.get("probability") or 0.0),
        verdict.get("expected_grams"),
        grams,
    )


def warm_up(scene: Scene, conditions: Conditions, truth: Truth) -> list[Arrival]:
    """Small batches of each model that may run anywhere, like those of the scene but for the lengths of their answers,
    which would tell what is to come; smaller where the fleet is small or slow."""
    if conditions.warm_up_h <= 0:
        return []
    asked = {model: [one for one in scene.arrivals if one.model == model] for model in scene.fleet.models}
    alike = {model: some[: conditions.warm_up_batches] for model, some in asked.items()}
    wanted_s = WARM_UP_CHUNKS * conditions.chunk_s * math.fsum(one.slowness for some in alike.values() for one in some)
    room_s = WARM_UP_SHARE * conditions.warm_up_h * 3600 * sum(pool.count for pool in scene.fleet.pools.values())
    part = room_s / wanted_s if wanted_s > room_s else 1.0
    found: list[Arrival] = []
    for model, some in alike.items():
        pools = tuple(name for name in scene.fleet.pools if (model, name) in scene.profiles)
        for n, one in enumerate(some):
            requests = math.ceil(part * truth.grain(model) * WARM_UP_CHUNKS * conditions.chunk_lines)
            at_s = -conditions.warm_up_h * 3600
            answered, slowness = truth.earlier_tokens(one, n), one.slowness / scene.slower_since
            tokens = {"input_tokens": one.input_tokens, "output_tokens": answered, "slowness": slowness}
            found.append(Arrival(f"warm_{model}_{n}", at_s, at_s + 86400.0, model, requests, pools, **tokens))
    return found


def _memory() -> str | None:
    """Where files are in memory, if the system has such a place."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - a folder of our own in it
