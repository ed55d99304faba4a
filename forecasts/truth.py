"""What is known by now about hours that lie behind: measured, else as it was forecast, and which of the two it is."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from datetime import UTC, datetime, timedelta

import msgspec

from batchsched.errors import ForecastUnavailable
from batchsched.forecasts.port import Provider, Realised, Signal, describe, mean_realised, weighted_mean

STEP = timedelta(minutes=5)
"""No grid reports finer."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_WHOLE = 1 - 1e-9


class Known(msgspec.Struct, frozen=True):
    """The mean over a span, None where it is unknown, and in words where it comes from."""

    mean_g_per_kwh: float | None
    source: str
    signal: Signal


def best_known(provider: Provider, zone: str, start: datetime, end: datetime, now: datetime) -> Known:
    """What came true in [start, end); parts without a measurement are filled in from the forecast that held at `start`.

    Raises ForecastUnavailable only for a zone that the provider does not know.
    """
    signal = provider.signal_of(zone)
    measured = provider.realised(zone, start, end, now)
    mean, share = mean_realised(measured, start, end)
    if share > _WHOLE:
        return _realised(mean, measured, signal)
    try:
        forecast = provider.forecast(zone, min(start, now), end)
    except ForecastUnavailable as problem:
        return Known(None, problem.message, signal)
    pieces = [(value.start, value.end, value.intensity_g_per_kwh) for value in measured]
    filled = pieces + [(since, to, forecast.mean_over(since, to)) for since, to in _gaps(measured, start, end)]
    mean, known_share = weighted_mean(filled, start, end)
    source = f"{describe(forecast)}, " + (f"measured for {share:.0%} of the time" if share else "no measurement yet")
    return Known(mean if known_share > _WHOLE else None, source, forecast.signal)


class Hindsight:
    """`best_known` of many spans after one instant, which asks for each zone's measurements once.

    Where those leave a gap, a span counts as the five-minute steps that it touches: the forecasts that held then are few.
    """

    def __init__(self, provider: Provider, since: datetime, now: datetime) -> None:
        self._provider = provider
        self._since = since
        self._now = now
        self._measured: dict[str, list[Realised]] = {}
        self._filled: dict[tuple[str, datetime, datetime], Known] = {}

    def known(self, zone: str, start: datetime, end: datetime) -> Known:
        """What came true in [start, end). Raises ForecastUnavailable as `best_known` does."""
        if zone not in self._measured:
            self._measured[zone] = self._provider.realised(zone, self._since, self._now, self._now)
        measured = self._measured[zone]
        first = bisect_right(measured, start, key=_end)
        touched = measured[first : bisect_left(measured, end, lo=first, key=_start)]
        mean, share = mean_realised(touched, start, end)
        if share > _WHOLE and start >= self._since:
            return _realised(mean, touched, self._provider.signal_of(zone))
        key = (zone, start - (start - _EPOCH) % STEP, end + (_EPOCH - end) % STEP)
        if key not in self._filled:
            self._filled[key] = best_known(self._provider, *key, self._now)
        return self._filled[key]


def _start(value: Realised) -> datetime:
    return value.start


def _end(value: Realised) -> datetime:
    return value.end


def _realised(mean: float | None, measured: list[Realised], signal: Signal) -> Known:
    return Known(mean, f"realised, {' and '.join(sorted({value.provider for value in measured}))}", signal)


def _gaps(measured: list[Realised], start: datetime, end: datetime) -> list[tuple[datetime, datetime]]:
    edges = [start, *(edge for value in measured for edge in (value.start, value.end)), end]
    return [(since, to) for since, to in zip(edges[::2], edges[1::2], strict=True) if since < to]
