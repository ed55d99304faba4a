"""The engine under a worker: a vLLM that we start and end ourselves, or one that runs already.

Start-up, flags and shutdown follow what was measured on vLLM 0.32: without `--shutdown-timeout` a SIGTERM would leave requests
hanging; EngineCore outlives an API server that is killed, so an engine is a session of its own and ends as a process group.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import msgspec

from batchsched.errors import EngineFailed, InvalidConfiguration, UnknownModel
from batchsched.executors import transfer
from batchsched.executors.dialect import Dialect, dialect_of
from batchsched.executors.engine_home import EngineHome
from batchsched.executors.host_cores import confined, missing
from batchsched.executors.identity import Identity, told_by_flags, told_by_log, told_by_routes
from batchsched.executors.launch import MATTERS, advice, build_of, command, drain_s, environment, keyed, last_words
from batchsched.executors.memory_bound import MemoryBound
from batchsched.executors.orphans import log_name, of_another, wait_until
from batchsched.executors.partner_told import drafts_at
from batchsched.executors.probes import healthy, served_by
from batchsched.executors.tether import tethered
from batchsched.executors.transfer import Role
from batchsched.fleet import HostCpu, Pool, ServedModel, cores_of
from batchsched.hosts import base_url, is_loopback
from batchsched.settings import Worker

LOGS_KEPT = 10
"""Of a worker's engines, with those that workers left behind which are gone: others may share the folder."""
NO_POOL = Pool()
_POLL_S = 0.2
_LAST_WAIT_S = 5.0
_PIDS_EVERY_S = 10.0


class Engine(Protocol):
    """What a worker asks of an engine."""

    url: str
    here: bool
    """Does it run on this machine, so that meters here see it?"""
    ours: bool
    """Was it started for this worker alone? Others may use it too where it was not."""
    served: str | None
    """The model that it serves now, by the name that requests use; None while it is down."""
    startup_s: float
    build: str
    """Which engine it is, version included, without where it lies."""
    identity: Identity
    """The same in parts, for output lines; one object from start to start."""
    dialect: Dialect
    """How it is spoken to."""
    context: int | None
    """The longest prompt and answer together, in tokens, of what it serves; None where it does not say."""

    def takes_up(self, served: str) -> bool:
        """Serve from now on another model that it has loaded already, as adapters of one base are; False where it has not."""
        ...

    async def start(self, model: ServedModel, served: str) -> None:
        """Serve `model` under the name `served`; back when it answers. Raises EngineFailed or UnknownModel."""
        ...

    async def stop(self) -> None:
        """Let go of it; when this returns, nothing of ours is left running."""
        ...

    def alive(self) -> bool:
        """False once it is known to be gone."""
        ...

    def pids(self) -> list[int]:
        """The processes that work for us here; empty where they are not ours to see."""
        ...

    def describe(self) -> str:
        """One line for people."""
        ...

    def last_words(self) -> str:
        """Why it ended, as far as it said; empty where nothing is known."""
        ...


def on_this_host(pool: Pool, settings: Worker) -> Pool:
    """A pool with the cores that this machine's own settings name, where they do."""
    if not settings.cpu_cores or pool.gpu != "cpu":
        return pool
    return msgspec.structs.replace(pool, cpu=msgspec.structs.replace(pool.cpu or HostCpu(), cores=settings.cpu_cores))


