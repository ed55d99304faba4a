"""Is the engine alive? One health check for however many ask at once, and one word about its death."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import aiohttp

from batchsched.errors import EngineFailed
from batchsched.executors.engine import Engine
from batchsched.executors.probes import healthy


class Vitals:
    """`on_death` is called with a message, and whether a request may be to blame, each time that the engine is found dead."""

    def __init__(self, engine: Engine, session: aiohttp.ClientSession, on_death: Callable[[str, bool], None]) -> None:
        self.problem: EngineFailed | None = None
        """Why the engine counts as dead; None while it lives."""
        self._engine, self._session, self._on_death = engine, session, on_death
        self._check: asyncio.Task[bool] | None = None
        self._lives = 0

    async def well(self) -> bool:
        """Does it live, and say so?"""
        if self.problem is not None:
            return False
        if self._check is None or self._check.done():
            self._check = asyncio.create_task(self._look())
        life = self._lives
        return await asyncio.shield(self._check) or life < self._lives  # what it was before says nothing any more

    def die(self, message: str, *, blame: bool = True) -> None:
        """It is dead; only the first word counts."""
        if self.problem is None:
            self.problem = EngineFailed(message)
            self._on_death(message, blame)

    def revive(self) -> None:
        """It is up again."""
        self.problem = self._check = None
        self._lives += 1

    async def _look(self) -> bool:
        return self._engine.alive() and await healthy(self._session, self._engine.url, tries=3, path=self._engine.dialect.health)
