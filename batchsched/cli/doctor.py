"""`batchsched doctor`: is this machine and its set-up sound?"""

from __future__ import annotations

import os
import shutil
import sqlite3
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click

from batchsched.cli import exits
from batchsched.cli.common import EXTRAS, config_option, json_option, load_checked, print_json, print_table
from batchsched.cli.printed import Examined, Finding, Level
from batchsched.errors import BatchschedError, ServerUnreachable

if TYPE_CHECKING:
    from batchsched.executors.engine_home import EngineHome
    from batchsched.forecasts.archive import Archive
    from batchsched.forecasts.chain import Chain
    from batchsched.settings import Forecast, Loaded
    from batchsched.transport import Transport

SLOW_FSYNC_MS = 20.0
CLOCK_BEARABLE_S = 5.0


@click.command()
@click.option("--server", metavar="URL", help="The server to look for [default: from the configuration].")
@click.option("--recipe", metavar="NAME", help="Hold the engine against this recipe [default: that of the GPU found here].")
@config_option
@json_option
def doctor(*, server: str | None, recipe: str | None, config: Path | None, as_json: bool) -> int:
    """Check this machine and its set-up. Exits 1 where something is broken; warnings do not count."""
    findings = [_python()]
    try:
        loaded = load_checked(config, worker__server_url=server)
    except BatchschedError as problem:
        findings.append(Finding("configuration", "broken", problem.message))
    else:
        findings.append(Finding("configuration", "ok", str(loaded.path or "no file; defaults and the environment")))
        for check in (
            _database,
            _extras,
            _engine,
            _caps,
            _launches,
            _forecast,
            _clock,
            _data_folder,
            _inputs,
            _store,
            _bind,
            _server,
        ):
            findings += _guarded(check, loaded)
        findings += _guarded(partial(_recipe, wanted=recipe or ""), loaded, "recipe")
    broken = any(finding.level == "broken" for finding in findings)
    if as_json:
        print_json(Examined(not broken, tuple(findings)))
    else:
        print_table(("check", "", "finding"), [(f.check, f.level, f.text) for f in findings])
    return exits.FAILURE if broken else exits.OK


def _guarded(check: Callable[[Loaded], Iterator[Finding]], loaded: Loaded, name: str = "") -> list[Finding]:
    """A check that fails in a way of its own is a finding, not the end of the examination."""
    try:
        return list(check(loaded))
    except (BatchschedError, ImportError, OSError) as problem:
        return [Finding(name or check.__name__.strip("_").replace("_", " "), "broken", str(problem))]


def _python() -> Finding:
    version = sys.version.split()[0]
    return Finding("python", "ok" if sys.version_info >= (3, 11) else "broken", f"{version} in {sys.prefix}")


def _database(loaded: Loaded) -> Iterator[Finding]:
    yield from _postgresql(loaded) if loaded.settings.server.database_url else _sqlite(loaded)


def _sqlite(loaded: Loaded) -> Iterator[Finding]:
    """Between 3.7.0 and 3.51.2 two concurrent checkpoints of a WAL can corrupt the database."""
    version = sqlite3.sqlite_version
    if (3, 7, 0) <= sqlite3.sqlite_version_info <= (3, 51, 2):
        text = (
            f"{version} has the WAL-reset bug; met by letting only the one writer checkpoint. Let nothing else open the database."
        )
        yield Finding("SQLite", "warning", text)
    else:
        yield Finding("SQLite", "ok", version)
    path = Path(loaded.settings.server.data_dir).absolute() / "batchsched.db"
    if path.exists():
        from batchsched.queue.checkup import in_wal

        text = "in write-ahead mode" if in_wal(path) else "not in write-ahead mode; its file system may not allow it: use another"
        yield Finding("database", "ok" if in_wal(path) else "broken", f"{path}: {text}")


def _postgresql(loaded: Loaded) -> Iterator[Finding]:
    from batchsched.queue.checkup import examine

    found = examine(loaded.settings.server.database_url)
    yield Finding(
        "PostgreSQL", "broken" if found.old else "ok", f"{found.version}{', too old: 14 is needed' if found.old else ''}"
    )
    if found.unsafe:
        text = f"{' and '.join(found.unsafe)} off: a crash of its machine may lose what was acknowledged"
        yield Finding("PostgreSQL settings", "broken", text)
    if found.revision == found.newest:
        yield Finding("database", "ok", f"{found.name}: schema {found.revision}")
    elif found.revision is None:
        yield Finding("database", "ok", f"{found.name} is empty; the first server makes its tables")
    elif found.newer:
        yield Finding(
            "database", "broken", f"{found.name}: schema {found.revision} was made by a newer batchsched; upgrade this one"
        )
    else:
        text = (
            f"{found.name}: schema {found.revision}, this batchsched brings {found.newest}; the next server to start migrates it"
        )
        yield Finding("database", "warning", text)


