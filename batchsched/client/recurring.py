"""`client.schedules`, blocking and not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from batchsched.client import schedules
from batchsched.client.schedules import Release, Schedule, ScheduleOptions

if TYPE_CHECKING:
    from batchsched.client.asynchronous import AsyncClient
    from batchsched.client.blocking import Client


class Schedules:
    """`client.schedules`. With `dry_run` nothing is kept: the answer says what would be."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def list(self) -> tuple[Schedule, ...]:
        """Your recurring jobs, by name."""
        return self._client.send(schedules.every())

    def retrieve(self, name: str) -> Schedule:
        """One of them."""
        return self._client.send(schedules.one(name))

    def add(self, name: str, *, cron: str, file: str, dry_run: bool = False, **options: Unpack[ScheduleOptions]) -> Schedule:
        """Let a job recur: at each time that the cron line matches, `file` (below the server's folder of inputs) becomes a
        batch. `{date}` and `{time}` in it are filled in; of a folder, or with wildcards, all that is new is taken."""
        return self._client.send(schedules.add(name, cron, file, options, dry_run=dry_run))

    def remove(self, name: str, *, dry_run: bool = False) -> None:
        """Forget it, with its history; its batches stay."""
        self._client.send(schedules.remove(name, dry_run=dry_run))

    def pause(self, name: str, *, dry_run: bool = False) -> Schedule:
        """Let it make no batches until it is resumed."""
        return self._client.send(schedules.change(name, "pause", dry_run=dry_run))

    def resume(self, name: str, *, dry_run: bool = False) -> Schedule:
        """Let it go on, by your key from then on; the times of the pause are not made up for."""
        return self._client.send(schedules.change(name, "resume", dry_run=dry_run))

    def history(self, name: str, *, limit: int = 20) -> tuple[Release, ...]:
        """What came of it, the newest first."""
        return self._client.send(schedules.history(name, limit))


class AsyncSchedules:
    """`client.schedules`. With `dry_run` nothing is kept: the answer says what would be."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def list(self) -> tuple[Schedule, ...]:
        """Your recurring jobs, by name."""
        return await self._client.send(schedules.every())

    async def retrieve(self, name: str) -> Schedule:
        """One of them."""
        return await self._client.send(schedules.one(name))

    async def add(
        self, name: str, *, cron: str, file: str, dry_run: bool = False, **options: Unpack[ScheduleOptions]
    ) -> Schedule:
        """Let a job recur: at each time that the cron line matches, `file` (below the server's folder of inputs) becomes a
        batch. `{date}` and `{time}` in it are filled in; of a folder, or with wildcards, all that is new is taken."""
        return await self._client.send(schedules.add(name, cron, file, options, dry_run=dry_run))

    async def remove(self, name: str, *, dry_run: bool = False) -> None:
        """Forget it, with its history; its batches stay."""
        await self._client.send(schedules.remove(name, dry_run=dry_run))

    async def pause(self, name: str, *, dry_run: bool = False) -> Schedule:
        """Let it make no batches until it is resumed."""
        return await self._client.send(schedules.change(name, "pause", dry_run=dry_run))

    async def resume(self, name: str, *, dry_run: bool = False) -> Schedule:
        """Let it go on, by your key from then on; the times of the pause are not made up for."""
        return await self._client.send(schedules.change(name, "resume", dry_run=dry_run))

    async def history(self, name: str, *, limit: int = 20) -> tuple[Release, ...]:
        """What came of it, the newest first."""
        return await self._client.send(schedules.history(name, limit))
