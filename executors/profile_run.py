"""One profile run from start to end: the pool's settings, the engine, its trials; and what was learnt to the server."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import aiohttp
import msgspec

from batchsched.adapters import outfitted
from batchsched.clock import IdSource, RandomIds, SystemClock
from batchsched.errors import EngineFailed, ServerUnreachable, UnknownModel
from batchsched.executors.counting import EVERY_S
from batchsched.executors.engine import AttachedEngine, Engine, VllmEngine, bearer
from batchsched.executors.engine_home import find_engine
from batchsched.executors.link import ServerLink, connections
from batchsched.executors.meters import choose_meter, idle_power
from batchsched.executors.modes import OWN_MODES
from batchsched.executors.orphans import end_orphans
from batchsched.executors.partnering import Partnership
from batchsched.executors.probes import context_of, page_of
from batchsched.executors.probing import Asker
from batchsched.executors.profiling import Bench, Profiler, Step
from batchsched.executors.split import Split
from batchsched.executors.trial_log import TrialLog
from batchsched.executors.tuning import open_gpus
from batchsched.fleet import Fleet, Mode, Pool, ServedModel
from batchsched.settings import Worker
from batchsched.variants import TWO_POOLS, variants_of
from batchsched.wire import Acknowledged, Heartbeat, IdlePower, Probe, Register, Registered, Trial, Trials

GROUP = 100
"""Trials in one message."""


class Wanted(NamedTuple):
    """What to profile. `probes`: for an engine with that longest request, in tokens; `enough`: needs a probe no further trial?
    `mode`: the way in which the model is to be served; None: as it is declared."""

    pool: str
    model: str
    probes: Callable[[int | None], Sequence[Probe]]
    enough: Callable[[Sequence[Trial]], bool]
    seconds: float
    mode: Mode | None = None


class Profiled(NamedTuple):
    """The trials of each probe, this run's and earlier ones' in the same setting; and where they are kept."""

    trials: dict[Probe, list[Trial]]
    path: Path


class Server(NamedTuple):
    """Where the server is; an empty URL: there is none."""

    url: str
    api_key: str


async def run_profile(
    wanted: Wanted,
    settings: Worker,
    server: Server,
    fleet: Fleet,
    *,
    say: Callable[[str], None],
    tell: Callable[[Step], None],
    ids: IdSource | None = None,
) -> Profiled:
    """Start the engine (or use settings.engine_url's), try every probe often enough, stop it.

    The pool and its models are the server's; `fleet`'s where it has none or does not answer. Raises UnknownModel, EngineMissing,
    EngineFailed, what the server has against us, or ServerUnreachable for a pool that is declared nowhere here.
    """
    clock = SystemClock()
    headers = bearer(settings.engine_api_key)
    async with (
        aiohttp.ClientSession(connector=connections()) as outside,
        aiohttp.ClientSession(connector=connections(0), headers=headers) as session,
    ):
        link = ServerLink(outside, server.url, server.api_key, clock) if server.url else None
        me, pool, models = await _place(link, wanted.pool, fleet, settings, say)
        wanted = wanted._replace(model=_variant(wanted, models))
        engine = _engine(pool, settings)
        served = outfitted(models, wanted.model)
        meter, why = choose_meter(pool, settings, engine.pids, models=[served], here=engine.here)
        gpus = open_gpus(pool, [served], settings.state_dir, here=engine.here)
        ids = ids or RandomIds()
        partner, looking = Partnership.by(settings, session, ids), list[asyncio.Task[None]]()
        say(f"Energy is {why}.")
        try:
            idle = None if settings.engine_url else await idle_power(meter, asyncio.sleep)
            await _introduce(link, me, idle)
            if not settings.engine_url and (orphans := await asyncio.to_thread(end_orphans)):
                say(f"Ended {orphans} engine processes that a dead run or worker had left behind.")
            say(f"Starting the engine for '{wanted.model}'.")
            await engine.start(served, wanted.model)
            if split := await partner.way(pool, served):
                split.resize((await page_of(session, engine.url)).capacity(engine.context))
            if served.mode in TWO_POOLS:
                await _there(partner, served.mode, wanted.model)
            looking.append(asyncio.create_task(_look(partner, split, session, engine.url)))
            probes = wanted.probes(await context_of(session, engine.url, wanted.model))
            source = meter.read().source
            bench = Bench(wanted.pool, wanted.model, setting_of(engine, pool, served, source), pool.max_in_flight, wanted.seconds)
            log = TrialLog(Path(settings.state_dir), wanted.pool, wanted.model)
            if before := log.in_setting(bench.setting):
                say(f"{before} trials of earlier runs in this setting count; what they say is not measured again.")
            asker = Asker(session, engine.url, wanted.model, settings.request_timeout_s, engine.dialect.metrics, split)
            aside = partial(partner.use, engine.url) if served.mode in TWO_POOLS else None
            profiler = Profiler(bench, asker, meter, log, ids, clock.now, aside)
            return Profiled(await profiler.run(probes, wanted.enough, tell), log.path)
        finally:
            for task in looking:
                task.cancel()
            await asyncio.gather(*looking, return_exceptions=True)
            await engine.stop()
            meter.close()
            gpus.close()


async def deliver(server: Server, trials: Sequence[Trial]) -> Acknowledged:
    """Give trials to the server, which counts each once. Raises ServerUnreachable, NotFound for a pool that it does not know."""
    told = Acknowledged(0, 0)
    async with aiohttp.ClientSession(connector=connections()) as session:
        link = ServerLink(session, server.url, server.api_key, SystemClock())
        for start in range(0, len(trials), GROUP):
            answer = await link.call("POST", "/trials", Trials(list(trials[start : start + GROUP])))
            group = msgspec.json.decode(answer, type=Acknowledged)
            told = Acknowledged(told.recorded + group.recorded, told.duplicates + group.duplicates)
    return told


async def _there(partner: Partnership, mode: Mode, model: str) -> None:
    """Raises EngineFailed where the other pool's engine does not do its part."""
    await partner.look()
    if not partner.ready(mode):
        what = "reads prompts" if mode == "prefill_decode" else "drafts"
        raise EngineFailed(f"Nobody {what} for '{model}'.", hint="Start `batchsched partner` (docs/modes.md).")


async def _look(partner: Partnership, split: Split | None, session: aiohttp.ClientSession, url: str) -> None:
    """What it holds bounds what is sent to it; what our engine at `url` fetches for too long goes alone."""
    while True:
        await partner.look()
        if split and (seen := (await page_of(session, url)).fetching()):
            split.fetching(seen, time.monotonic())
        await asyncio.sleep(EVERY_S)


def _variant(wanted: Wanted, models: Mapping[str, ServedModel]) -> str:
    """The name of what is to be profiled. Raises UnknownModel."""
    if wanted.model not in models:
        known = ", ".join(models) or "none"
        raise UnknownModel(f"Pool '{wanted.pool}' does not serve a model '{wanted.model}'; it serves: {known}.")
    if wanted.mode is None or models[wanted.model].mode == wanted.mode:
        return wanted.model
    found = [name for name in variants_of(models, [wanted.model]) if models[name].mode == wanted.mode]
    if len(found) == 1:
        return found[0]
    what = f"several ways to serve '{wanted.model}' by {wanted.mode}" if found else f"no way to serve it by {wanted.mode}"
    hint = f"Name one by --model: {', '.join(found)}." if found else "Declare a variant of it: docs/modes.md says how."
    raise UnknownModel(f"On pool '{wanted.pool}' there is {what}.", hint=hint)


async def _place(
    link: ServerLink | None, pool: str, fleet: Fleet, settings: Worker, say: Callable[[str], None]
) -> tuple[Registered | None, Pool, dict[str, ServedModel]]:
    """The pool as the server has it, else as it is declared here."""
    here = fleet.pools.get(pool)
    if link is not None:
        modes: list[Mode] = [*OWN_MODES, *(TWO_POOLS if settings.partner_url else ())]  # the wrong one fails by itself
        message = Register(pool, socket.gethostname(), os.getpid(), adapters=True, modes=modes)
        try:
            me = msgspec.json.decode(await link.call("POST", "/workers", message), type=Registered)
        except ServerUnreachable as problem:
            if here is None:
                raise
            say(f"{problem.message} The pool is taken as it is declared here.")
        else:
            return me, me.pool, me.models
    if here is None:
        declared = ", ".join(fleet.pools) or "none"
        raise UnknownModel(f"There is no pool '{pool}' in the configuration here; declared: {declared}.")
    return None, here, {name: model for name, model in fleet.models.items() if here.serves(name)}


async def _introduce(link: ServerLink | None, me: Registered | None, idle: IdlePower | None) -> None:
    """Tell what an idle replica draws, and leave: while we profile, no work must be expected of us."""
    if link is None or me is None:
        return
    if idle is not None:
        await link.call("POST", f"/workers/{me.worker_id}/heartbeat", Heartbeat([], idle=idle))
    await link.call("POST", f"/workers/{me.worker_id}/bye")


def _engine(pool: Pool, settings: Worker) -> Engine:
    if settings.engine_url:
        return AttachedEngine(settings.engine_url, pool, settings.engine_api_key)
    return VllmEngine(find_engine(settings.engine_python), pool, settings)


def setting_of(engine: Engine, pool: Pool, served: ServedModel, source: str) -> str:
    """What must be equal for trials to be comparable."""
    flags = " ".join([*pool.engine_args, *served.engine_args]) or "no flags"
    if served.variant_of:
        drafts = [f"{name} {value}" for name, value in msgspec.structs.asdict(served.draft).items()] if served.draft else []
        flags += f"; {', '.join([served.mode, *drafts])}" + (f" with {served.partner_pool}" if served.partner_pool else "")
    caps = [f"{what} {value:g} {unit}; " for what, value, unit in _held(pool) if value is not None]
    return "".join(caps) + (
        f"{engine.build}; {served.path or 'by its name'}; {flags}; context {served.max_model_len or 'its own'}; "
        f"{pool.max_in_flight} in flight; energy {source}"
    )


def _held(pool: Pool) -> list[tuple[str, float | None, str]]:
    return [("capped at", pool.power_cap_w, "W"), ("clocks up to", pool.clock_mhz, "MHz")]
