"""Forecasts of carbon intensity as the server knows them: typed results, and the calls that fetch them.

Intensities are gCO2e per kWh, None where unknown; times are aware UTC.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import PurePath
from typing import Any, TypedDict
from urllib.parse import quote

import msgspec

from batchsched.client.calls import Call, PlotFormat, asked, typed
from batchsched.paths import PREFIX


class ForecastFeed(msgspec.Struct, frozen=True):
    """Who says what about a zone, and how far the archive has it."""

    zone: str
    provider: str
    signal: str
    newest_issue_at: datetime | None = None
    realised_until: datetime | None = None


class ForecastSlot(msgspec.Struct, frozen=True):
    """One step; `quantiles` belong to the forecast's `levels`."""

    start: datetime
    end: datetime
    mean_g_per_kwh: float | None = None
    quantiles: tuple[float, ...] | None = None


class Measurement(msgspec.Struct, frozen=True):
    """What came true over [start, end); `estimated`: the provider says that it was not measured."""

    start: datetime
    end: datetime
    intensity_g_per_kwh: float
    provider: str = ""
    estimated: bool = False
    licence: str = ""


class Forecast(msgspec.Struct, frozen=True):
    """What was known about a zone at `as_of`: the forecast, and the day that lay behind.

    `received_at`: when it came, where one provider or signal of the archive was asked for. `note`: what was corrected.
    """

    zone: str
    as_of: datetime
    issued_at: datetime
    provider: str
    signal: str
    received_at: datetime | None = None
    licence: str = ""
    continued_by: str | None = None
    continued_from: datetime | None = None
    note: str = ""
    levels: tuple[float, ...] = ()
    slots: tuple[ForecastSlot, ...] = ()
    realised: tuple[Measurement, ...] = ()


class Imported(msgspec.Struct, frozen=True):
    """What of a file was new: forecasts, measured intensities, slots of generation, weather runs. `signal`: "" of weather."""

    provider: str
    signal: str
    zones: tuple[str, ...]
    forecasts: int
    measurements: int
    generation: int = 0
    weather: int = 0


class Backfilled(msgspec.Struct, frozen=True):
    """What one source gave of a span that lies behind: values received, how many were news, and why where it gave none."""

    source: str
    received: int
    added: int
    problem: str = ""


class Trained(msgspec.Struct, frozen=True):
    """What came of training. `known_h`: hours of the span that were known.

    `mape` (a fraction) and `skill` (1 - mape / naive's) are of four-day forecasts for the weeks from `held_out_from` on, by a
    model that had not seen them; None where there is too little history to hold any out.
    """

    zone: str
    signal: str
    model: str
    trained_from: datetime
    trained_until: datetime
    known_h: int = 0
    seconds: float = 0.0
    held_out_from: datetime | None = None
    mape: float | None = None
    skill: float | None = None


class Skill(msgspec.Struct, frozen=True):
    """One provider's forecasts of hours that lay [from_h, to_h) ahead, of which `hours` are compared; None: cannot be said.

    `mape`, `naive_mape`, `coverage90` and `width90` are fractions; `skill` is 1 - mape / naive_mape, naive being the same hour
    of the last known day. `pinball_g` is the mean loss over the quantiles, g/kWh. `captured` is the share of the saving of
    perfect foresight that 6 h jobs in windows of `to_h` hours would have had, planned anew each hour on what was there by then.

    The provider "as served" is what plans rested on at `issues` instants; `served_by` says who served how many of them.
    """

    zone: str
    provider: str
    signal: str
    issues: int
    from_h: int
    to_h: int
    hours: int
    mape: float | None = None
    naive_mape: float | None = None
    skill: float | None = None
    pinball_g: float | None = None
    coverage90: float | None = None
    width90: float | None = None
    captured: float | None = None
    served_by: str = ""


class Which(TypedDict, total=False):
    """Which forecast. `as_of`: as it was known then (default: now). `hours`: how far it is shown (default: 96).

    Without `provider` and `signal` it is the one that plans rest on; with one of them, the archive's newest of that kind.
    """

    as_of: datetime | str | None
    hours: int | None
    provider: str | None
    signal: str | None


class _Backfill(msgspec.Struct, frozen=True):
    data: tuple[Backfilled, ...]


class _Skills(msgspec.Struct, frozen=True):
    data: tuple[Skill, ...]


class _Feeds(msgspec.Struct, frozen=True):
    data: tuple[ForecastFeed, ...]


def feeds() -> Call[tuple[ForecastFeed, ...]]:
    """All that is known."""
    decode = typed(_Feeds)
    return Call("GET", f"{PREFIX}/forecasts", lambda content: decode(content).data)


def forecast(zone: str, which: Which) -> Call[Forecast]:
    """One forecast."""
    return Call("GET", f"{PREFIX}/forecasts/{quote(zone, safe='')}", typed(Forecast), {"params": asked(**which)})


def backfill(zone: str, start: datetime | str, end: datetime | str | None) -> Call[tuple[Backfilled, ...]]:
    """A span of what came true."""
    decode = typed(_Backfill)
    body = asked(start=start, end=end)
    path = f"{PREFIX}/forecasts/{quote(zone, safe='')}/backfill"
    return Call("POST", path, lambda content: decode(content).data, {"json": body})


def forecast_plot(zone: str, image_format: PlotFormat, which: Which) -> Call[bytes]:
    """A picture of it."""
    params = {**asked(**which), "format": image_format}
    return Call("GET", f"{PREFIX}/forecasts/{quote(zone, safe='')}/plot", bytes, {"params": params})


def import_file(path: PurePath, stream: Any, provider: str | None, signal: str | None) -> Call[Imported]:
    """`stream`: the open file."""
    files = {"file": (path.name, stream, "application/octet-stream")}
    options = {"data": asked(provider=provider, signal=signal), "files": files}
    return Call("POST", f"{PREFIX}/forecasts/import", typed(Imported), options)


def train(zone: str) -> Call[Trained]:
    """Training of a zone."""
    return Call("POST", f"{PREFIX}/forecasts/{quote(zone, safe='')}/train", typed(Trained))


def evaluate(zone: str, start: datetime | str | None, end: datetime | str | None) -> Call[tuple[Skill, ...]]:
    """How good forecasts were."""
    decode = typed(_Skills)
    path = f"{PREFIX}/forecasts/{quote(zone, safe='')}/evaluation"
    return Call("GET", path, lambda content: decode(content).data, {"params": asked(start=start, end=end)})


def evaluation_plot(zone: str, image_format: PlotFormat, start: datetime | str | None, end: datetime | str | None) -> Call[bytes]:
    """A picture of that."""
    params = {**asked(start=start, end=end), "format": image_format}
    return Call("GET", f"{PREFIX}/forecasts/{quote(zone, safe='')}/evaluation/plot", bytes, {"params": params})