class VllmEngine:
    """A vLLM API server that is ours: started, watched and ended here. `role`: where it reads prompts for engines elsewhere."""

    here = ours = True

    def __init__(self, home: EngineHome, pool: Pool, settings: Worker, role: Role | None = None) -> None:
        self._role = role
        self.url = ""
        self.served: str | None = None
        self.startup_s = 0.0
        self.log: Path | None = None
        self._home, self._pool, self._settings = home, on_this_host(pool, settings), settings
        self._process: subprocess.Popen[bytes] | None = None
        self._bound: MemoryBound | None = None
        self._pids: list[int] = []
        self._looked_at = -math.inf
        self._count = 0
        self.build = home.title
        self.identity = Identity(home.distribution, home.version)
        self.dialect = Dialect(build_of(home), pool.engine_args, pool.quirks)
        self.context: int | None = None
        self._names: frozenset[str] = frozenset()

    def takes_up(self, served: str) -> bool:
        """As the port says."""
        if served not in self._names or not self.alive():
            return False
        self.served = served
        return True

    async def start(self, model: ServedModel, served: str) -> None:
        """Launch and wait until it answers; an engine that runs already is ended first."""
        await self.stop()
        began = time.monotonic()
        port, role = _free_port(), self._role or _role_of(model, self._settings)
        self.url = f"http://{role.host if role else '127.0.0.1'}:{port}"
        flags, env = await asyncio.to_thread(self._apart, model, role)
        self._launch([*command(self._home, self._pool, model, served, port), *flags], served, env)
        try:
            await self._until_ready(served, {model.variant_of}, began + self._settings.startup_timeout_s)
        except BaseException:
            await self.stop()
            raise
        self.served, self._looked_at = served, -math.inf
        self.startup_s = time.monotonic() - began
        dtype, quantization = _first(told_by_log(self.log), told_by_flags([*self._pool.engine_args, *model.engine_args]))
        self.identity = Identity(self._home.distribution, self._home.version, dtype, quantization)

    async def stop(self) -> None:
        """SIGTERM and the drain, then SIGKILL to whatever is left of the group."""
        bound, self._bound = self._bound, None
        if bound:
            await asyncio.to_thread(bound.close)
        process, self._process, self.served, self._names = self._process, None, None, frozenset()
        if process is None:
            return
        try:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(process.wait, drain_s(self._home) + 5)
        finally:
            _kill_group(process.pid)
            process.wait()
            # Its children are not ours to wait for: look until the last one is gone.
            await asyncio.to_thread(wait_until, lambda: not _lives(process.pid), _LAST_WAIT_S)

    def alive(self) -> bool:
        """Is the API server's process there?"""
        return self._process is not None and self._process.poll() is None

    def pids(self) -> list[int]:
        """The API server and its children. To find them costs milliseconds: those of an engine that is ready are remembered."""
        if self._process is None:
            return []
        if not self.served or time.monotonic() - self._looked_at > _PIDS_EVERY_S:
            self._pids, self._looked_at = _family(self._process.pid), time.monotonic()
        return self._pids

    def last_words(self) -> str:
        """The error in its log."""
        said = last_words(self.log)
        return said if MATTERS.match(said) else ""

    def describe(self) -> str:
        """Which vLLM, and what it serves."""
        return f"{self._home.describe()}, serving {self.served or 'nothing'}"

    def _apart(self, model: ServedModel, role: Role | None) -> tuple[list[str], dict[str, str]]:
        """Flags and environment for its part in a mode of two pools. Raises EngineFailed where it cannot have that."""
        if role:
            env = transfer.environment(self._home, role, _free_port(), list(os.environ))
            return transfer.flags(self._home, role), env
        if model.mode != "draft_target" or model.draft is None:
            return [], {}
        from batchsched.executors.drafts import target_args, target_environment

        told = Path(self._settings.state_dir).absolute() / "drafts.json"
        address = drafts_at(self._settings.partner_url)
        return target_args(model.draft.tokens), target_environment(address, self._settings.partner_api_key, told)

    def _launch(self, engine: list[str], served: str, env: dict[str, str]) -> None:
        """Raises EngineFailed where the machine lacks the cores that it is to run on."""
        cpu = self._pool.cpu or HostCpu()
        cores = cores_of(cpu.cores)
        if absent := missing(cores):
            raise EngineFailed(
                f"The engine is to run on cores {cpu.cores}, and this machine has no {', '.join(map(str, absent))} for us.",
                hint="Set worker.cpu_cores to cores of this machine.",
            )
        folder = Path(self._settings.state_dir).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        self._count += 1
        self.log = folder / log_name(served, self._count)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                tethered(confined(engine, cores, cpu.nice, cpu.idle)),
                cwd=folder,  # not the working folder: `python -m` would look for modules in it
                env=environment(self._home, os.environ, self._pool) | keyed(self._home, self._settings.engine_api_key) | env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._bound = MemoryBound(self._process.pid, self.pids, cpu.memory_gb, self.log) if cpu.memory_gb else None

    async def _until_ready(self, served: str, apart: set[str], until: float) -> None:
        """`apart`: what it answers by name and does not serve as another engine would."""
        import aiohttp

        async with aiohttp.ClientSession(headers=bearer(self._settings.engine_api_key)) as session:
            while time.monotonic() < until:
                if not self.alive():
                    said = last_words(self.log)
                    hint = advice(said, self._home.python)
                    raise EngineFailed(f"The engine ended while it started: {said}", hint=hint, log=self.log)
                if await healthy(session, self.url, path=self.dialect.health):
                    found = await served_by(session, self.url)
                    if found.turned_away:
                        raise _turned_away(self.url)
                    if served in found.contexts:
                        self.context, self._names = found.context(served), frozenset(found.contexts) - apart
                        return
                await asyncio.sleep(_POLL_S)
        limit_s = self._settings.startup_timeout_s
        raise EngineFailed(f"The engine was not ready after {limit_s:.0f} s.", log=self.log)


