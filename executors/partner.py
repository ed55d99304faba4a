"""A partner: an engine on a second pool that reads prompts, or drafts, for the workers' engines of another (docs/modes.md).

A process for as long as it is wanted: it starts the engine in its role, keeps it up, meters it as a worker does, and tells of it
over HTTP. It knows neither the server nor batches: what its engine uses is charged by the one worker that holds it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple

import aiohttp
import msgspec
from aiohttp import web

from batchsched import supervisor
from batchsched.clock import IdSource
from batchsched.errors import EngineFailed, InvalidConfiguration
from batchsched.executors import transfer
from batchsched.executors.drafts import DraftService, serve_drafts
from batchsched.executors.engine import Engine, VllmEngine, bearer
from batchsched.executors.engine_home import find_engine
from batchsched.executors.meters import EnergyMeter, choose_meter
from batchsched.executors.orphans import end_orphans
from batchsched.executors.partner_told import ANEW_PATH, BYTES_PATH, HELD_S, MOST_BYTES, PATH, PartnerTold
from batchsched.executors.pauses import pause_after
from batchsched.executors.probes import healthy, page_of
from batchsched.executors.signals import kept_up, stopped_by_signals
from batchsched.executors.transfer import Role
from batchsched.fleet import Pool, ServedModel
from batchsched.kv_link import context_in, kv_bytes_in
from batchsched.settings import Worker

log = logging.getLogger(__name__)
LOOK_S = 1.0
_PIECE = bytes(2**20)
_DRAFTS = "draft"
Before = Callable[[str], AbstractAsyncContextManager[DraftService | None]]
"""Stands before the engine at a URL for as long as it is entered."""


def _nothing(_url: str) -> AbstractAsyncContextManager[None]:
    return contextlib.nullcontext()


class Partner:
    """One engine of a partner pool, and what it tells. `before`: what stands before the engine while that is ready."""

    def __init__(self, engine: Engine, model: ServedModel, told: PartnerTold, key: str = "", before: Before = _nothing) -> None:
        self.busy = False
        """Are requests in flight at its engine, as far as was seen?"""
        self._engine, self._model, self._told, self._key, self._before = engine, model, told, key, before
        self._meter: EnergyMeter
        self._by, self._heard_at = "", 0.0
        self._charged = (0.0, 0.0, 0.0)
        self._began = time.monotonic()
        self._failures, self._anew = 0, False
        self._drafts: DraftService | None = None
        self._passed = (0.0, 0.0)

    def app(self, meter: EnergyMeter) -> web.Application:
        """Its service; `meter`: of its engine's hardware."""
        self._meter = meter
        app = web.Application(middlewares=[self._guard])
        app.router.add_get(PATH, self._tell)
        app.router.add_get(BYTES_PATH, self._bytes)
        app.router.add_post(ANEW_PATH, self._begin_anew)
        return app

    async def keep(self, session: aiohttp.ClientSession) -> None:
        """Start the engine, watch it, start it again; until cancelled. The engine is stopped then."""
        try:
            while True:
                try:
                    await self._start()
                    async with self._before(self._engine.url) as drafts:
                        self._drafts, self._passed = drafts, (0.0, 0.0)
                        await self._watch(session)
                        self._count_drafts()
                    why = "A worker cannot read what the engine holds." if self._anew else "The engine is gone."
                    raise EngineFailed(f"{why} {self._engine.last_words()}".strip())
                except EngineFailed as problem:
                    await self._trouble(problem)
        finally:
            self._told.engine_url = ""
            await self._engine.stop()

    async def _start(self) -> None:
        log.info("Starting the engine for '%s'.", self._told.served)
        await self._engine.start(self._model, self._told.served)
        self._told.problem, self._anew = "", False
        log.info("Ready after %.1f s: %s.", self._engine.startup_s, self._engine.describe())

    async def _watch(self, session: aiohttp.ClientSession) -> None:
        """While it is well."""
        engine, told = self._engine, self._told
        capacity = (await page_of(session, engine.url)).capacity(engine.context)
        told.kv_tokens, told.engine_url, began = capacity.tokens, engine.url, time.monotonic()
        while not self._anew and engine.alive() and await healthy(session, engine.url, tries=3, path=engine.dialect.health):
            metrics, page = engine.dialect.metrics, await page_of(session, engine.url)
            load, running = page.load(metrics), page.in_flight(metrics)
            told.held_tokens = load.usage * capacity.tokens if load and capacity.tokens else None
            if (running is None or running > 0) != self.busy:
                self._meter.read()  # a modelled one has to be read whenever this changes
                self.busy = not self.busy
            if self._failures and time.monotonic() - began > HELD_S:
                self._failures = 0
            await asyncio.sleep(LOOK_S)

    def _count_drafts(self) -> None:
        """What went over its connections since the last look."""
        if self._drafts is not None:
            (sent_bytes, tokens), told = self._drafts.passed(), self._told
            told.drafts_bytes += sent_bytes - self._passed[0]
            told.drafts_tokens += tokens - self._passed[1]
            self._passed = sent_bytes, tokens

    async def _trouble(self, problem: EngineFailed) -> None:
        self._told.engine_url, self._told.problem, self._told.held_tokens = "", problem.message, None
        await self._engine.stop()
        self._failures += 1
        pause_s = pause_after(self._failures, ours=True)
        hint = f" {problem.hint}" if problem.hint else ""
        log.error("%s%s Next try in %.0f s.", problem.message, hint, pause_s)
        await asyncio.sleep(pause_s)

    # What it tells.

    @web.middleware
    async def _guard(self, request: web.Request, handler: web.Handler) -> web.StreamResponse:  # type: ignore[name-defined]
        shown = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self._key and not hmac.compare_digest(shown.encode(), self._key.encode()):
            return _refused(401, "The partner asks for a key: set worker.partner_api_key to the same on both sides.")
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _tell(self, request: web.Request) -> web.Response:
        """One worker has it at a time: what its engine uses can be charged once only. Who gives no name only looks."""
        by, now = request.query.get("by", ""), time.monotonic()
        if by and self._by and by != self._by and now - self._heard_at < HELD_S:
            return _refused(409, "Another worker has this partner; each needs one of its own.")
        told, reading = self._told, self._meter.read()
        self._count_drafts()
        told.energy_j, told.host_j, told.mark = reading.energy_j, reading.host_j, reading.mark
        told.energy_source, told.host_source = reading.source, reading.host_source
        told.up_s = now - self._began
        if by:
            if by != self._by:
                self._by, (told.told_energy_j, told.told_host_j, told.told_up_s) = by, self._charged
            self._heard_at, self._charged = now, (told.energy_j, told.host_j, told.up_s)
        return web.Response(body=msgspec.json.encode(told), content_type="application/json")

    async def _begin_anew(self, request: web.Request) -> web.Response:
        """The worker that has it cannot use the engine at this URL any more; of another that it has by now it says nothing."""
        if not self._by or request.query.get("by") != self._by:
            return _refused(409, "Only the worker that has this partner may ask for another engine.")
        self._anew = self._anew or (bool(self._told.engine_url) and request.query.get("engine") == self._told.engine_url)
        return web.Response(status=202)

    async def _bytes(self, request: web.Request) -> web.StreamResponse:
        """So many bytes, as fast as they go."""
        asked = request.query.get("count", "")
        count = int(asked) if asked.isdecimal() and len(asked) < 12 else -1
        if not 0 <= count <= MOST_BYTES:
            return _refused(400, f"Say count=N, of at most {MOST_BYTES} bytes.")
        answer = web.StreamResponse(headers={"content-length": str(count), "content-type": "application/octet-stream"})
        await answer.prepare(request)
        while count > 0:
            await answer.write(_PIECE[:count])
            count -= len(_PIECE[:count])
        return answer


