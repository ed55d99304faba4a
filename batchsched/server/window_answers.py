"""What the routes about windows give and take, as types."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from batchsched.errors import InvalidConfiguration, InvalidValue
from batchsched.fleet import WINDOW_NAME, PoolWindow, Window
from batchsched.windows import check


class _Exact(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """An object of which every field is named."""


class NewWindow(PoolWindow, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A window that is to be."""

    name: Annotated[str, Meta(pattern=f"^{WINDOW_NAME}$", description="By which it is known from then on")]


class Pause(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Until when it opens nothing: a duration, or an instant; until it is resumed where it is left out."""

    until: str | None = None


class Skip(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many of the openings to come are left out; with `current` the one that is open now ends, and no other."""

    count: Annotated[int, Meta(ge=1, le=100)] = 1
    current: bool = False


class Extend(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Until when it stays open from now on (a duration from now, or an instant), or by how much longer than it would. One of
    the two."""

    until: str | None = None
    by: str | None = None


class Stretch(_Exact):
    """A stretch of time."""

    since: datetime
    until: datetime


class Opening(_Exact):
    """One time that a window opens: in UTC and on its own clock; `closes_at` is null where openings follow each other without
    end. `skipped`: an operator left it out. `intensity_g_per_kwh`: the mean of the grid's forecast, null where that does not
    reach; `shut`: when it is shut for the forecast's sake."""

    opens_at: datetime
    closes_at: datetime | None
    opens_local: str
    closes_local: str | None
    skipped: bool
    intensity_g_per_kwh: float | None
    shut: list[Stretch]


class WindowStatus(_Exact):
    """A window, and how it stands: `shut` is it where its cron line has it open and the forecast is above what it allows.
    `origin` says where it is declared; `zone` is null where its pool is declared no more. `closes_at`: when the opening ends
    that is on. Of `openings` the next ones."""

    object: Literal["batchsched.window"]
    id: str
    pool: str
    zone: str | None
    cron: str
    duration: str
    timezone: str
    share: float
    max_intensity_g_per_kwh: float | None
    only_if_below_forecast_percentile: float | None
    origin: Literal["configuration", "table"]
    state: Literal["open", "closed", "shut", "paused"]
    closes_at: datetime | None
    paused_until: datetime | None
    extended: list[Stretch]
    openings: list[Opening]


class WindowList(_Exact):
    """All of them."""

    object: Literal["list"]
    data: list[WindowStatus]


def check_window(window: Window) -> None:
    """Raises InvalidValue where it cannot be read, or never opens."""
    if wrong := window.complaint:
        raise InvalidValue(wrong[1], param=wrong[0])
    try:
        check(window)
    except InvalidConfiguration as problem:
        raise InvalidValue(problem.message, param="cron") from None
