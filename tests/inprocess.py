"""A server without threads or sockets: its real application answers in this process, and its loops turn only when told.

For tests that decide themselves in which order things happen.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from anyio.from_thread import BlockingPortal, start_blocking_portal

from batchsched.clock import Clock, SeededIds
from batchsched.server.app import create_app
from batchsched.server.runtime import Runtime
from batchsched.settings import load
from tests.live import BASIC, put_database


class InProcess:
    """The application over a runtime that was recovered as at a start, but whose threads do not run."""

    def __init__(self, portal: BlockingPortal, folder: Path, clock: Clock, text: str = BASIC, **flags: Any) -> None:
        self._portal = portal
        self._clock = clock
        self._ids = SeededIds()
        self._config = folder / "batchsched.toml"
        self._config.write_text(text)
        self._flags = {"server.data_dir": str(folder / "data"), **{key.replace("__", "."): value for key, value in flags.items()}}
        self.runtime = self._made()

    def _made(self) -> Runtime:
        loaded = load(self._config, env={}, flags=self._flags)
        if not loaded.settings.server.database_url:
            put_database(Path(loaded.settings.server.data_dir) / "batchsched.db")
        runtime = Runtime(loaded, clock=self._clock, ids=self._ids)
        runtime.recover()
        self._app = create_app(runtime)
        return runtime

    def restart(self) -> None:
        """The process is gone without a word, and another comes up on what it left."""
        self.close()
        self.runtime = self._made()

    def close(self) -> None:
        """Let go of the lead and the database, as a dead process does."""
        self.runtime.leadership.stop()
        self.runtime.database.close()

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One request to the application."""

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self._app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                return await client.request(method, path, **options)

        return self._portal.call(send)

    def post(self, path: str, body: Any = None) -> httpx.Response:
        """POST JSON."""
        return self.request("POST", path, json=body)

    def json(self, path: str) -> Any:
        """The JSON of a GET that must succeed."""
        answer = self.request("GET", path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def round(self) -> None:
        """One turn of the housekeeping."""
        self.runtime.lifecycle.round()

    def plan(self) -> None:
        """One turn of the planner."""
        self.runtime.scheduler.plan_now()


@contextmanager
def in_process() -> Generator[Callable[..., InProcess]]:
    """Makes servers that share one event loop."""
    with start_blocking_portal() as portal:
        yield lambda *args, **options: InProcess(portal, *args, **options)