def _extras(_: Loaded) -> Iterator[Finding]:
    for extra, packages in EXTRAS.items():
        lacking = [name for name in packages if find_spec(name) is None]
        text = f"lacks {', '.join(lacking)}: pip install 'batchsched[{extra}]'" if lacking else "installed"
        yield Finding(f"extra {extra}", "warning" if lacking else "ok", text)


def _engine(loaded: Loaded) -> Iterator[Finding]:
    if url := loaded.settings.worker.engine_url:
        from batchsched.engines import ENGINE_NAMES, Build
        from batchsched.transport import Transport

        *most, last = dict.fromkeys(Build(name).facts("route")["health"] for name in ENGINE_NAMES)
        with Transport(url.rstrip("/").removesuffix("/v1"), timeout_s=5.0, max_retries=0) as engine:
            if not any(_answers(engine, path) for path in most):
                engine.request("GET", last)
        yield Finding("engine", "ok", f"running at {url}")
        return
    from batchsched.errors import EngineMissing
    from batchsched.executors.engine_home import find_engine

    try:
        home = find_engine(loaded.settings.worker.engine_python)
        yield Finding("engine", "ok", home.describe())
        yield from _flaws(home)
    except EngineMissing as problem:
        chosen = bool(loaded.settings.worker.engine_python)
        yield Finding("engine", "broken" if chosen else "warning", f"{problem.message} {problem.hint or ''}".strip())


def _flaws(home: EngineHome) -> Iterator[Finding]:
    """What is published of its version: batchsched refuses such requests, but whoever else reaches the engine may send them."""
    from batchsched.executors.flaws import flaws_of

    found = flaws_of(home.version) if home.distribution != "llama-cpp-python" else []
    if found:
        told = "; ".join(f"{flaw.number}: {flaw.what}" for flaw in found)
        newest = ".".join(map(str, max(flaw.fixed for flaw in found)))
        text = f"{home.title} has known flaws ({told}). Use {newest} or newer, or let nobody but the worker reach it"
        yield Finding("engine flaws", "warning", text)


def _answers(engine: Transport, path: str) -> bool:
    with suppress(BatchschedError):
        return bool(engine.request("GET", path))
    return False


def _recipe(loaded: Loaded, wanted: str) -> Iterator[Finding]:
    """Does the engine's environment fit the generation of the GPU here, or the recipe that was named?"""
    from batchsched.errors import EngineMissing
    from batchsched.executors import recipes
    from batchsched.executors.engine_home import find_engine

    cards = recipes.cards_here()
    name = wanted or next((found for card in cards if (found := recipes.recipe_for(card.capability))), "")
    if not name:
        return
    recipe, python = recipes.recipe_named(name), loaded.settings.worker.engine_python
    if not python:
        with suppress(EngineMissing):
            python = find_engine().python
    wrong = recipes.unfit(recipe, recipes.installed(python, recipe.packages), cards, os.environ)
    text = f"{recipe.title}: {recipe.engine} {recipe.version}, tried: {recipe.tried}"
    if wrong:
        text += f". Not so here: {'; '.join(wrong)}. To do: {recipe.steps()}"
    yield Finding(f"recipe {name}", ("broken" if wanted else "warning") if wrong else "ok", text)


def _caps(loaded: Loaded) -> Iterator[Finding]:
    """What workers had no right to put back."""
    from batchsched.executors.tuning import left_behind

    for uuid, commands in left_behind(loaded.settings.worker.state_dir).items():
        text = f"has the cap or clocks of a worker that is gone: the next one with the right to it puts them back, or: {commands}"
        yield Finding(f"GPU {uuid}", "warning", text)


def _launches(loaded: Loaded) -> Iterator[Finding]:
    """Can what [launch.POOL] names be run here? A pool that this node's file declares besides may not run so many."""
    for name, launch in loaded.settings.launch.items():
        workers, pool = len(launch.devices) or launch.replicas, loaded.settings.pools.get(name)
        program = launch.command[0] if launch.command else sys.executable
        if shutil.which(program, path=launch.env.get("PATH")) is None:
            yield Finding(f"launch {name}", "broken", f"there is no '{program}' that could be run")
        elif pool is not None and pool.count < workers:
            yield Finding(f"launch {name}", "warning", f"{workers} workers, of which the pool runs {pool.count} at once at most")
        else:
            yield Finding(f"launch {name}", "ok", f"{workers} worker(s) by {program}")


