"""Routes of the workers' protocol (wire.py)."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from datetime import datetime, timedelta

from fastapi import APIRouter, Request
from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from batchsched import exposed
from batchsched.errors import BatchschedError, InvalidRequest, NotFound, StaleLease, UnsupportedProtocol
from batchsched.generations import fitted
from batchsched.planner.fairness import Turns
from batchsched.queue import batches, chunks, ledger, spare, spending, tallies, workers
from batchsched.queue.database import again
from batchsched.queue.rows import Row
from batchsched.queue.store import begun
from batchsched.queue.tenancy import ANY
from batchsched.server import desks, failing, health
from batchsched.server.asked import note_asked
from batchsched.server.auth import GUARDED
from batchsched.server.messages import answer, read
from batchsched.server.pace import Pace
from batchsched.server.runtime import Runtime
from batchsched.server.starts import Starts, beyond
from batchsched.variants import DRAFTING
from batchsched.wire import (
    MIN_PROTOCOL,
    PREFIX,
    PROTOCOL,
    Acknowledged,
    Bye,
    Claim,
    Claimed,
    Fail,
    Finish,
    Heartbeat,
    HeartbeatAnswer,
    Lease,
    Register,
    Registered,
    Release,
    Results,
    Sharing,
    in_flight_at_death,
    known_reason,
    known_settings,
)

log = logging.getLogger(__name__)
_RESTING_POLL_S = 5.0
_WITHOUT_ENGINE = frozenset({"preempted", "shutdown"})
"""Reasons for which a worker gives work back whose engine may be gone."""
RETRY_PAUSE_S = 2.0
LONGEST_PAUSE_S = 60.0


def router(runtime: Runtime) -> APIRouter:
    """The routes, bound to a server."""
    routes = APIRouter(prefix=PREFIX, tags=["Workers"], dependencies=GUARDED)
    desk = LeaseDesk(runtime)

    @routes.post("/workers")
    async def register(request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        """A worker presents itself and gets its pool's settings."""
        return answer(known_settings(await run_in_threadpool(desk.register, await read(request, Register))))

    @routes.post("/workers/{worker_id}/heartbeat")
    async def heartbeat(worker_id: str, request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        """A sign of life that extends the worker's leases."""
        return answer(await run_in_threadpool(desk.heartbeat, worker_id, await read(request, Heartbeat)))

    @routes.post("/workers/{worker_id}/bye")
    async def bye(worker_id: str, request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        """A worker stops."""
        message = await read(request, Bye) if await request.body() else Bye()
        await run_in_threadpool(desk.bye, worker_id, message)
        return answer()

    @routes.post("/leases")
    async def claim(request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Ask for work."""
        return answer(await run_in_threadpool(desk.claim, await read(request, Claim)))

    @routes.get("/chunks/{chunk_id}/input")
    def chunk_input(chunk_id: str, token: int) -> StreamingResponse:  # pyright: ignore[reportUnusedFunction]
        """The lines of a leased chunk, as they were uploaded."""
        with runtime.database.read() as connection:
            chunk = chunks.held(connection, chunk_id, token)
            file_id = batches.get(connection, chunk["batch_id"], ANY)["input_file_id"]
        blocks = begun(runtime.store.blocks(file_id, chunk["byte_start"], chunk["byte_end"]))
        return StreamingResponse(blocks, media_type="application/octet-stream")

    @routes.post("/leases/{chunk_id}/results")
    async def results(chunk_id: str, request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Record finished requests; answered once they are safe."""
        return answer(await run_in_threadpool(desk.record, chunk_id, await read(request, Results)))

    @routes.post("/leases/{chunk_id}/finish")
    async def finish(chunk_id: str, request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Every line is recorded."""
        await run_in_threadpool(desk.finish, chunk_id, await read(request, Finish))
        return answer()

    @routes.post("/leases/{chunk_id}/release")
    async def release(chunk_id: str, request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Give the rest back; no attempt is spent."""
        await run_in_threadpool(desk.release, chunk_id, await read(request, Release))
        return answer()

    @routes.post("/leases/{chunk_id}/fail")
    async def fail(chunk_id: str, request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        """The engine failed under the chunk; an attempt is spent."""
        await run_in_threadpool(desk.fail, chunk_id, await read(request, Fail))
        return answer()

    return routes


class LeaseDesk:
    """What the routes do, each in one write transaction. A stale token is counted and changes nothing."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._database = runtime.database
        self._limits = runtime.settings.server
        self._pace = Pace()

    def register(self, message: Register) -> Registered:
        """Raises NotFound for an unknown pool, UnsupportedProtocol."""
        if not MIN_PROTOCOL <= message.protocol <= PROTOCOL:
            older = "worker" if message.protocol < PROTOCOL else "server"
            raise UnsupportedProtocol(
                f"This server speaks protocols {MIN_PROTOCOL} and {PROTOCOL}, the worker {message.protocol}; upgrade the {older}."
            )
        fleet = self._runtime.fleet
        if message.pool not in fleet.pools:
            raise NotFound(f"There is no pool '{message.pool}'; declared: {', '.join(fleet.pools) or 'none'}.", param="pool")
        pool = fleet.pools[message.pool]
        if pool.kind == "spare" and not message.shares:
            raise UnsupportedProtocol(
                f"Pool '{message.pool}' shares its servers with online users, which this worker cannot; upgrade the worker."
            )
        worker_id = self._runtime.ids.new("worker")
        said = ("pool", "host", "pid", "protocol", "version", "replica", "adapters", "modes")
        told = {name: getattr(message, name) for name in said}
        now, was = self._runtime.clock.now(), message.was
        with self._database.write() as connection:
            stays = workers.replaced(connection, was, message.pool, now) if was else {}
            workers.add(connection, id=worker_id, now=now, **told, **stays)
            if stays:
                chunks.hand_over(connection, was, worker_id)
        self._runtime.scheduler.poke()
        models = {
            name: fitted(pool, served, fleet.gpus)
            for name, served in fleet.models.items()
            if pool.serves(name)
            and (not served.adapter_of or (message.adapters and pool.engine == "vllm"))
            and (served.mode == "standalone" or served.mode in message.modes)
        }
        beat_s = min(5.0, self._limits.lease_s / 4)
        return Registered(worker_id, message.pool, pool, models, self._limits.lease_s, beat_s, message.protocol)

    @again
    def heartbeat(self, worker_id: str, message: Heartbeat) -> HeartbeatAnswer:
        """Extend what is still the worker's; name what is not, and what should stop."""
        now = self._runtime.clock.now()
        with self._database.write() as connection:
            before = workers.get(connection, worker_id)
            idle_w = message.idle.power_w if message.idle else None
            told = {"idle_w": idle_w, "logs_bytes": message.logs_bytes, "ready_models": message.ready_models}
            known: Row = {name: value for name, value in told.items() if value is not None}
            known |= health.noted(connection, before, message.cards, now) | failing.noted(before, message.failing, now)
            worker = before | known
            workers.seen(connection, worker_id, now, **{name: worker[name] for name in worker if worker[name] != before[name]})
            ceiling = self._seat(connection, before, message.sharing, now)
            news = spending.add(connection, worker_id, [message.spent] if message.spent else [])
            if message.spare:
                spare.add(connection, worker["pool"], message.spare, now)
            held = [(lease.chunk_id, lease.token) for lease in message.leases]
            stale = chunks.extend(connection, held, now, self._limits.lease_s)
            if stale:
                ledger.bump(connection, exposed.STALE_COMPLETIONS, by=len(stale))
            rows = [chunks.get(connection, chunk_id) for chunk_id, _ in held if chunk_id not in stale]
            worked_on = {row["batch_id"]: batches.get(connection, row["batch_id"], ANY) for row in rows}
            doors, pools = self._runtime.scheduler.doors, {row["pool"] for row in rows}
            closed = {pool: doors.closed(connection, pool, now, worker_id) for pool in pools}
            note_asked(connection, news)
        answer = HeartbeatAnswer(stale, {}, ceiling)
        for row in rows:
            batch = worked_on[row["batch_id"]]
            if batch["state"] != "in_progress":
                answer.stop[row["id"]] = "cancelled"
            elif batch["paused_at"]:
                answer.stop[row["id"]] = "paused"
            elif not self._runtime.scheduler.may_go_on(row["batch_id"], row["pool"], now, closed[row["pool"]]):
                answer.stop[row["id"]] = "window_closed"
            elif self._runtime.scheduler.belated(row, now, len(rows)):
                answer.stop[row["id"]] = "preempted"
        spared = self._runtime.fleet.is_spare(worker["pool"])
        slow = self._pace.slow(worker_id, rows, self._runtime.scheduler.published, now, spare=spared)
        if slow or health.is_news(before, worker) or failing.is_news(before, worker):
            self._runtime.scheduler.poke()
        answer.stop = {chunk_id: known_reason(reason, worker["protocol"]) for chunk_id, reason in answer.stop.items()}
        return answer

    def _seat(self, connection: Connection, worker: Row, sharing: Sharing | None, now: datetime) -> int | None:
        """What a worker's desk may use of its pool's ceiling; the others learn of it. Its row must be written before: else one
        that asks for work meanwhile waits for this, and this for it."""
        pool = self._runtime.fleet.pools.get(worker["pool"])
        ceiling, seat = desks.seated(connection, worker, pool, sharing, now, self._limits.lease_s)
        if any(worker[name] != seat[name] for name in seat):
            workers.seen(connection, worker["id"], now, **seat)
        return ceiling

    @again
    def bye(self, worker_id: str, message: Bye) -> None:
        """A worker stops; what it still holds goes back, also a lease whose answer never reached it."""
        with self._database.write() as connection:
            news = spending.add(connection, worker_id, message.spent)
            workers.bye(connection, worker_id, self._runtime.clock.now())
            for chunk in chunks.of_worker(connection, worker_id):
                chunks.release(connection, chunk["id"], chunk["token"])
            note_asked(connection, news)
        self._runtime.scheduler.poke()

    @again
    def claim(self, message: Claim) -> Claimed:
        """Lease what the plan opens on the worker's pool now."""
        now = self._runtime.clock.now()
        with self._database.write() as connection:
            worker = workers.get(connection, message.worker_id)
            said = {"ready_models": message.ready_models, "renames": message.renames, "lacking": message.lacking}
            workers.asked(connection, message.worker_id, now, **said)
            news = message.lacking != (worker["lacking"] or [])
            if workers.rests(worker):
                return Claimed([], poll_s=_RESTING_POLL_S)
            models, ready = self._runtime.fleet.models, message.ready_models
            lacking = beyond(worker, message.lacking, models)
            offer = self._runtime.scheduler.offer(
                connection, worker["pool"], now, worker=worker["id"], renames=message.renames, lacking=lacking
            )
            starts = Starts(
                connection,
                worker,
                ready,
                offer,
                models,
                now=now,
                silent_s=self._limits.lease_s,
                startup_s=self._runtime.scheduler.startup_s,
            )
            taken, prepare = self._take(connection, worker, offer.turns, message, starts)
            prepare = None if taken else prepare or starts.coming()
            if prepare:
                starts.told(prepare)
            keep = not offer.keep.keys().isdisjoint(ready) if taken else starts.kept
            ceiling = self._seat(connection, worker, message.sharing, now) if taken and message.sharing else None
        if news:
            self._runtime.scheduler.poke()
        leases = self._as_leases(taken)
        for chunk, _ in taken:
            _say(chunk, "leased")
        return Claimed(leases, prepare, offer.next_at, self._poll_s(offer.next_at), keep, ceiling)

    def _take(
        self, connection: Connection, worker: Row, turns: Turns, message: Claim, starts: Starts
    ) -> tuple[list[tuple[Row, Row]], str | None]:
        """Lease chunk by chunk, whose turn it is each time; and the model to load, where that is what comes next and no other
        worker has it or loads it for that."""
        taken: list[tuple[Row, Row]] = []
        while len(taken) < message.max_chunks:
            want, load = turns.pick(message.ready_models)
            if want is None:
                if load is None or taken or starts.worth(load, turns.of(load)):
                    return taken, load
                turns.leave(load)
                continue
            batch = batches.get(connection, want.batch_id, ANY)
            other = None if want.model == batch["model"] else want.model
            # What is begun last ends last: near the deadline let that be small.
            chunk = self._claim_one(connection, worker, batch, other, whole_first=want.due)
            if chunk is None:
                turns.drop(want)
                continue
            left = chunk["lines"] - chunk["completed"] - chunk["failed"]
            tallies.add(connection, batch["id"], worker["pool"], left)
            turns.took(want, left)
            taken.append((chunk, batch))
        return taken, None

    def _claim_one(self, connection: Connection, worker: Row, batch: Row, model: str | None, *, whole_first: bool) -> Row | None:
        """A chunk of the batch, to be served with `model` where its requests name another. A uniform batch stays as it began."""
        if batch["options"].get("uniform"):
            batches.get(connection, batch["id"], ANY, lock=True)  # or two pools might begin it at once
            if any(used != (worker["pool"], model) for used in chunks.served_by(connection, batch["id"])):
                return None
        got = chunks.claim(
            connection,
            batch["id"],
            worker_id=worker["id"],
            pool=worker["pool"],
            limit=1,
            now=self._runtime.clock.now(),
            lease_s=self._limits.lease_s,
            model=model,
            plain=model is None or self._runtime.fleet.models[model].mode not in DRAFTING,
            whole_first=whole_first,
        )
        return got[0] if got else None

    def _as_leases(self, taken: list[tuple[Row, Row]]) -> list[Lease]:
        """What is done of them may have to be read from afar; where that fails they go back, for nobody will know of them."""
        try:
            return [self._as_lease(chunk, batch) for chunk, batch in taken]
        except BatchschedError:
            with self._database.write() as connection:
                for chunk, _ in taken:
                    chunks.release(connection, chunk["id"], chunk["token"])
            raise

    def _as_lease(self, chunk: Row, batch: Row) -> Lease:
        return Lease(
            chunk_id=chunk["id"],
            batch_id=batch["id"],
            token=chunk["token"],
            endpoint=batch["endpoint"],
            model=chunk["model"] or batch["model"],
            first_line=chunk["first_line"],
            lines=chunk["lines"],
            done=sorted(self._runtime.recorder.done(chunk)),
            suspects=chunk["suspects"],
            attempt=chunk["attempts"] + 1,
            rename=chunk["model"] is not None,
            erring=chunk["erring"],
            traceparent=self._runtime.told.traceparent(batch),
        )

    def _poll_s(self, next_at: datetime | None) -> float:
        if next_at is None:
            return 1.0
        return min(5.0, max(0.2, (next_at - self._runtime.clock.now()).total_seconds()))

    @again
    def record(self, chunk_id: str, message: Results) -> Acknowledged:
        """Raises StaleLease, StorageFull, StorageUnavailable."""
        with self._fenced():
            recorded = self._runtime.recorder.record(chunk_id, message.token, message.results, message.meter)
        if recorded.chunk_done:
            self._runtime.lifecycle.poke()
        return Acknowledged(recorded.new, recorded.duplicates)

    @again
    def finish(self, chunk_id: str, message: Finish) -> None:
        """The last word about a chunk; repeating it does no harm. Raises StaleLease, InvalidRequest where lines are missing."""
        with self._fenced(), self._database.write() as connection:
            chunk = chunks.get(connection, chunk_id, lock=True)
            if chunk["token"] != message.token or chunk["state"] not in {"leased", "done"}:
                raise StaleLease
            if chunk["state"] == "leased":
                missing = chunk["lines"] - chunk["completed"] - chunk["failed"]
                raise InvalidRequest(f"Chunk {chunk_id} is not finished: {missing} line(s) have no result.")
            self._runtime.recorder.charge(connection, chunk, message.meter, [])
            if chunk["completed"] and chunk["worker_id"]:
                workers.finished(connection, chunk["worker_id"])
        _say(chunk, "done")
        self._runtime.lifecycle.poke()

    @again
    def release(self, chunk_id: str, message: Release) -> None:
        """Raises StaleLease."""
        with self._fenced(), self._database.write() as connection:
            chunk = chunks.held(connection, chunk_id, message.token, lock=True)
            self._runtime.recorder.charge(connection, chunk, message.meter, [])
            chunks.release(connection, chunk_id, message.token, plain=message.plain)
            if message.reason in _WITHOUT_ENGINE and chunk["worker_id"] and not self._runtime.fleet.is_spare(chunk["pool"]):
                workers.stopped(connection, chunk["worker_id"])
            ledger.bump(connection, exposed.RELEASED[message.reason])
        _say(chunk, "given back", message.reason)
        self._runtime.scheduler.poke()
        self._runtime.lifecycle.poke()

    @again
    def fail(self, chunk_id: str, message: Fail) -> None:
        """Give it back. After its last attempt the unfinished lines become error lines. Raises StaleLease."""
        now = self._runtime.clock.now()
        with self._fenced():
            with self._database.write() as connection:
                chunk = chunks.held(connection, chunk_id, message.token, lock=True)
                self._runtime.recorder.charge(connection, chunk, message.meter, [])
                ledger.bump(connection, exposed.CHUNK_FAILURES)
                workers.failed(connection, chunk["worker_id"])
                spend = not _nearer(chunk, message)
                last = spend and chunk["attempts"] + 1 >= self._limits.max_attempts
                if not last:
                    pause = timedelta(seconds=min(LONGEST_PAUSE_S, RETRY_PAUSE_S * 2 ** min(10, chunk["attempts"])))
                    again = now + pause if spend else now
                    chunks.fail(
                        connection,
                        chunk_id,
                        message.token,
                        suspects=message.suspects,
                        erring=message.erring,
                        not_before=again,
                        spend=spend,
                    )
            if last:
                text = f"The engine failed {chunk['attempts'] + 1} times while it ran this request: {message.message}"
                self._runtime.recorder.give_up(chunk, "engine_failed", text)
        _say(chunk, "failed")
        self._runtime.scheduler.poke()
        self._runtime.lifecycle.poke()

    @contextmanager
    def _fenced(self) -> Generator[None]:
        """Count a refused stale write, in a transaction of its own, since the refused one is rolled back.

        What the work took is not entered here: the worker says it once more, as waste.
        """
        try:
            yield
        except StaleLease:
            with self._database.write() as connection:
                ledger.bump(connection, exposed.STALE_COMPLETIONS)
            raise


def _say(chunk: Row, state: str, reason: str = "") -> None:
    about = {name: chunk[name] for name in ("batch_id", "pool", "worker_id")} | {"chunk_id": chunk["id"], "state": state}
    why = f" ({reason})" if reason else ""
    log.info(
        "Chunk %s of %s is %s%s.", chunk["position"], chunk["batch_id"], state, why, extra=about | {"reason": reason or None}
    )


def _nearer(chunk: Row, message: Fail) -> bool:
    """Did this failure bring the search for the line that ends engines further? It is over after so many that do.

    Suspects can only grow fewer. Where most lines of a chunk fail, it is no longer about one that is set aside.
    """
    suspects = set(in_flight_at_death(message.suspects, message.erring))
    fewer = bool(suspects) and suspects < set(in_flight_at_death(chunk["suspects"], chunk["erring"]))
    return fewer or (message.set_aside > 0 and 2 * chunk["failed"] <= chunk["lines"])
