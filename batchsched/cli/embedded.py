"""The process tree of `batchsched run`: the server and the workers as children that end with us, even by kill -9."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import IO

import msgspec

from batchsched.cli import exits, toml
from batchsched.client import Client
from batchsched.errors import ChildFailed
from batchsched.settings import Settings
from batchsched.transport import Transport

MAX_RESTARTS = 5
# Somebody is watching: an engine that does not start ends the run instead of being tried for ever.
ENGINE_TRIES = 2
# No network lies between, and a run that was killed should not wait long for the leases of its dead worker.
LEASE_S = 15.0
START_S = 90.0
# The server of a run that was killed a moment ago may still be dying.
LOCK_S = 30.0
SERVER_STOP_S = 30.0
# A worker first lets requests in flight finish, gives back the rest, and stops its engine.
WORKER_STOP_S = 75.0
_URL = re.compile(rb"https?://[^\s,;)]+")


class Child:
    """One batchsched command as a child process with a log. `url`: the first one that it prints on stdout."""

    def __init__(self, name: str, arguments: list[str], log: Path, env: dict[str, str]) -> None:
        self.name = name
        self.arguments = arguments
        self.log = log
        self.url: str | None = None
        self.restarts = 0
        self._env = env
        self._announced = Event()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it in a session of its own, so that a Ctrl-C at the terminal reaches only us."""
        from batchsched.executors.tether import tethered

        # By SIGKILL: whoever was killed will be started again at once, and must not find its old children still draining.
        command = tethered([sys.executable, "-P", "-m", "batchsched.cli", *self.arguments], end_by=signal.SIGKILL)
        self._announced.clear()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, env=self._env, start_new_session=True
            )
        assert self._process.stdout is not None
        Thread(target=self._listen, args=(self._process.stdout,), daemon=True).start()

    def _listen(self, stdout: IO[bytes]) -> None:
        with stdout, self.log.open("ab") as log:
            for line in stdout:
                log.write(line)
                log.flush()
                if self.url is None and (found := _URL.search(line)):
                    self.url = found.group().decode()
                if self.url:
                    self._announced.set()
        self._announced.set()

    def wait_for_url(self) -> str:
        """The URL that it announces once it is ready. Raises ChildFailed where it ends or says nothing for long."""
        silent = not self._announced.wait(START_S)
        if self.url is None and not silent:
            self.wait(5.0)  # it closed its stdout, so it is ending
        if self.url is None or not self.alive():
            raise self.failure()
        return self.url

    def alive(self) -> bool:
        """Is it running?"""
        return self._process is not None and self._process.poll() is None

    def failure(self) -> ChildFailed:
        """What to say of its end: its own last words, and where the log is."""
        code = self._process.poll() if self._process else None
        ended = "does not answer" if code is None else f"ended (exit code {code})"
        problem = ChildFailed(f"The {self.name} {ended}: {self._last_words()}", hint=f"Its log is {self.log}.")
        problem.exit_code = code if code is not None and code > 0 else exits.FAILURE
        return problem

    def fatal(self) -> bool:
        """Did it end by its own decision, which starting it again would not change? (Killed, it has a negative code.)"""
        code = self._process.poll() if self._process else None
        return code is not None and code > 0 and code != exits.TRY_AGAIN

    def _last_words(self) -> str:
        with self.log.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 20_000))
            lines = [line.strip() for line in log.read().decode("utf-8", "replace").splitlines() if line.strip()]
        errors = [line.removeprefix("Error: ") for line in lines if line.startswith("Error: ")]
        return (errors or lines or ["it said nothing"])[-1]

    def ask_to_stop(self) -> None:
        """SIGTERM."""
        if self._process and self.alive():
            self._process.terminate()

    def wait(self, timeout_s: float) -> None:
        """Wait for its end; kill its whole session when that takes too long."""
        if self._process is None:
            return
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End its whole session at once."""
        if self._process and self.alive():
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def _own(settings: Settings, state: Path) -> Settings:
    """Settings for a server and workers that live and die with this run."""
    tries = settings.worker.engine_tries or ENGINE_TRIES
    return msgspec.structs.replace(
        settings,
        server=msgspec.structs.replace(settings.server, lease_s=min(settings.server.lease_s, LEASE_S)),
        # The server is started again where it dies: a process for the solver alone would only cost memory.
        planner=msgspec.structs.replace(settings.planner, memory_mb=0),
        worker=msgspec.structs.replace(settings.worker, state_dir=str(state / "worker"), engine_tries=tries),
    )


class Embedded:
    """A server, and workers for some pools, below one folder. A context manager: all are stopped at its end.

    A key made for this start keeps other people of the machine out; it lives in the children's environment only.
    """

    def __init__(self, settings: Settings, state: Path) -> None:
        self._state = state
        self._key = secrets.token_urlsafe(24)
        self._config = state / "batchsched.toml"
        settings = _own(settings, state)
        self._config.write_text(toml.dumps(msgspec.to_builtins(settings)), "utf-8")
        self._env = {**os.environ, "BATCHSCHED_SERVER_API_KEY": self._key, "BATCHSCHED_CONFIG": str(self._config)}
        self._server = self._child("server", "serve", "--port", "0", "--data-dir", str(state))
        self._workers: list[Child] = []
        self._client: Client | None = None

    def _child(self, name: str, *arguments: str) -> Child:
        log = self._state / f"{name.replace(' ', '-')}.log"
        return Child(name, [*arguments, "--config", str(self._config)], log, self._env)

    def start_server(self) -> Client:
        """Start the server and wait until it answers; a client for it, which does not retry by itself."""
        url = self._first_url()
        # Started again it must be where the workers look for it.
        at = self._server.arguments.index("--port") + 1
        self._server.arguments[at] = url.rstrip("/").rpartition(":")[2]
        self._client = Client(transport=Transport(url, self._key, max_retries=0))
        return self._client

    def _first_url(self) -> str:
        limit = time.monotonic() + LOCK_S
        while True:
            self._server.start()
            try:
                return self._server.wait_for_url()
            except ChildFailed as problem:
                if problem.exit_code != exits.TRY_AGAIN or time.monotonic() > limit:
                    raise
            time.sleep(0.5)

    def start_workers(self, pools: list[str]) -> None:
        """Start a worker for each of these pools."""
        assert self._server.url is not None
        for pool in pools:
            worker = self._child(f"worker {pool}", "worker", "--server", self._server.url, "--pool", pool)
            worker.start()
            self._workers.append(worker)

    def keep_alive(self) -> list[str]:
        """Start again what ended; what was started again, for people. Raises ChildFailed where that is of no use."""
        restarted: list[str] = []
        for child in (self._server, *self._workers):
            if child.alive():
                continue
            if child.fatal() or child.restarts >= MAX_RESTARTS:
                raise child.failure()
            time.sleep(min(0.2 * 2**child.restarts, 5.0))
            child.restarts += 1
            child.start()
            restarted.append(child.name)
        return restarted

    def stop(self) -> None:
        """Stop the workers, which give back what they hold, then the server. Interrupted again, kill them."""
        try:
            for worker in self._workers:
                worker.ask_to_stop()
            for worker in self._workers:
                worker.wait(WORKER_STOP_S)
            self._server.ask_to_stop()
            self._server.wait(SERVER_STOP_S)
        finally:
            for child in (*self._workers, self._server):
                child.kill()
            if self._client:
                self._client.close()

    def __enter__(self) -> Embedded:
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