def _forecast(loaded: Loaded) -> Iterator[Finding]:
    """Opening an archive makes its folders, which is the server's business: where it has not, an empty one stands in."""
    folder = loaded.settings.archive_folder()
    with TemporaryDirectory() as empty:
        yield from _forecasts(loaded, folder if folder.is_dir() else Path(empty))


def _forecasts(loaded: Loaded, archive: Path) -> Iterator[Finding]:
    """Does the source know each declared zone, and for how long from now? Who serves those that have sources, and why?"""
    from datetime import timedelta

    from batchsched.clock import SystemClock
    from batchsched.forecasts.opened import open_forecasts

    settings = loaded.settings
    base_dir = loaded.path.parent if loaded.path else Path.cwd()
    opened = open_forecasts(settings.forecast, base_dir, lambda: _archive(archive, settings.forecast), SystemClock())
    provider, chain = opened.provider, opened.chain
    now = datetime.now(UTC)
    zones = sorted({site.zone for site in settings.sites.values()})
    for zone in zones:
        if chain and zone in chain.chained():
            yield _served(chain, zone, now, settings.archive_folder())
            continue
        try:
            found = provider.forecast(zone, now, now + timedelta(hours=settings.planner.horizon_h))
        except BatchschedError as problem:
            yield Finding(f"forecast {zone}", "broken", problem.message)
            continue
        text = f"{found.provider}, {found.signal}, issued {found.issued_at:%Y-%m-%d %H:%M} UTC"
        if found.continued_by and found.continued_from:
            text += f"; from {found.continued_from:%Y-%m-%d %H:%M} UTC on continued by {found.continued_by}"
        yield Finding(f"forecast {zone}", "ok", text)
    yield from _failing(archive, settings.forecast)
    if not zones:
        yield Finding("forecast", "ok", f"{provider.name}; no site is declared")


def _failing(archive: Path, settings: Forecast) -> Iterator[Finding]:
    """The sources that did not answer when a server last asked: what they said before may still be fresh."""
    from batchsched.forecasts.failing import FAILING, Failing

    for name, state in Failing(archive / FAILING).all().items():
        if name in settings.sources:
            what = f"no answer in {state.failures} tries" if state.failures else "no answer about some zone"
            yield Finding(f"source {name}", "warning", f"{what} since {state.since:%Y-%m-%d %H:%M} UTC: {state.problem}")


def _archive(folder: Path, settings: Forecast) -> Archive:
    from batchsched.forecasts.archive import Archive

    return Archive(folder, order=settings.order_for)


def _served(chain: Chain, zone: str, now: datetime, folder: Path) -> Finding:
    from datetime import timedelta

    from batchsched.errors import ForecastUnavailable
    from batchsched.forecasts.switches import SWITCHES, Switches

    check = f"forecast {zone}"
    try:
        choice = chain.choose(zone, now, now + timedelta(days=1))
    except ForecastUnavailable as problem:
        return Finding(check, "broken", problem.message)
    text = f"{choice.source}, {choice.forecast.signal}, issued {choice.forecast.issued_at:%Y-%m-%d %H:%M} UTC"
    if choice.trust < 1:
        text += f", trust {choice.trust:.1f} ({choice.faults})"
    if choice.passed_over:
        text += f"; before it: {choice.why}"
    switch = Switches(folder / SWITCHES).newest().get(zone)
    if switch and switch.before:
        text += f"; since {switch.at:%Y-%m-%d %H:%M} UTC {switch.source} instead of {switch.before} ({switch.why})"
    return Finding(check, "ok" if choice.trust == 1 and not choice.passed_over else "warning", text)


def _clock(_: Loaded) -> Iterator[Finding]:
    now = datetime.now().astimezone()
    plausible = now.year >= 2026
    yield Finding("clock", "ok" if plausible else "broken", f"{now:%Y-%m-%d %H:%M:%S %Z (UTC%z)}")


def _data_folder(loaded: Loaded) -> Iterator[Finding]:
    """Writable, and how long it takes until a write is on the disk: each acknowledgement waits for one."""
    folder = Path(loaded.settings.server.data_dir).absolute()
    present = next(path for path in (folder, *folder.parents) if path.is_dir())
    if not os.access(present, os.W_OK):
        yield Finding("data folder", "broken", f"{present} cannot be written to")
        return
    took_ms = statistics.median(_fsync_ms(present) for _ in range(20))
    free_gb = os.statvfs(present).f_bavail * os.statvfs(present).f_frsize / 1e9
    slow = took_ms > SLOW_FSYNC_MS
    text = f"{folder}: fsync takes {took_ms:.1f} ms{', which is slow' if slow else ''}; {free_gb:.0f} GB free"
    yield Finding("data folder", "warning" if slow or free_gb < 1 else "ok", text)


