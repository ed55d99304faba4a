"""`batchsched doctor` on what computes: the engine and its published flaws, its recipe, the GPUs, and what is to be launched."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from batchsched.cli.common import say
from batchsched.cli.printed import Finding, Level
from batchsched.errors import BatchschedError, EngineMissing

if TYPE_CHECKING:
    from batchsched.executors.engine_home import EngineHome
    from batchsched.settings import Loaded
    from batchsched.transport import Transport


def engine(loaded: Loaded, *, quick: bool = False) -> Iterator[Finding]:
    """The one that runs, or the one that would be started: loaded by way of trial, unless it is to be `quick`."""
    if url := loaded.settings.worker.engine_url:
        yield from _running(url)
        return
    from batchsched.executors.engine_home import find_engine

    try:
        home = find_engine(loaded.settings.worker.engine_python)
        yield Finding("engine", "ok", f"{home.describe()}; not tried") if quick else _tried(home)
        if home.distribution != "llama-cpp-python":
            yield from _flaws(home.title, home.version)
    except EngineMissing as problem:
        chosen = bool(loaded.settings.worker.engine_python)
        yield Finding("engine", "broken" if chosen else "warning", problem.message, problem.hint or "")


def _tried(home: EngineHome) -> Finding:
    from batchsched.executors.engine_trial import LONGEST_S, trial

    say("Loading the engine's packages by way of trial, which takes some seconds (--quick leaves it out).")
    found = trial(home)
    if found is None:
        what = "Look again when less runs here; a worker waits longer (worker.startup_timeout_s)."
        return Finding("engine", "warning", f"{home.describe()}: its packages were not loaded after {LONGEST_S:.0f} s", what)
    if found.trouble:
        return Finding("engine", "broken", f"{home.describe()} cannot be loaded: {found.trouble}", found.mend)
    return Finding("engine", "ok", f"{home.describe()}; its packages were loaded in {found.seconds:.1f} s")


def _running(url: str) -> Iterator[Finding]:
    from batchsched.engines import ENGINE_NAMES, Build
    from batchsched.hosts import base_url
    from batchsched.transport import Transport

    paths = dict.fromkeys(Build(name).facts("route")["health"] for name in ENGINE_NAMES)
    with Transport(base_url(url), timeout_s=5.0, max_retries=0) as running:
        if any(_answers(running, path) for path in paths):
            version = _version(running)
            yield Finding("engine", "ok", f"running at {url}{f', version {version}' if version else ''}")
            yield from _flaws(f"The engine at {url}, {version},", version)
            return
    what = "Start it, or mend worker.engine_url; with an empty one, batchsched starts an engine itself."
    yield Finding("engine", "broken", f"none that is well answers at {url}", what)


def _answers(engine: Transport, path: str) -> bool:
    with suppress(BatchschedError):
        return bool(engine.request("GET", path))
    return False


def _version(engine: Transport) -> str:
    """What a vLLM says of itself; empty where it does not, as other engines do not."""
    with suppress(BatchschedError, ValueError, TypeError, KeyError):
        return str(engine.request("GET", "/version").json()["version"])
    return ""


def _flaws(title: str, version: str) -> Iterator[Finding]:
    """What is published of its version: batchsched refuses such requests, but whoever else reaches the engine may send them."""
    from batchsched.executors.flaws import flaws_of

    if found := flaws_of(version):
        told = "; ".join(f"{flaw.number}: {flaw.what}" for flaw in found)
        newest = ".".join(map(str, max(flaw.fixed for flaw in found)))
        what = f"Use {newest} or newer, or let nobody but the worker reach it."
        yield Finding("engine flaws", "warning", f"{title} has known flaws ({told})", what)


def recipe(loaded: Loaded, wanted: str) -> Iterator[Finding]:
    """Does the engine's environment fit the generation of the GPU here, or the recipe that was named?"""
    from batchsched.executors import recipes
    from batchsched.executors.engine_home import find_engine

    cards = recipes.cards_here()
    name = wanted or next((found for card in cards if (found := recipes.recipe_for(card.capability))), "")
    if not name:
        return
    named, python = recipes.recipe_named(name), loaded.settings.worker.engine_python
    if not python:
        with suppress(EngineMissing):
            python = find_engine().python
    wrong = recipes.unfit(named, recipes.installed(python, named.packages), cards, os.environ)
    text = f"{named.title}: {named.engine} {named.version}, tried: {named.tried}"
    if wrong:
        level: Level = "broken" if wanted else "warning"
        yield Finding(f"recipe {name}", level, f"{text}. Not so here: {'; '.join(wrong)}", named.steps())
    else:
        yield Finding(f"recipe {name}", "ok", text)


def caps(loaded: Loaded) -> Iterator[Finding]:
    """What workers had no right to put back."""
    from batchsched.executors.tuning import left_behind

    for uuid, commands in left_behind(loaded.settings.worker.state_dir).items():
        what = f"The next worker with the right to it puts them back, or: {commands}"
        yield Finding(f"GPU {uuid}", "warning", "has the cap or clocks of a worker that is gone", what)


def launches(loaded: Loaded) -> Iterator[Finding]:
    """Can what [launch.POOL] names be run here? A pool that this node's file declares besides may not run so many."""
    for name, launch in loaded.settings.launch.items():
        workers, pool = len(launch.devices) or launch.replicas, loaded.settings.pools.get(name)
        program = launch.command[0] if launch.command else sys.executable
        if shutil.which(program, path=launch.env.get("PATH")) is None:
            what = f"Install it, or mend launch.{name}.command (its PATH: launch.{name}.env)."
            yield Finding(f"launch {name}", "broken", f"there is no '{program}' that could be run", what)
        elif pool is not None and pool.count < workers:
            text = f"{workers} workers, of which the pool runs {pool.count} at once at most"
            what = f"Raise pools.{name}.count, or lower launch.{name}.replicas or its devices."
            yield Finding(f"launch {name}", "warning", text, what)
        else:
            yield Finding(f"launch {name}", "ok", f"{workers} worker(s) by {program}")
