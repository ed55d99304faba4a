"""Openings of a window that are to come, with the forecast under them, and how they are skipped, ended and extended."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from batchsched.errors import Conflict, ForecastUnavailable, InvalidValue
from batchsched.fleet import Fleet
from batchsched.forecasts import IntensityForecast, Provider
from batchsched.openings import JUDGED_H, Standing, Stretch
from batchsched.queue.windows import Decided
from batchsched.server.options import deadline_of
from batchsched.server.window_answers import Extend
from batchsched.units import iso, parse_duration_s
from batchsched.windows import joined, starts

log = logging.getLogger(__name__)
_DAY = timedelta(days=1)
FORECAST_AHEAD = timedelta(hours=96)
_NO_END = timedelta(days=64)
"""What follows without a gap for so long is told as without end."""
_FARTHEST = timedelta(days=46 * 365)
"""Ten times 29 February may take so long."""


class Outlook:
    """What is known of the grid now."""

    def __init__(self, provider: Provider, fleet: Fleet, now: datetime) -> None:
        self._provider, self._fleet, self.now = provider, fleet, now
        self.ends_at = now + FORECAST_AHEAD
        self.forecast = cache(self._forecast)

    def zone(self, pool: str) -> str | None:
        """The grid zone of a pool; None where it is not declared."""
        return self._fleet.zone_of(pool) if pool in self._fleet.pools else None

    def _forecast(self, zone: str | None) -> IntensityForecast | None:
        """A zone's, for as far as any plan looks, and as a percentile needs it; None where there is none."""
        until = self.ends_at + JUDGED_H * timedelta(hours=1)
        try:
            return self._provider.forecast(zone, self.now, until) if zone else None
        except Exception as problem:  # windows are shown without it
            if not isinstance(problem, ForecastUnavailable):
                log.exception("The forecast for zone %s failed.", zone)
            return None


def shown(one: Standing, outlook: Outlook, count: int) -> dict[str, Any]:
    """A window as it is answered (window_answers.WindowStatus), with its next openings."""
    now, zone, window = outlook.now, outlook.zone(one.window.pool), one.window
    forecast = outlook.forecast(zone)
    shut = one.shut(forecast, now, outlook.ends_at) if forecast else []
    current = _current(one, now)
    state = "open" if current else "closed"
    if current and any(since <= now < until for since, until in shut):
        state = "shut"
    paused = one.paused(now)
    return {
        "object": "batchsched.window",
        "id": one.name,
        "pool": window.pool,
        "zone": zone,
        "cron": window.cron,
        "duration": window.duration,
        "timezone": window.timezone,
        "share": window.share,
        "max_intensity_g_per_kwh": window.max_intensity_g_per_kwh,
        "only_if_below_forecast_percentile": window.only_if_below_forecast_percentile,
        "origin": "configuration" if one.configured else "table",
        "state": "paused" if paused else state,
        "closes_at": iso(current[1]) if current and current[1] < now + _NO_END else None,
        "paused_until": iso(one.decided.paused_until) if paused and one.decided.paused_until else None,
        "extended": [_stretch(since, until) for since, until in one.decided.extended if until > now],
        "openings": [_opening(one, *each, outlook, forecast, shut) for each in coming(one, now, count)],
    }


def coming(one: Standing, now: datetime, count: int) -> list[tuple[datetime, datetime | None, bool]]:
    """The next openings, the one that is on included, in order: from when, until when (None: without end in sight), and whether
    it is skipped."""
    whole, endless = _whole(one, now, count)
    found: list[tuple[datetime, datetime | None, bool]] = [(*each, False) for each in whole[:count]]
    if endless and len(whole) < count:
        found.append((endless, None, False))
    return sorted([*found, *_skipped(one, now)], key=lambda each: each[0])[:count]


def _whole(one: Standing, now: datetime, count: int) -> tuple[list[Stretch], datetime | None]:
    """At least so many of the next openings, the one that is on included, as far as there are; and since when it is open without
    an end in sight, where it is. None of one that is paused for good."""
    ahead, paused = _DAY, one.paused(now) and one.decided.paused_until is None
    while True:
        found = [] if paused else one.openings(now, now + ahead)
        whole = [each for each in found if each[1] <= now + ahead]
        endless = found[-1] if len(found) > len(whole) else None
        if paused or len(whole) >= count or ahead >= _FARTHEST or (endless and endless[1] - endless[0] >= _NO_END):
            return whole, endless[0] if endless else None
        ahead *= 4


def _skipped(one: Standing, now: datetime) -> list[tuple[datetime, datetime | None, bool]]:
    duration = _duration(one)
    return [(*each, True) for each in joined((at, at + duration) for at in one.decided.skipped) if each[1] > now]