def _inputs(loaded: Loaded) -> Iterator[Finding]:
    """Is the folder of recurring jobs' files there, where one is named?"""
    if folder := loaded.settings.server.inputs_dir:
        readable = Path(folder).is_dir() and os.access(folder, os.R_OK | os.X_OK)
        yield Finding("inputs", "ok" if readable else "broken", f"{folder} {'can' if readable else 'cannot'} be read")


def _store(loaded: Loaded) -> Iterator[Finding]:
    """Can the files be reached, where they do not lie in the data folder?"""
    url = loaded.settings.server.store_url
    if url.startswith("file://"):
        usable = os.access(url.removeprefix("file://"), os.R_OK | os.W_OK)
        yield Finding("store", "ok" if usable else "broken", f"{url} {'can' if usable else 'cannot'} be written to")
    elif url:
        from batchsched.queue.stores import open_store

        used = open_store(url, Path()).mark()
        yield Finding("store", "ok", f"{url} answers{'' if used else '; it holds nothing of batchsched yet'}")


def _fsync_ms(folder: Path) -> float:
    import tempfile

    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"x" * 4096)
        file.flush()
        began = time.perf_counter()
        os.fsync(file.fileno())
        return (time.perf_counter() - began) * 1000


def _bind(loaded: Loaded) -> Iterator[Finding]:
    from batchsched.server.bind import check_bind, is_loopback

    server = loaded.settings.server
    try:
        check_bind(server)
    except BatchschedError as problem:
        yield Finding("bind", "broken", f"{problem.message} {problem.hint or ''}".strip())
        return
    if server.trusted_proxies:
        text = f"{server.host}: open to other machines by proxy {', '.join(server.trusted_proxies)}, which must do TLS"
        yield Finding("bind", "warning" if not server.tls_cert else "ok", text)
    elif is_loopback(server.host):
        yield Finding("bind", "ok", f"{server.host}: this machine only")
    else:
        yield Finding("bind", "ok", f"{server.host}: open to other machines, by TLS and with API keys")


def _server(loaded: Loaded) -> Iterator[Finding]:
    from email.utils import parsedate_to_datetime

    from batchsched.transport import Transport

    url = loaded.settings.worker.server_url
    try:
        with Transport(url, loaded.settings.server.api_key, timeout_s=5.0, max_retries=0) as server:
            answer = server.request("GET", "/readyz")
            found = [*_drifts(server), *_schedules(server)]
    except ServerUnreachable:
        yield Finding("server", "warning", f"none answers at {url} (`batchsched run` needs none)")
        return
    yield Finding("server", "ok", f"ready at {url}")
    if date := answer.headers.get("date"):
        apart_s = abs((datetime.now(UTC) - parsedate_to_datetime(date)).total_seconds())
        level: Level = "ok" if apart_s < CLOCK_BEARABLE_S else "warning"
        yield Finding("server clock", level, f"within {apart_s + 1:.0f} s of this machine's")
    yield from found


def _schedules(server: Transport) -> Iterator[Finding]:
    """Recurring jobs of which nothing comes, as far as this key may read of them."""
    import msgspec

    from batchsched.errors import PermissionDenied, Unauthorized
    from batchsched.wire import PREFIX

    with suppress(PermissionDenied, Unauthorized):
        for one in msgspec.json.decode(server.request("GET", f"{PREFIX}/schedules").content)["data"]:
            if one["trouble"]:
                yield Finding(f"schedule {one['id']}", "warning", one["trouble"])


def _drifts(server: Transport) -> Iterator[Finding]:
    """Pools that changed their speed for good, as far as this key may read of them."""
    import msgspec

    from batchsched.client.profiles import Profiles
    from batchsched.errors import PermissionDenied, Unauthorized
    from batchsched.wire import PREFIX

    try:
        found = msgspec.json.decode(server.request("GET", f"{PREFIX}/profiles").content, type=Profiles)
    except (PermissionDenied, Unauthorized) as problem:
        yield Finding("speed of pools", "warning", f"not looked at: {problem.message}")
        return
    for one in found.profiles:
        if one.drift_factor is not None and one.drift_since is not None:
            slower = one.drift_factor > 1
            advice = "look for throttling, other work there, an updated engine or driver" if slower else "nothing is wrong"
            text = (
                f"{one.model} takes {one.drift_factor:.2f} times as long since {one.drift_since:%Y-%m-%d %H:%M} UTC: {advice}; "
                f"`batchsched profile run --pool {one.pool} --model {one.model}` measures anew"
            )
            yield Finding(f"speed of {one.pool}", "warning" if slower else "ok", text)