async def serve(partner: Partner, meter: EnergyMeter, host: str, port: int, engine_key: str, stop: asyncio.Event) -> int:
    """Run it until `stop` is set; 0. Raises InvalidConfiguration where nothing can listen there."""
    runner = web.AppRunner(partner.app(meter), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as problem:
            raise InvalidConfiguration(
                f"Cannot listen at {host}:{port} ({problem.strerror}).", hint="Give another --port."
            ) from None
        log.info("Workers find this partner at http://%s:%d.", host, runner.addresses[0][1])
        supervisor.ready()
        async with aiohttp.ClientSession(headers=bearer(engine_key)) as session:
            keeping = asyncio.create_task(kept_up(lambda: partner.keep(session)))
            await stop.wait()
            keeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeping
    finally:
        await runner.cleanup()
        meter.close()
    log.info("Stopped.")
    return 0


async def run_partner(
    settings: Worker,
    pool: Pool,
    name: str,
    model: ServedModel,
    *,
    host: str,
    port: int,
    ids: IdSource,
    stop: asyncio.Event | None = None,
) -> int:
    """Be the partner for a variant (`name`, `model`) on this machine, which is of `pool`, until SIGTERM, SIGINT or `stop`.

    `host`: where workers reach this machine. Raises EngineMissing, EngineFailed, and InvalidConfiguration
    for an address that cannot be had.
    """
    stop = stop or asyncio.Event()
    home, part = find_engine(settings.engine_python), _part(settings, name, model, host, port)
    if part.role:
        await asyncio.to_thread(transfer.flags, home, part.role)  # so that what is missing is told at once
    if orphans := await asyncio.to_thread(end_orphans):
        log.warning("Ended %d engine processes that a dead worker had left behind.", orphans)
    engine = VllmEngine(home, pool, settings, part.role)
    kv_bytes = kv_bytes_in(model.path, [*pool.engine_args, *model.engine_args])
    told = PartnerTold(ids.new("partner"), model.mode, part.served, pool=model.partner_pool, bytes_per_token=kv_bytes)
    partner = Partner(engine, part.model, told, settings.partner_api_key, part.before)
    choice = choose_meter(pool, settings, engine.pids, busy=lambda: partner.busy, models=[part.model])
    log.info("Energy is %s. Engine: %s.", choice.why, engine.describe())
    with stopped_by_signals(stop), supervisor.watched():
        return await serve(partner, choice.meter, host, port, settings.engine_api_key, stop)


class _Part(NamedTuple):
    """What the partner's engine does. `role`: in the hand-over of prompts."""

    model: ServedModel
    served: str
    role: Role | None
    before: Before = _nothing


def _part(settings: Worker, name: str, model: ServedModel, host: str, port: int) -> _Part:
    """By the variant's mode. Drafts are asked for at the port after the partner's own (experimental)."""
    if model.mode != "draft_target" or model.draft is None:
        return _Part(model, model.variant_of or name, Role("kv_producer", host))
    path = model.draft.model
    # What is longer than it was made for gets no drafts; to be asked for more than that an engine would refuse to start.
    longest = min((each for each in (model.max_model_len, context_in(path)) if each), default=None)
    drafter = ServedModel(path=path, max_model_len=longest)
    keys = {"key": settings.partner_api_key, "engine_key": settings.engine_api_key}
    return _Part(drafter, _DRAFTS, None, lambda url: serve_drafts(url, _DRAFTS, host=host, port=port + 1 if port else 0, **keys))


def _refused(status: int, message: str) -> web.Response:
    error = {"message": message, "type": "partner", "param": None, "code": status}
    return web.Response(status=status, body=msgspec.json.encode({"error": error}), content_type="application/json")
