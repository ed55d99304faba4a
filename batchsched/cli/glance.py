"""What `batchsched top` looks at: pools, windows, batches and the grid, as they stand at one moment."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from batchsched.client.forecasts import ForecastSlot
from batchsched.client.plans import PoolStatus, Shifting
from batchsched.client.results import Batch
from batchsched.client.windows import Window
from batchsched.errors import ForecastUnavailable, NotFound, PermissionDenied

if TYPE_CHECKING:
    from batchsched.client import Client

AHEAD_H = 24
"""How far the grid is looked ahead, in hours."""
LOOKED_THROUGH = 300
"""Batches, the newest first, among which those that have not ended are looked for."""
ENDED = 5
"""Of those that have ended so many are shown."""
FORECAST_KEPT = timedelta(minutes=5)
"""Forecasts change with the hour, and cost a server more than all else here: each is asked for so often at most."""


class GridNow(msgspec.Struct, frozen=True):
    """A zone's intensity in g/kWh: now, and the slots of the next day. `problem`: why nothing is known."""

    zone: str
    now_g_per_kwh: float | None = None
    slots: tuple[ForecastSlot, ...] = ()
    problem: str | None = None


class Glance(msgspec.Struct, frozen=True):
    """All of it. `hidden`: what the key in use may not see."""

    at: datetime
    server: str
    frozen: Shifting = Shifting()
    grid: tuple[GridNow, ...] = ()
    pools: tuple[PoolStatus, ...] = ()
    windows: tuple[Window, ...] = ()
    batches: tuple[Batch, ...] = ()
    """Those that have not ended, the nearest deadline first, then a few that ended last."""
    hidden: tuple[str, ...] = ()


class Looking:
    """Looks again and again, and asks for what seldom changes seldom."""

    def __init__(self, client: Client, server: str, now: Callable[[], datetime]) -> None:
        self._client, self._server, self._now = client, server, now
        self._grid: dict[str, tuple[datetime, tuple[ForecastSlot, ...], str | None]] = {}

    def __call__(self) -> Glance:
        """How things stand. Raises BatchschedError, such as ServerUnreachable."""
        at = self._now()
        hidden: list[str] = []
        batches = _shown(list(itertools.islice(self._client.batches.list(), LOOKED_THROUGH)))
        try:
            pools, windows = self._client.pools.list(), self._client.windows.list()
            frozen = Shifting(self._client.plan().frozen)
        except PermissionDenied:
            hidden.append("pools, windows and the plan: they need a key with the scope `operate`")
            pools, windows, frozen = (), (), Shifting()
        zones = {pool.zone for pool in pools} or {feed.zone for feed in self._client.forecasts.list()}
        grid = tuple(self._of(zone, at) for zone in sorted(zones))
        return Glance(at, self._server, frozen, grid, pools, windows, batches, tuple(hidden))

    def _of(self, zone: str, at: datetime) -> GridNow:
        asked_at, slots, problem = self._grid.get(zone, (None, (), None))
        if asked_at is None or at - asked_at >= FORECAST_KEPT:
            try:
                slots, problem = self._client.forecasts.retrieve(zone, hours=AHEAD_H).slots, None
            except (ForecastUnavailable, NotFound) as fault:
                slots, problem = (), fault.message
            self._grid[zone] = (at, slots, problem)
        ahead = tuple(slot for slot in slots if slot.end > at)
        here = next((slot.mean_g_per_kwh for slot in ahead if slot.start <= at), None)
        return GridNow(zone, here, ahead, problem)


def _shown(found: list[Batch]) -> tuple[Batch, ...]:
    live = sorted((one for one in found if not one.done), key=lambda one: (one.expires_at or 0, one.id))
    return (*live, *[one for one in found if one.done][:ENDED])