class AttachedEngine:
    """An engine that somebody else runs; it is only ever asked, never started or ended."""

    ours = False

    def __init__(self, url: str, pool: Pool = NO_POOL, api_key: str = "") -> None:
        self._pool, self._api_key = pool, api_key
        self.identity = Identity()
        self.dialect = dialect_of(None, None, pool)
        self.context: int | None = None
        self.url = base_url(url)
        self.here = is_loopback(urlsplit(self.url).hostname or "")
        self.served: str | None = None
        self.startup_s = 0.0
        self.build = f"the engine at {self.url}"

    def takes_up(self, served: str) -> bool:
        """It is asked anew each time: what it has may have changed."""
        del served
        return False

    async def start(self, model: ServedModel, served: str) -> None:
        """Check that it answers and serves the model. Raises EngineFailed, or UnknownModel: then it serves what it served."""
        import aiohttp

        async with aiohttp.ClientSession(headers=bearer(self._api_key)) as session:
            well, found = await healthy(session, self.url, path=self.dialect.health), await served_by(session, self.url)
            # Of an engine that we do not know yet, the models are enough.
            if not (well or found.turned_away or (found.contexts and self.served is None)):
                self.served = None
                raise EngineFailed(f"The engine at {self.url} does not answer.", hint="Is it running, and is the URL right?")
            name, version = await told_by_routes(session, self.url)
        if served not in found.contexts:
            if self.served not in found.contexts:
                self.served = None
            if found.turned_away:
                raise _turned_away(self.url)
            names = ", ".join(found.contexts) or "nothing"
            raise UnknownModel(f"The engine at {self.url} does not serve '{served}'; it serves {names}.")
        # What it loads is not ours to say: flags tell only how it is meant to run.
        self.identity = Identity(name, version, *told_by_flags([*self._pool.engine_args, *model.engine_args]))
        self.dialect = dialect_of(name, version, self._pool)
        self.served, self.context = served, found.context(served)

    async def stop(self) -> None:
        """Forget it."""
        self.served = None

    def alive(self) -> bool:
        """Nothing here can tell that it is gone; the driver's health checks do."""
        return self.served is not None

    def pids(self) -> list[int]:
        """None are known."""
        return []

    def last_words(self) -> str:
        """Its log is not ours to read."""
        return ""

    def describe(self) -> str:
        """Where it is, and what it serves."""
        return self.build + (f", serving {self.served}" if self.served else "")


def engine_for(pool_name: str, pool: Pool, home: EngineHome | None, settings: Worker) -> Engine:
    """Of a worker of that pool: the one at `worker.engine_url`, or one to start from `home`. Raises InvalidConfiguration."""
    if home is None:
        return AttachedEngine(settings.engine_url, pool, settings.engine_api_key)
    if pool.kind == "spare":
        raise InvalidConfiguration(
            f"Pool '{pool_name}' is of kind 'spare': its workers share servers that run already, and never start one.",
            hint="Name the server beside this worker: `batchsched worker --engine-url URL`, or worker.engine_url.",
        )
    return VllmEngine(home, pool, settings)


def bearer(api_key: str) -> dict[str, str]:
    """Headers that show a key to an engine; none without one."""
    return {"authorization": f"Bearer {api_key}"} if api_key else {}


def _turned_away(url: str) -> EngineFailed:
    """What is wrong, and what to do."""
    return EngineFailed(
        f"The engine at {url} asks for a key and does not take ours.", hint="Set worker.engine_api_key to that of its --api-key."
    )


def _role_of(model: ServedModel, settings: Worker) -> Role | None:
    """Of an engine that answers what another has read; it answers all else as any does."""
    if model.mode != "prefill_decode":
        return None
    partner = urlsplit(settings.partner_url).hostname
    return Role("kv_consumer", other=partner) if partner else Role("kv_consumer")


def _first(one: tuple[str | None, str | None], other: tuple[str | None, str | None]) -> tuple[str | None, str | None]:
    """What the one tells, else what the other does."""
    return one[0] or other[0], one[1] or other[1]


def _sweep(folder: Path) -> None:
    """Make room for one more log among those of engines, the oldest first; logs of workers that are at work are theirs."""
    aged: list[tuple[float, Path]] = []
    for log in folder.glob("engine-*.log"):
        with contextlib.suppress(FileNotFoundError):  # another worker sweeps too
            if not of_another(log.name):
                aged.append((log.stat().st_mtime, log))
    for _, old in sorted(aged)[: -LOGS_KEPT + 1]:
        old.unlink(missing_ok=True)


def _kill_group(pgid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pgid, signal.SIGKILL)


def _family(pid: int) -> list[int]:
    """A process and all that it started; empty where it is gone."""
    import psutil

    try:
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def _lives(pgid: int) -> bool:
    """Does any process of the group live? The dead that nobody has collected yet do not count."""
    import psutil

    try:
        os.killpg(pgid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # macOS says so where only dead ones are left
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):
            if os.getpgid(process.pid) == pgid and process.status() not in {psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}:
                return True
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
