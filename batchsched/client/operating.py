"""`client.plans` and `client.pools`, blocking and not."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Unpack

from batchsched.client import plans
from batchsched.client.calls import PlotFormat
from batchsched.client.plans import PoolStatus, Question, Replayed, Shifting, WhatIf

if TYPE_CHECKING:
    from batchsched.client.asynchronous import AsyncClient
    from batchsched.client.blocking import Client


class Plans:
    """`client.plans`. With `dry_run` nothing changes: the answer says what would be."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def plot(self, image_format: PlotFormat = "png") -> bytes:
        """An image of the plan in force: pools by time, over intensity with its band."""
        return self._client.send(plans.plot(image_format))

    def what_if(self, **question: Unpack[Question]) -> WhatIf:
        """What would be, were something another: grams by prices and by solving again, and who would be late. Nothing changes."""
        return self._client.send(plans.what_if(question))

    def replay(self, at: datetime | str | None = None, *, number: int | None = None) -> Replayed:
        """The plan that was in force at an instant, or of that number (the last where neither is given), made again."""
        return self._client.send(plans.replay(at, number))

    def freeze(self, until: str | datetime | None = None, *, dry_run: bool = False) -> Shifting:
        """Shift nothing more: work starts at once where there is room, the earliest deadline first."""
        return self._client.send(plans.freeze(until, dry_run=dry_run))

    def unfreeze(self, *, dry_run: bool = False) -> Shifting:
        """Shift again."""
        return self._client.send(plans.unfreeze(dry_run=dry_run))


class Pools:
    """`client.pools`. With `dry_run` nothing changes: the answer says what would be."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def list(self) -> tuple[PoolStatus, ...]:
        """The pools, and how each stands."""
        return self._client.send(plans.pools())

    def cordon(
        self, pool: str, *, since: str | datetime | None = None, until: str | datetime | None = None, dry_run: bool = False
    ) -> PoolStatus:
        """Lease nothing new to it and plan nothing there; what runs goes on. From now on and until it is opened, if not said."""
        return self._client.send(plans.close_pool(pool, "cordon", since, until, dry_run=dry_run))

    def drain(
        self, pool: str, *, since: str | datetime | None = None, until: str | datetime | None = None, dry_run: bool = False
    ) -> PoolStatus:
        """Cordon it, and have what runs given back unfinished."""
        return self._client.send(plans.close_pool(pool, "drain", since, until, dry_run=dry_run))

    def open(self, pool: str, *, dry_run: bool = False) -> PoolStatus:
        """Let it work again."""
        return self._client.send(plans.open_pool(pool, dry_run=dry_run))


class AsyncPlans:
    """`client.plans`. With `dry_run` nothing changes: the answer says what would be."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def plot(self, image_format: PlotFormat = "png") -> bytes:
        """An image of the plan in force: pools by time, over intensity with its band."""
        return await self._client.send(plans.plot(image_format))

    async def what_if(self, **question: Unpack[Question]) -> WhatIf:
        """What would be, were something another: grams by prices and by solving again, and who would be late. Nothing changes."""
        return await self._client.send(plans.what_if(question))

    async def replay(self, at: datetime | str | None = None, *, number: int | None = None) -> Replayed:
        """The plan that was in force at an instant, or of that number (the last where neither is given), made again."""
        return await self._client.send(plans.replay(at, number))

    async def freeze(self, until: str | datetime | None = None, *, dry_run: bool = False) -> Shifting:
        """Shift nothing more: work starts at once where there is room, the earliest deadline first."""
        return await self._client.send(plans.freeze(until, dry_run=dry_run))

    async def unfreeze(self, *, dry_run: bool = False) -> Shifting:
        """Shift again."""
        return await self._client.send(plans.unfreeze(dry_run=dry_run))


class AsyncPools:
    """`client.pools`. With `dry_run` nothing changes: the answer says what would be."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def list(self) -> tuple[PoolStatus, ...]:
        """The pools, and how each stands."""
        return await self._client.send(plans.pools())

    async def cordon(
        self, pool: str, *, since: str | datetime | None = None, until: str | datetime | None = None, dry_run: bool = False
    ) -> PoolStatus:
        """Lease nothing new to it and plan nothing there; what runs goes on. From now on and until it is opened, if not said."""
        return await self._client.send(plans.close_pool(pool, "cordon", since, until, dry_run=dry_run))

    async def drain(
        self, pool: str, *, since: str | datetime | None = None, until: str | datetime | None = None, dry_run: bool = False
    ) -> PoolStatus:
        """Cordon it, and have what runs given back unfinished."""
        return await self._client.send(plans.close_pool(pool, "drain", since, until, dry_run=dry_run))

    async def open(self, pool: str, *, dry_run: bool = False) -> PoolStatus:
        """Let it work again."""
        return await self._client.send(plans.open_pool(pool, dry_run=dry_run))
