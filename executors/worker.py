"""The worker's loop: ask the server for chunks, keep an engine ready for them, drive them, report, let go when told to.

What it knows of time it measures by the monotonic clock, so a wall clock that is wrong or jumps does no harm.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from pathlib import Path

import aiohttp

from batchsched import supervisor
from batchsched.adapters import outfitted
from batchsched.clock import Clock, IdSource, RandomIds, SystemClock
from batchsched.disk import folder_bytes
from batchsched.errors import BatchschedError, EngineFailed, NotFound, ServerUnreachable, UnknownModel, UnsupportedProtocol
from batchsched.executors.admission import Admission
from batchsched.executors.canary import prove
from batchsched.executors.counting import Counting
from batchsched.executors.driver import Driver
from batchsched.executors.engine import Engine, bearer, engine_for
from batchsched.executors.engine_home import find_engine
from batchsched.executors.failing import Failures
from batchsched.executors.held import Held
from batchsched.executors.intake import input_of
from batchsched.executors.lacks import Lacks
from batchsched.executors.link import ServerLink, connections
from batchsched.executors.meters import EnergyMeter, choose_meter, idle_power
from batchsched.executors.modes import modes_of
from batchsched.executors.orphans import end_orphans
from batchsched.executors.partnering import Partnership
from batchsched.executors.reporter import LOST, Reporter
from batchsched.executors.share import EnergyShare
from batchsched.executors.signals import Stopped, kept_up, stopped_by_signals, unless
from batchsched.executors.spare.gate import SpareGate, gate_for
from batchsched.executors.tuning import Gpus, open_gpus
from batchsched.executors.unsaid import Unsaid
from batchsched.executors.work import Outcome
from batchsched.fleet import Mode, ServedModel
from batchsched.operations import NOBODY, Operations
from batchsched.settings import Worker as WorkerSettings
from batchsched.traces import OFF, Tracer
from batchsched.version import own_version
from batchsched.wire import (
    MIN_PROTOCOL,
    PROTOCOL,
    Acknowledged,
    Bye,
    Claim,
    Claimed,
    Heartbeat,
    HeartbeatAnswer,
    HeldLease,
    IdlePower,
    Lease,
    Meter,
    Register,
    Registered,
    Results,
    in_flight_at_death,
)

log = logging.getLogger(__name__)
_PARTING_S = 10.0
_WARM_POLL_S = 0.25  # an engine that is loaded and idle costs energy: ask for work often
_REFUSED_PAUSE_S = 5.0
_LONGEST_BEAT_S = 10.0  # a heartbeat that hangs must not cost the leases


class WorkerLoop:
    """One worker: one pool, one engine, at most a few chunks at a time."""

    def __init__(
        self,
        settings: WorkerSettings,
        pool: str,
        session: aiohttp.ClientSession,
        link: ServerLink,
        ids: IdSource,
        replica: str = "",
    ) -> None:
        self._replica = replica
        self.stop = asyncio.Event()
        self._settings, self._pool_name, self._session, self._link, self._ids = settings, pool, session, link, ids
        self._forgotten, self._doubted = False, False  # doubted: it died, and has not answered since
        self._failures = Failures(settings)
        self._lacks = Lacks(settings, session)
        self._held: dict[tuple[str, int], Held] = {}  # by chunk and token: a chunk may come back before its old lease has ended
        self._changed = asyncio.Event()
        self._me: Registered
        self._engine: Engine
        self._driver: Driver
        self._share: EnergyShare
        self._gate: SpareGate | None
        self._beating = asyncio.Lock()
        self._unsaid: Unsaid
        self._meter: EnergyMeter  # of our own hardware alone
        self._partner = Partnership.by(settings, session, ids)
        self._modes: list[Mode]
        self._gpus: Gpus
        self._counting: Counting
        self._fresh = True  # nothing of ours has been loaded yet
        self._idle = IdlePower(0.0, "modelled") if settings.engine_url else None  # who runs it pays for its rest
        self._logs_bytes: int | None = None
        self._idle_since, self._keep = time.monotonic(), False

    async def run(self) -> int:
        """Work until told to stop; 0.

        Raises EngineMissing, the last EngineFailed once worker.engine_tries are used up, or what the server has against us at
        the first contact (Unauthorized, PermissionDenied, InvalidConfiguration, NotFound).
        """
        home = None if self._settings.engine_url else find_engine(self._settings.engine_python)
        if orphans := await asyncio.to_thread(end_orphans):
            log.warning("Ended %d engine processes that a dead worker had left behind.", orphans)
        try:
            self._me = await unless(self.stop, self._register())
        except Stopped:
            return 0
        self._engine = engine_for(self._pool_name, self._me.pool, home, self._settings)
        shared = home is None
        pool, models = self._me.pool, self._me.models.values()
        here, busy = self._engine.here, lambda: self._share.in_flight
        choice = choose_meter(pool, self._settings, self._engine.pids, busy=busy, models=models, here=here, shared=shared)
        log.info("Energy is %s. Engine: %s.", choice.why, self._engine.describe())
        self._meter = choice.meter
        self._gpus = open_gpus(pool, models, self._settings.state_dir, here=here)
        self._share = EnergyShare(self._partner.metered(self._meter), self._link.now)
        self._unsaid = Unsaid(self._share, self._link.tally)
        self._gate = gate = gate_for(pool, self._engine.url, self._session)
        self._driver = Driver(
            self._engine,
            self._session,
            self._share,
            self._ids,
            admission=Admission(pool.most_in_flight, pool.max_tokens_in_flight),
            request_timeout_s=self._settings.request_timeout_s,
            on_change=self._changed.set,
            gate=gate,
        )
        self._driver.trust(time.monotonic() + self._me.lease_s)
        supervisor.ready()
        self._counting = Counting(self._engine, self._session, self._share, lambda: self._me.models, self._partner)
        watches = [self._driver.watch, self._counting.watch, *([gate.watch] if gate else [])]
        beside = [asyncio.create_task(kept_up(chore)) for chore in (self._heartbeats, self._weigh_logs, *watches)]
        try:
            await self._show_cards()
            await self._loop()
        finally:
            await self._part()
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
            self._meter.close()
            self._gpus.close()
        return 0

    async def _loop(self) -> None:
        await self._partner.look()  # what it is for, before any work is asked for
        if self._settings.engine_url:
            await self._attach()
        while not self.stop.is_set():
            try:
                await unless(self.stop, self._step())
            except Stopped:
                return
            except (EngineFailed, UnknownModel) as problem:
                await self._engine_trouble(problem)
            except NotFound as problem:
                log.warning("The server does not know this worker any more (%s); registering again.", problem.message)
                self._forgotten = True
            except BatchschedError as problem:
                log.error("%s Trying again in %.0f s.", problem.message, _REFUSED_PAUSE_S)
                await self._pause(_REFUSED_PAUSE_S)

    async def _step(self) -> None:
        """One round: mend the engine, or claim, or wait."""
        if self._forgotten or self._modes != modes_of(self._partner.role):
            await self._register_anew()
        if self._driver.problem is not None:
            await self._restart()
        self._changed.clear()
        coming = sum(held.lease.lines for held in self._held.values() if held.work is None)
        if not self._driver.wants_more(coming):
            await self._wait(None)
            return
        await self._lacks.look(self._me.models)
        ready = self._driver.ready
        sharing = self._gate.sharing(wants=True) if self._gate else None
        claim = Claim(self._me.worker_id, 1, ready, renames=True, lacking=sorted(self._lacks.models), sharing=sharing)
        claimed = await self._link.insist("POST", "/leases", claim, Claimed)
        self._keep = claimed.keep
        if self._gate and claimed.ceiling is not None:
            self._gate.share(claimed.ceiling)
        for lease in claimed.leases:
            self._take(lease)
        if claimed.prepare and claimed.prepare not in ready and not self._held:
            await self._prepare_or_wait(claimed.prepare, claimed.poll_s)
        elif not claimed.leases:
            await self._wait(min(claimed.poll_s, _WARM_POLL_S) if ready else claimed.poll_s)

    async def _wait(self, timeout_s: float | None) -> None:
        """Until something changes or the time is over; an engine of ours that was idle for long is stopped, unless it is kept."""
        idle_s = 0.0 if self._keep else time.monotonic() - self._idle_since
        if not self._held and self._engine.served and not self._settings.engine_url and idle_s > self._settings.idle_stop_s:
            log.info("The engine was idle for %.0f s and is stopped.", idle_s)
            await self._engine.stop()
            self._share.stopped()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), timeout_s)

    # The server.

    async def _register(self, was: str = "") -> Registered:
        """Present ourselves; to a server that refuses our protocol, by the one before it."""
        try:
            me = await self._introduce(PROTOCOL, was)
        except BatchschedError as problem:
            if problem.http_status != UnsupportedProtocol.http_status:
                raise
            me = await self._introduce(MIN_PROTOCOL, was)
        if not MIN_PROTOCOL <= me.protocol <= PROTOCOL:
            older = "server" if me.protocol < PROTOCOL else "worker"
            raise UnsupportedProtocol(
                f"The server speaks protocol {me.protocol}, this worker {MIN_PROTOCOL} and {PROTOCOL}; upgrade the {older}."
            )
        log.info("Registered as %s in pool '%s' (protocol %d).", me.worker_id, me.pool_name, me.protocol)
        return me

    async def _register_anew(self) -> None:
        """Perhaps with work in hands. What a heartbeat on its way says is said by the worker that we were, and by it alone."""
        async with self._beating:
            self._me = await self._register(self._me.worker_id)
        self._forgotten = False
        await self._show_cards()

    async def _introduce(self, protocol: int, was: str) -> Registered:
        self._modes = modes_of(self._partner.role)
        me = self._pool_name, socket.gethostname(), os.getpid(), protocol, own_version()
        message = Register(*me, shares=True, replica=self._replica, adapters=True, modes=self._modes, was=was)
        return await self._link.insist("POST", "/workers", message, Registered)

    async def _heartbeats(self) -> None:
        """Say what is held; let go of what the answer names. Goes on while the engine loads."""
        while True:
            await asyncio.sleep(self._me.heartbeat_s)
            await self._beat()

    async def _show_cards(self) -> None:
        """Before any work is asked for: who has a broken GPU gets none. Whoever is to stop waits for no card that hangs."""
        with contextlib.suppress(Stopped):
            await unless(self.stop, asyncio.to_thread(self._gpus.look))
            if self._gpus.seen or self._idle:
                await unless(self.stop, self._beat())

    async def _beat(self) -> None:
        async with self._beating:
            await self._beat_alone()

    async def _beat_alone(self) -> None:
        said = {held.lease.chunk_id: held for held in self._held.values()}  # of two leases of a chunk the newer
        held_leases = [HeldLease(chunk_id, held.lease.token) for chunk_id, held in said.items()]
        spare, sharing = (self._gate.seen(), self._gate.sharing(bool(held_leases))) if self._gate else (None, None)
        spent = self._unsaid.now()
        seen = self._idle, self._logs_bytes, spare, self._gpus.seen
        message = Heartbeat(held_leases, spent, *seen, sharing, self._driver.ready, self._failures.told)
        timeout_s = min(_LONGEST_BEAT_S, max(1.0, 2 * self._me.heartbeat_s))
        path, sent = f"/workers/{self._me.worker_id}/heartbeat", time.monotonic()
        try:
            answer = await self._link.insist("POST", path, message, HeartbeatAnswer, timeout_s=timeout_s)
        except BatchschedError as problem:
            if self._gate:
                self._gate.unseen(spare)
            if isinstance(problem, NotFound):
                self._changed.set()  # the next claim meets the same answer and registers again
            else:
                log.warning("Heartbeat refused: %s", problem.message)
            return
        self._unsaid.arrived(spent)
        if self._gate:
            self._gate.share(answer.ceiling)
        for chunk_id in said.keys() & set(answer.stale):
            self._lose(said[chunk_id])
        for chunk_id, reason in answer.stop.items():
            if (held := said.get(chunk_id)) and held.work:
                self._driver.stop(held.work, reason, self._settings.drain_s)
        self._driver.trust(sent + self._me.lease_s)

    async def _weigh_logs(self) -> None:
        """Beside the heartbeats, which must not wait for a slow disk."""
        while True:
            self._logs_bytes = await asyncio.to_thread(folder_bytes, Path(self._settings.state_dir), "*.log")
            await asyncio.to_thread(self._gpus.look)
            await asyncio.sleep(self._me.heartbeat_s)

    # Chunks.

    def _take(self, lease: Lease) -> None:
        for older in [held for held in self._held.values() if held.lease.chunk_id == lease.chunk_id]:
            self._lose(older)  # the server took it back, or we would not be given it again
        held = self._held[lease.chunk_id, lease.token] = Held(lease, self._link.told_of(lease, self._me.pool.engine))
        held.task = asyncio.create_task(self._hold(held))
        held.task.add_done_callback(lambda _: self._dropped(held))

    def _dropped(self, held: Held) -> None:
        """Whatever became of it, and were it cancelled before its first step."""
        del self._held[held.lease.chunk_id, held.lease.token]
        self._idle_since = time.monotonic()
        self._changed.set()

    def _lose(self, held: Held) -> None:
        """The lease is somebody else's: nothing more is sent for it."""
        if held.work:
            self._driver.lose(held.work)
        elif held.task:
            held.task.cancel()

    async def _hold(self, held: Held) -> None:
        """A lease from its taking to its end, whatever that is."""
        lease = held.lease
        key = lease.chunk_id, lease.token
        startup = self._share.started(self._engine.startup_s or 0.0)
        self._share.open(key, lease.batch_id)

        def refused(why: str) -> None:
            if held.work:
                held.work.fail(why)

        reporter = Reporter(self._link, lease, self._share, self._driver.backlog, lambda: self._lose(held), refused, held.told)
        try:
            if startup:
                await self._say_started(lease, startup)
            await self._work_on(held, reporter)
        except LOST as problem:
            log.warning("Chunk %s is no longer ours: %s", lease.chunk_id, problem.message, extra=lease.about)
        except ServerUnreachable as problem:
            log.error("Chunk %s could not be given back: %s", lease.chunk_id, problem.message, extra=lease.about)
        except Exception as problem:  # whatever it is, the server must hear that the chunk is free
            log.error("Chunk %s failed here: %s", lease.chunk_id, problem, extra=lease.about)
            with contextlib.suppress(BatchschedError):
                suspects = in_flight_at_death(lease.suspects, lease.erring)
                await reporter.fail(f"The worker failed ({type(problem).__name__}): {problem}", suspects, erring=lease.erring)
        finally:
            await reporter.abandon()
            self._share.close(key)

    async def _say_started(self, lease: Lease, startup: Meter) -> None:
        try:
            await self._link.insist("POST", f"/leases/{lease.chunk_id}/results", Results(lease.token, [], startup), Acknowledged)
        except LOST:
            self._share.give_back((lease.chunk_id, lease.token), startup)
            raise

    async def _work_on(self, held: Held, reporter: Reporter) -> None:
        """A lease from its input to the last word about it."""
        lease, began = held.lease, time.monotonic()
        found = await input_of(self._link, lease, self._me.models.get(lease.model, ServedModel()))
        if found.refused:
            self._lacks.field(lease, found.refused)
        if found.refused or self.stop.is_set() or lease.model != self._engine.served:
            await reporter.release("shutdown" if self.stop.is_set() else "preempted", plain=bool(found.refused))
            return
        held.work = self._driver.add(lease, reporter, found.lines)
        outcome = await held.work.outcome
        if outcome.end == "finished":
            await self._counting.now()  # the last word about a chunk charges it by fresh counts
        await outcome.tell(reporter)
        log.info(
            "Chunk %s: %s, %d of %d lines recorded in %.1f s.",
            lease.chunk_id, outcome.end, reporter.recorded, lease.lines - len(lease.done), time.monotonic() - began,
            extra=lease.about | {"state": outcome.end, "pool": self._pool_name, "worker_id": self._me.worker_id},
        )  # fmt: skip

    # The engine.

    async def _attach(self) -> None:
        """Find out what an engine that runs already serves, so that the first claim can say so."""
        for name in self._me.models:
            with contextlib.suppress(EngineFailed, UnknownModel):
                await self._engine.start(self._me.models[name], name)
                await self._driver.revive(await self._partner.way(self._me.pool, self._me.models[name]))
                return

    async def _prepare_or_wait(self, model: str, poll_s: float) -> None:
        """Get a model ready; where the engine cannot have it, go on with the one that it serves; where it cannot be started in
        another way to serve a model, with the plain one."""
        try:
            await self._prepare(model)
        except (UnknownModel, EngineFailed) as problem:
            variant = model in self._me.models and self._me.models[model].variant_of
            if not variant and (isinstance(problem, EngineFailed) or not (self._engine.served or self._lacks.waits)):
                raise
            self._lacks.model(model, problem.message)
            await self._wait(poll_s)

    async def _prepare(self, model: str) -> None:
        if model not in self._me.models:
            await self._register_anew()  # the server has learned of a model since
        if model not in self._me.models:
            raise UnknownModel(f"The server asks for the model '{model}' without saying what it is.")
        if not self._engine.takes_up(model):
            await self._start(model)
        if self._doubted:
            await prove(self._session, self._engine, model)
        self._failures.over()
        self._doubted = False
        self._lacks.models.discard(model)
        self._idle_since = time.monotonic()
        await self._driver.revive(await self._partner.way(self._me.pool, self._me.models[model]))
        log.info("Ready after %.1f s: %s.", self._engine.startup_s, self._engine.describe())

    async def _start(self, model: str) -> None:
        if not self._settings.engine_url:
            log.info("Starting the engine for '%s'.", model)
            if self._fresh:
                self._fresh, self._idle = False, await idle_power(self._meter, self._pause)
            self._share.starting()
        await self._engine.start(outfitted(self._me.models, model), model)

    async def _restart(self) -> None:
        """After the engine's death: up again if chunks still wait for it, else down until it is asked for."""
        model, self._doubted = self._engine.served, True
        await self._engine.stop()
        waiting = [held.lease.model for held in self._held.values() if held.work and not held.work.outcome.done()]
        if waiting:
            await self._prepare(waiting[0])
        elif model and self._settings.engine_url:
            await self._prepare(model)
        else:
            await self._driver.revive()

    async def _engine_trouble(self, problem: BatchschedError) -> None:
        """Say so, give back what cannot run, and pause before the next try."""
        pause_s = self._failures.met(problem)
        for held in list(self._held.values()):
            if held.work:
                held.work.end(Outcome("released", "preempted"))  # it has done nothing wrong
        if self._failures.too_many:
            raise problem
        await self._pause(pause_s)

    async def _pause(self, seconds: float) -> None:
        """Wait, but not longer than until the word to stop."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stop.wait(), seconds)

    # The end.

    async def _part(self) -> None:
        """Let answers in flight come back, give the rest back, end the engine, say goodbye."""
        self.stop.set()  # after an error too: a chunk whose input is still on its way is given back
        self._link.give_up_at = time.monotonic() + self._settings.drain_s + _PARTING_S
        for held in list(self._held.values()):
            if held.work:
                self._driver.stop(held.work, "shutdown", self._settings.drain_s)
        tasks = [held.task for held in self._held.values() if held.task]
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._engine.stop()
        self._share.stopped()
        with contextlib.suppress(BatchschedError):
            await self._link.call("POST", f"/workers/{self._me.worker_id}/bye", Bye(self._unsaid.last()))
        log.info("Stopped.")


async def run_worker(
    settings: WorkerSettings,
    pool: str,
    server_url: str = "",
    api_key: str = "",
    *,
    clock: Clock | None = None,
    ids: IdSource | None = None,
    stop: asyncio.Event | None = None,
    replica: str = "",
    tracer: Tracer = OFF,
    operations: Operations = NOBODY,
) -> int:
    """Run a worker of a pool until SIGTERM or SIGINT, or until `stop` is set; a second signal ends the process at once.

    `server_url`: where the server is; empty: `settings.server_url`. `replica`: the name by which a launcher knows it. Raises
    EngineMissing, EngineFailed (see worker.engine_tries), NotFound for a pool that the server does not know; at the first contact
    also Unauthorized, PermissionDenied, or InvalidConfiguration for a URL that is none.
    """
    headers, timeout = bearer(settings.engine_api_key), aiohttp.ClientTimeout(total=None)
    async with (
        aiohttp.ClientSession(connector=connections(), timeout=timeout) as outside,
        aiohttp.ClientSession(connector=connections(0), headers=headers, timeout=timeout) as session,
    ):
        link = ServerLink(outside, server_url or settings.server_url, api_key, clock or SystemClock(), tracer, operations)
        loop = WorkerLoop(settings, pool, session, link, ids or RandomIds(), replica)
        loop.stop = stop or loop.stop
        with stopped_by_signals(loop.stop), supervisor.watched():
            return await loop.run()