def _duration(one: Standing) -> timedelta:
    return timedelta(seconds=parse_duration_s(one.window.duration))


def _current(one: Standing, now: datetime) -> Stretch | None:
    """The opening that is on, as far as can be seen."""
    return next((each for each in one.openings(now, now + _NO_END) if each[0] <= now), None)


def left_out(one: Standing, now: datetime, count: int) -> Decided:
    """Decided so that the next `count` openings do not come, each with all starts that it is made of. Raises Conflict where there
    are none."""
    if one.paused(now) and one.decided.paused_until is None:
        raise Conflict(f"The window '{one.name}' is paused.", hint="Resume it first: `window resume`.")
    whole, endless = _whole(one, now, count + 1)
    found = [each for each in whole if each[0] > now][:count]
    if not found:
        raise _gapless(one) if endless else Conflict(f"The window '{one.name}' opens no more.")
    away = {at for each in found for at in _starts_of(one, *each)}
    return _tidy(msgspec.structs.replace(one.decided, skipped=one.decided.skipped | away), one, now)


def _starts_of(one: Standing, opens_at: datetime, closes_at: datetime) -> Iterator[datetime]:
    """The starts by its cron line that an opening is made of."""
    duration = _duration(one)
    yield from (at for at in starts(one.window, opens_at - duration, closes_at) if at < closes_at and at + duration > opens_at)


def _gapless(one: Standing) -> Conflict:
    return Conflict(
        f"The openings of the window '{one.name}' follow each other without a gap: none can be left out by itself.",
        hint=f"Pause it for as long as it is to be closed: `window pause {one.name} --until WHEN`.",
    )


def ending(one: Standing, now: datetime) -> Decided:
    """Decided so that the opening that is on ends now. Raises Conflict where none is."""
    if (current := _current(one, now)) is None:
        raise Conflict(f"The window '{one.name}' is not open now.", hint="Without `current` its next opening is skipped.")
    if current[1] >= now + _NO_END:
        raise _gapless(one)
    away = {at for at in _starts_of(one, now, current[1]) if at not in one.decided.skipped}
    extended = tuple((since, min(until, now)) for since, until in one.decided.extended)
    return _tidy(msgspec.structs.replace(one.decided, skipped=one.decided.skipped | away, extended=extended), one, now)


def further(one: Standing, now: datetime, asked: Extend) -> Decided:
    """Decided so that it stays open from now on. Raises InvalidValue, Conflict."""
    if one.paused(now):
        raise Conflict(f"The window '{one.name}' is paused.", hint="Resume it first: `window resume`.")
    current = _current(one, now)
    closes_at = current[1] if current else now
    if asked.until is not None:
        until = deadline_of(asked.until, now, "until")
    else:
        try:
            until = closes_at + timedelta(seconds=parse_duration_s(asked.by or ""))
        except InvalidValue as problem:
            raise InvalidValue(problem.message, param="by") from None
    if until <= closes_at:
        raise Conflict(f"The window '{one.name}' is open until {closes_at:%d %b %H:%M UTC} anyway.")
    extended = (*one.decided.extended, (now, until))
    return _tidy(msgspec.structs.replace(one.decided, extended=extended), one, now)


def _tidy(decided: Decided, one: Standing, now: datetime) -> Decided:
    """Without what lies behind."""
    duration = _duration(one)
    return msgspec.structs.replace(
        decided,
        skipped=frozenset(at for at in decided.skipped if at + duration > now),
        extended=tuple((since, until) for since, until in decided.extended if until > now and since < until),
    )


def _opening(
    one: Standing,
    opens_at: datetime,
    closes_at: datetime | None,
    skipped: bool,
    outlook: Outlook,
    forecast: IntensityForecast | None,
    shut: list[Stretch],
) -> dict[str, Any]:
    zone = ZoneInfo(one.window.timezone)
    until = closes_at or outlook.ends_at
    inside = [(max(since, opens_at), min(end, until)) for since, end in shut if since < until and end > opens_at]
    reached = forecast is not None and closes_at is not None and closes_at <= outlook.ends_at
    return {
        "opens_at": iso(opens_at),
        "closes_at": iso(closes_at) if closes_at else None,
        "opens_local": opens_at.astimezone(zone).isoformat(),
        "closes_local": closes_at.astimezone(zone).isoformat() if closes_at else None,
        "skipped": skipped,
        "intensity_g_per_kwh": forecast.mean_over(max(opens_at, outlook.now), until) if forecast and reached else None,
        "shut": [] if skipped else [_stretch(since, end) for since, end in inside],
    }


def _stretch(since: datetime, until: datetime) -> dict[str, str]:
    return {"since": iso(since), "until": iso(until)}
