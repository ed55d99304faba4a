"""Engines of the benchmark of serving modes: one real vLLM each, its own flags and environment, and what its metrics say."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from batchsched.executors.engine_home import EngineHome
from batchsched.executors.launch import command, environment, last_words
from batchsched.executors.tether import tethered
from batchsched.fleet import Pool, ServedModel

ROOT = Path(__file__).resolve().parent.parent
CONTEXT_TOKENS = 4608
FURTHER = 4
READY_S = 400.0
KEY = "bench"


class Engine:
    """A vLLM that was launched here, its process group led by `pid`."""

    def __init__(self, name: str, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name, self.url, self.pid = name, f"http://127.0.0.1:{port}", process.pid
        self._process, self._log = process, log

    def counter(self, *names: str) -> float:
        """The sum of the metrics of these names, over their labels; 0 where there is none."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0].split(" ")[0] in names)

    def until_ready(self) -> None:
        """Wait for it. Raises RuntimeError where it ends, or takes too long."""
        until = time.monotonic() + READY_S
        while time.monotonic() < until:
            if self._process.poll() is not None:
                raise RuntimeError(f"The engine {self.name} ended while it started: {last_words(self._log)}")
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.25)
        raise RuntimeError(f"The engine {self.name} was not ready after {READY_S:.0f} s; its log is {self._log}.")

    def pids(self) -> list[int]:
        """Its processes, for a meter."""
        with contextlib.suppress(psutil.Error):
            return [self.pid, *(child.pid for child in psutil.Process(self.pid).children(recursive=True))]
        return []

    @contextmanager
    def stopped(self) -> Generator[None]:
        """It does nothing at all meanwhile."""
        os.killpg(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """As a machine that goes: its processes, all at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()


@contextmanager
def engine(
    home: EngineHome,
    folder: Path,
    name: str,
    model: Path,
    flags: Sequence[str] = (),
    extra: Mapping[str, str] | None = None,
    *,
    wait: bool = True,
) -> Generator[Engine]:
    """One that serves the model as `name`; it has ended when this is left. Without `wait` it may not be ready yet."""
    port = free_port()
    served = ServedModel(str(model), max_model_len=CONTEXT_TOKENS, engine_args=list(flags))
    log = folder / f"engine-{name}.log"
    folder.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        process = subprocess.Popen(
            tethered(command(home, Pool(), served, name, port)),
            cwd=folder,
            env=environment(home, os.environ) | dict(extra or {}),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    launched = Engine(name, port, process, log)
    try:
        if wait:
            launched.until_ready()
        yield launched
    finally:
        launched.kill()


def tiny_models(home: EngineHome, folder: Path) -> tuple[Path, Path]:
    """A small one and a larger one that mostly agrees with it, made in `folder` where they are not there."""
    small, large = folder / "tiny", folder / "tiny-larger"
    maker = [home.python, str(ROOT / "executors" / "tiny_model.py")]
    subprocess.run([*maker, str(small)], check=True, capture_output=True)
    subprocess.run([*maker, str(large), "--further", str(FURTHER)], check=True, capture_output=True)
    return small, large


def free_port() -> int:
    """One that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
