"""`client.windows`, blocking and not."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Unpack

from batchsched.client import windows
from batchsched.client.windows import Window, WindowOptions

if TYPE_CHECKING:
    from batchsched.client.asynchronous import AsyncClient
    from batchsched.client.blocking import Client


class Windows:
    """`client.windows`. With `dry_run` nothing is kept: the answer says what would be."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def list(self) -> tuple[Window, ...]:
        """All of them, each with its next opening."""
        return self._client.send(windows.every())

    def retrieve(self, name: str, *, openings: int = 10) -> Window:
        """One of them, with so many openings to come."""
        return self._client.send(windows.one(name, openings))

    def add(
        self, name: str, *, pool: str, cron: str, duration: str, dry_run: bool = False, **options: Unpack[WindowOptions]
    ) -> Window:
        """Make one: it opens when the cron line matches its clock, for that long."""
        return self._client.send(windows.add(name, pool, cron, duration, options, dry_run=dry_run))

    def remove(self, name: str, *, dry_run: bool = False) -> None:
        """Remove one that the configuration does not declare. A pool without any is always open."""
        self._client.send(windows.remove(name, dry_run=dry_run))

    def pause(self, name: str, *, until: str | datetime | None = None, dry_run: bool = False) -> Window:
        """Let it open nothing, until it is resumed or until then."""
        return self._client.send(windows.change(name, "pause", dry_run=dry_run, until=until))

    def resume(self, name: str, *, dry_run: bool = False) -> Window:
        """Let it open again as it is declared; what was to be skipped is not."""
        return self._client.send(windows.change(name, "resume", dry_run=dry_run))

    def skip(self, name: str, *, count: int = 1, current: bool = False, dry_run: bool = False) -> Window:
        """Leave out its next openings; with `current` end the one that is on instead."""
        return self._client.send(windows.change(name, "skip", dry_run=dry_run, count=count, current=current))

    def extend(self, name: str, *, by: str | None = None, until: str | datetime | None = None, dry_run: bool = False) -> Window:
        """Keep it open from now on: `by` so much longer than it would be, or `until` then. One of the two."""
        return self._client.send(windows.change(name, "extend", dry_run=dry_run, by=by, until=until))


class AsyncWindows:
    """`client.windows`. With `dry_run` nothing is kept: the answer says what would be."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def list(self) -> tuple[Window, ...]:
        """All of them, each with its next opening."""
        return await self._client.send(windows.every())

    async def retrieve(self, name: str, *, openings: int = 10) -> Window:
        """One of them, with so many openings to come."""
        return await self._client.send(windows.one(name, openings))

    async def add(
        self, name: str, *, pool: str, cron: str, duration: str, dry_run: bool = False, **options: Unpack[WindowOptions]
    ) -> Window:
        """Make one: it opens when the cron line matches its clock, for that long."""
        return await self._client.send(windows.add(name, pool, cron, duration, options, dry_run=dry_run))

    async def remove(self, name: str, *, dry_run: bool = False) -> None:
        """Remove one that the configuration does not declare. A pool without any is always open."""
        await self._client.send(windows.remove(name, dry_run=dry_run))

    async def pause(self, name: str, *, until: str | datetime | None = None, dry_run: bool = False) -> Window:
        """Let it open nothing, until it is resumed or until then."""
        return await self._client.send(windows.change(name, "pause", dry_run=dry_run, until=until))

    async def resume(self, name: str, *, dry_run: bool = False) -> Window:
        """Let it open again as it is declared; what was to be skipped is not."""
        return await self._client.send(windows.change(name, "resume", dry_run=dry_run))

    async def skip(self, name: str, *, count: int = 1, current: bool = False, dry_run: bool = False) -> Window:
        """Leave out its next openings; with `current` end the one that is on instead."""
        return await self._client.send(windows.change(name, "skip", dry_run=dry_run, count=count, current=current))

    async def extend(
        self, name: str, *, by: str | None = None, until: str | datetime | None = None, dry_run: bool = False
    ) -> Window:
        """Keep it open from now on: `by` so much longer than it would be, or `until` then. One of the two."""
        return await self._client.send(windows.change(name, "extend", dry_run=dry_run, by=by, until=until))
