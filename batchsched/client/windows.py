"""Windows of pools: typed results, and the calls that make and change them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, TypedDict
from urllib.parse import quote

import msgspec

from batchsched.client.calls import Call, asked, listed, only_seen, whole
from batchsched.paths import PREFIX

_ROUTE = f"{PREFIX}/windows"


class Stretch(msgspec.Struct, frozen=True):
    """A stretch of time."""

    since: datetime
    until: datetime


class Opening(msgspec.Struct, frozen=True):
    """One time that a window opens. `closes_at`: None where openings follow each other without end; `opens_local` and
    `closes_local`: on the window's own clock; `skipped`: an operator left it out; `intensity_g_per_kwh`: the mean of the grid's
    forecast, None where that does not reach; `shut`: when it is shut for the forecast's sake."""

    opens_at: datetime
    opens_local: str
    closes_at: datetime | None = None
    closes_local: str | None = None
    skipped: bool = False
    intensity_g_per_kwh: float | None = None
    shut: tuple[Stretch, ...] = ()


class Window(msgspec.Struct, frozen=True):
    """A window of a pool. `state`: open, closed, paused, or shut where the forecast is above what it allows; `origin`: whether
    the configuration declares it or the server's table."""

    id: str
    pool: str
    cron: str
    duration: str
    timezone: str
    state: str
    origin: str = "table"
    zone: str | None = None
    share: float = 1.0
    max_intensity_g_per_kwh: float | None = None
    only_if_below_forecast_percentile: float | None = None
    closes_at: datetime | None = None
    """When the opening that is on ends."""
    paused_until: datetime | None = None
    extended: tuple[Stretch, ...] = ()
    openings: tuple[Opening, ...] = ()
    """The next ones."""
    everything: dict[str, Any] = {}
    """The server's answer as it came."""


class WindowOptions(TypedDict, total=False):
    """What may be said about a window beside its cron line; all of it optional.

    `timezone`: IANA name of the zone of its clock (default UTC). `share`: the part of the pool's replicas that it opens.
    `max_intensity_g_per_kwh`: it is shut while the grid's forecast is above that. `only_if_below_forecast_percentile`: it is shut
    while the forecast is above that percentile of its next 24 hours.
    """

    timezone: str | None
    share: float | None
    max_intensity_g_per_kwh: float | None
    only_if_below_forecast_percentile: float | None


def every() -> Call[tuple[Window, ...]]:
    return Call("GET", _ROUTE, listed(Window))


def one(name: str, openings: int) -> Call[Window]:
    return Call("GET", _path(name), whole(Window), {"params": {"openings": str(openings)}})


def add(name: str, pool: str, cron: str, duration: str, options: WindowOptions, *, dry_run: bool) -> Call[Window]:
    body = asked(name=name, pool=pool, cron=cron, duration=duration, **options)
    return Call("POST", _ROUTE, whole(Window), {"json": body, **only_seen(dry_run)})


def remove(name: str, *, dry_run: bool) -> Call[None]:
    return Call("DELETE", _path(name), lambda _: None, only_seen(dry_run))


def change(name: str, how: str, *, dry_run: bool, **values: Any) -> Call[Window]:
    """`how`: pause, resume, skip or extend."""
    return Call("POST", f"{_path(name)}/{how}", whole(Window), {"json": asked(**values), **only_seen(dry_run)})


def _path(name: str) -> str:
    return f"{_ROUTE}/{quote(name, safe='')}"
