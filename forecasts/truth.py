"""What is known by now about hours that lie behind: measured, else as it was forecast, and which of the two it is."""

from __future__ import annotations

from datetime import datetime

import msgspec

from batchsched.errors import ForecastUnavailable
from batchsched.forecasts.port import Provider, Realised, Signal, describe, mean_realised, weighted_mean


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
    if share > 1 - 1e-9:
        return Known(mean, f"realised, {' and '.join(sorted({value.provider for value in measured}))}", signal)
    try:
        forecast = provider.forecast(zone, min(start, now), end)
    except ForecastUnavailable as problem:
        return Known(None, problem.message, signal)
    pieces = [(value.start, value.end, value.intensity_g_per_kwh) for value in measured]
    filled = pieces + [(since, to, forecast.mean_over(since, to)) for since, to in _gaps(measured, start, end)]
    mean, known_share = weighted_mean(filled, start, end)
    source = f"{describe(forecast)}, " + (f"measured for {share:.0%} of the time" if share else "no measurement yet")
    return Known(mean if known_share > 1 - 1e-9 else None, source, forecast.signal)


def _gaps(measured: list[Realised], start: datetime, end: datetime) -> list[tuple[datetime, datetime]]:
    edges = [start, *(edge for value in measured for edge in (value.start, value.end)), end]
    return [(since, to) for since, to in zip(edges[::2], edges[1::2], strict=True) if since < to]
