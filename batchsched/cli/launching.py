"""What `batchsched worker --launch` puts together: the configured launches, processes of this machine, and the loop."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import aiohttp

from batchsched.clock import SystemClock
from batchsched.errors import BatchschedError
from batchsched.executors.launchers.loop import LaunchLoop, Setup, Setups
from batchsched.executors.launchers.memory import Notebook
from batchsched.executors.launchers.port import Spec
from batchsched.executors.launchers.processes import ProcessLauncher
from batchsched.executors.link import ServerLink, connections
from batchsched.executors.signals import stopped_by_signals
from batchsched.fleet import Launch
from batchsched.settings import Loaded

log = logging.getLogger(__name__)
FOLDER = "launcher"


def setup_of(pool: str, launch: Launch, loaded: Loaded, server_url: str) -> Setup:
    """How a pool's workers are launched, with all that the configuration leaves to us."""
    settings, told = loaded.settings, {key for key, whose in loaded.origins.items() if whose == "command line"}
    own = [sys.executable, "-m", "batchsched.cli", "worker", "--pool", pool, "--server", server_url]
    own += ["--config", str(loaded.path.absolute())] if loaded.path else []
    own += ["--engine-url", settings.worker.engine_url] if "worker.engine_url" in told else []
    env = {"CUDA_VISIBLE_DEVICES": "{devices}"} if launch.devices else {}
    env |= {"BATCHSCHED_SERVER_API_KEY": settings.server.api_key} if "server.api_key" in told else {}
    spec = Spec(launch.command or own, {**env, **launch.env}, launch.folder)
    devices = launch.devices or [str(place) for place in range(launch.replicas)]
    return Setup(spec, devices, launch.lead_s, launch.grace_s, launch.linger_s, launch.probation_s)


class Configured:
    """The launches of these pools as the configuration file has them now: it is read again when it changes."""

    def __init__(self, pools: Sequence[str], read: Callable[[], Loaded]) -> None:
        """Raises InvalidConfiguration."""
        self._pools, self._read = pools, read
        self._loaded = read()
        self._stamp = self._stamped()

    def __call__(self) -> Setups:
        """By pool."""
        if (stamp := self._stamped()) != self._stamp:
            self._stamp = stamp
            try:
                self._loaded = self._read()
                log.info("Read %s again.", self._loaded.path)
            except (BatchschedError, OSError) as problem:
                log.error("The configuration changed, and is left unread: %s", problem)
        settings = self._loaded.settings
        found = {pool: settings.launch.get(pool, Launch()) for pool in self._pools}
        return {pool: setup_of(pool, launch, self._loaded, settings.worker.server_url) for pool, launch in found.items()}

    def _stamped(self) -> tuple[float, int]:
        path = self._loaded.path
        if path is None or not path.exists():
            return 0.0, 0
        seen = path.stat()
        return seen.st_mtime, seen.st_size


async def launch_workers(pools: Sequence[str], read: Callable[[], Loaded], *, let_go: bool) -> int:
    """Run a launcher of these pools until it is told to stop; with `let_go`, end all that it had started, and come back.

    Raises InvalidConfiguration, LaunchFailed; at the first contact also Unauthorized, PermissionDenied, NotFound.
    """
    setups = Configured(pools, read)
    settings = read().settings
    folder, clock = Path(settings.worker.state_dir) / FOLDER, SystemClock()
    launcher = ProcessLauncher(folder, clock, os.environ)
    try:
        async with aiohttp.ClientSession(connector=connections()) as session:
            link = ServerLink(session, settings.worker.server_url, settings.server.api_key, clock)
            name = f"{socket.gethostname()}:{launcher.folder}"
            loop = LaunchLoop(name, setups, launcher, Notebook(folder), link, clock)
            with stopped_by_signals(loop.stop):
                return await (loop.let_go() if let_go else loop.run())
    finally:
        launcher.close()
