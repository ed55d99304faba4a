"""The engine under a worker: a vLLM that we start and end ourselves, or one that runs already.

Start-up, flags and shutdown follow what was measured on vLLM 0.32: without `--shutdown-timeout` a SIGTERM would leave requests
hanging; EngineCore outlives an API server that is killed, so an engine is a session of its own and ends as a process group.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from batchsched.errors import EngineFailed, UnknownModel
from batchsched.executors.engine_home import EngineHome
from batchsched.executors.orphans import log_name
from batchsched.executors.tether import tethered
from batchsched.fleet import Pool, ServedModel
from batchsched.settings import Worker

if TYPE_CHECKING:
    import aiohttp

DRAIN_S = 30
PROBE_TIMEOUT_S = 10.0
_POLL_S = 0.2
_TAIL_BYTES = 65_536
_PREFIX = re.compile(r"^(?:\(\w+ pid=\d+\)\s*)?(?:(?:INFO|WARNING|ERROR)\s+\S+ \S+ \[[^]]*\]\s*)?")
_MATTERS = re.compile(r"^(?:[\w.]*(?:Error|Exception|Failure)\b|.*: error:)")


class Engine(Protocol):
    """What a worker asks of an engine."""

    url: str
    served: str | None
    """The model that it serves now, by the name that requests use; None while it is down."""
    startup_s: float

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


class VllmEngine:
    """A vLLM API server that is ours: started, watched and ended here."""

    def __init__(self, home: EngineHome, pool: Pool, settings: Worker) -> None:
        self.url = ""
        self.served: str | None = None
        self.startup_s = 0.0
        self.log: Path | None = None
        self._home, self._pool, self._settings = home, pool, settings
        self._process: subprocess.Popen[bytes] | None = None
        self._count = 0

    async def start(self, model: ServedModel, served: str) -> None:
        """Launch and wait until it answers; an engine that runs already is ended first."""
        await self.stop()
        began = time.monotonic()
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._launch(command(self._home, self._pool, model, served, port), served)
        try:
            await self._until_ready(served, began + self._settings.startup_timeout_s)
        except BaseException:
            await self.stop()
            raise
        self.served = served
        self.startup_s = time.monotonic() - began

    async def stop(self) -> None:
        """SIGTERM and the drain, then SIGKILL to whatever is left of the group."""
        process, self._process, self.served = self._process, None, None
        if process is None:
            return
        try:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(process.wait, DRAIN_S + 5)
        finally:
            _kill_group(process.pid)
            process.wait()

    def alive(self) -> bool:
        """Is the API server's process there?"""
        return self._process is not None and self._process.poll() is None

    def pids(self) -> list[int]:
        """The API server and its children."""
        import psutil

        if self._process is None:
            return []
        try:
            return [self._process.pid, *(child.pid for child in psutil.Process(self._process.pid).children(recursive=True))]
        except psutil.NoSuchProcess:
            return []

    def describe(self) -> str:
        """Which vLLM, and what it serves."""
        return f"{self._home.describe()}, serving {self.served or 'nothing'}"

    def _launch(self, engine: list[str], served: str) -> None:
        folder = Path(self._settings.state_dir).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        self._count += 1
        self.log = folder / log_name(served, self._count)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                tethered(engine),
                cwd=folder,  # not the working folder: `python -m` would look for modules in it
                env=environment(self._home, os.environ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    async def _until_ready(self, served: str, until: float) -> None:
        import aiohttp

        async with aiohttp.ClientSession() as session:
            while time.monotonic() < until:
                if not self.alive():
                    raise EngineFailed(
                        f"The engine ended while it started: {last_words(self.log)}", hint=f"Its log is {self.log}."
                    )
                if await healthy(session, self.url) and served in await models_of(session, self.url):
                    return
                await asyncio.sleep(_POLL_S)
        limit_s = self._settings.startup_timeout_s
        raise EngineFailed(f"The engine was not ready after {limit_s:.0f} s.", hint=f"Its log is {self.log}.")


class AttachedEngine:
    """An engine that somebody else runs; it is only ever asked, never started or ended."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self.served: str | None = None
        self.startup_s = 0.0

    async def start(self, model: ServedModel, served: str) -> None:
        """Check that it answers and serves the model. Raises EngineFailed or UnknownModel."""
        import aiohttp

        del model  # what it loads is not ours to say
        self.served = None
        async with aiohttp.ClientSession() as session:
            if not await healthy(session, self.url):
                raise EngineFailed(f"The engine at {self.url} does not answer.", hint="Is it running, and is the URL right?")
            names = await models_of(session, self.url)
        if served not in names:
            raise UnknownModel(f"The engine at {self.url} does not serve '{served}'; it serves {', '.join(names) or 'nothing'}.")
        self.served = served

    async def stop(self) -> None:
        """Forget it."""
        self.served = None

    def alive(self) -> bool:
        """Nothing here can tell that it is gone; the driver's health checks do."""
        return self.served is not None

    def pids(self) -> list[int]:
        """None are known."""
        return []

    def describe(self) -> str:
        """Where it is, and what it serves."""
        return f"the engine at {self.url}, serving {self.served or 'nothing'}"


def command(home: EngineHome, pool: Pool, model: ServedModel, served: str, port: int) -> list[str]:
    """vLLM's command line. The pool's and then the model's own flags come last, so they win."""
    path = model.path or served
    if Path(path).exists():
        path = str(Path(path).absolute())
    flags = ["--model", path, "--served-model-name", served, "--host", "127.0.0.1", "--port", str(port)]
    flags += ["--shutdown-timeout", str(DRAIN_S), "--disable-uvicorn-access-log", "--enable-prompt-tokens-details"]
    if home.device == "cpu":
        flags += ["--enforce-eager"]  # compiling costs a minute at each start and gains little on a CPU
    if model.max_model_len:
        flags += ["--max-model-len", str(model.max_model_len)]
    return [home.python, "-m", "vllm.entrypoints.openai.api_server", *flags, *pool.engine_args, *model.engine_args]


def environment(home: EngineHome, base: Any) -> dict[str, str]:
    """The engine's environment; what is set already is left alone."""
    wanted = {"VLLM_NO_USAGE_STATS": "1"}
    if home.device == "cpu":
        # One core is left to the API server and the worker; binding to cores would fight with whatever else runs here.
        threads = str(max(1, (os.cpu_count() or 2) - 1))
        wanted |= {
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "OMP_NUM_THREADS": threads,
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        }
    return wanted | dict(base)


async def healthy(session: aiohttp.ClientSession, url: str, tries: int = 1) -> bool:
    """Does /health answer 200? No answer in time counts as no only after `tries` of them: a busy engine may be slow to say."""
    import aiohttp

    for _ in range(tries):
        with contextlib.suppress(TimeoutError):
            try:
                async with session.get(f"{url}/health", timeout=aiohttp.ClientTimeout(total=PROBE_TIMEOUT_S)) as answer:
                    return answer.status == 200
            except (aiohttp.ServerTimeoutError, TimeoutError):
                raise TimeoutError from None
            except (aiohttp.ClientError, OSError):
                return False
    return False


async def models_of(session: aiohttp.ClientSession, url: str) -> list[str]:
    """The names under /v1/models; empty where that cannot be read."""
    import aiohttp

    try:
        async with session.get(f"{url}/v1/models", timeout=aiohttp.ClientTimeout(total=PROBE_TIMEOUT_S)) as answer:
            return [str(model["id"]) for model in (await answer.json())["data"]]
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError, TypeError):
        return []


def last_words(log: Path | None) -> str:
    """The line of a log that says best why a process ended: the last that names an error, else the last."""
    if log is None:
        return "it left no log."
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        said = [_PREFIX.sub("", line).strip() for line in file.read().decode("utf-8", "replace").splitlines()]
        said = [line for line in said if line]
        if said:
            errors = [line for line in said if _MATTERS.match(line) and "Engine core initialization failed" not in line]
            return f"{(errors or said)[-1][:300].rstrip('.')}."
    return "it said nothing."


def _kill_group(pgid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pgid, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
