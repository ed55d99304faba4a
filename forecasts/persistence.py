"""The plainest forecast that a zone's own history gives: the last known day, half and half with the same hour of the last week.

It is the yardstick that a feed must beat to be trusted, and what stands in for a feed that is not. Hours are counted from the
epoch, so that history is a plain table of hour and mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta

from batchsched.forecasts.port import ForecastSlot, IntensityForecast, Realised, known, licences
from batchsched.units import start_of_hour

PERSISTENCE = "persistence"
_HOUR_S = 3600
_DAY_H = 24
_WEEK = 7
_WHOLE = 0.999
Piece = tuple[datetime, datetime, float | None]


def hour_of(at: datetime) -> int:
    """The hour that holds an instant, counted from the epoch."""
    return int(at.timestamp() // _HOUR_S)


def instant_of(hour: int) -> datetime:
    """When an hour begins."""
    return datetime.fromtimestamp(hour * _HOUR_S, UTC)


def hourly(pieces: Iterable[Piece]) -> dict[int, float]:
    """The mean of each hour that is known whole, from slots of any length that do not overlap."""
    whole: dict[int, float] = {}
    sums: dict[int, list[float]] = {}
    for start, end, value in pieces:
        if value is None:
            continue
        since, until = start.timestamp() / _HOUR_S, end.timestamp() / _HOUR_S
        hour = int(since)
        if since == hour and until == hour + 1:
            whole[hour] = value
            continue
        while hour < until:
            share = min(until, hour + 1) - max(since, hour)
            total = sums.setdefault(hour, [0.0, 0.0])
            total[0] += share * value
            total[1] += share
            hour += 1
    return whole | {hour: total / share for hour, (total, share) in sums.items() if share > _WHOLE}


def hours_of(forecast: IntensityForecast) -> dict[int, float]:
    """A forecast's means by hour."""
    return hourly((slot.start, slot.end, known(slot.mean_g_per_kwh)) for slot in forecast.slots)


def truth_of(values: Iterable[Realised], now: datetime) -> dict[int, float]:
    """What came true by `now`, by hour."""
    return hourly((value.start, value.end, value.intensity_g_per_kwh) for value in values if value.end <= now)


def expected(truth: Mapping[int, float], known_to: int, hour: int) -> float | None:
    """The value to expect in `hour` from what was true in the hours before `known_to`; None where a week of them is unknown."""
    days_ahead = max(hour - known_to, 0) // _DAY_H + 1
    found = [truth[same] for day in range(_WEEK) if (same := hour - _DAY_H * (days_ahead + day)) in truth]
    return (found[0] + sum(found) / len(found)) / 2 if found else None


def persisted(zone: str, values: Iterable[Realised], now: datetime, until: datetime) -> IntensityForecast | None:
    """The hours from `now` to `until` as `expected` has them; None where nothing is known. Quantiles: not known."""
    past = sorted((value for value in values if value.end <= now), key=lambda value: value.end)
    truth = truth_of(past, now)
    if not truth:
        return None
    known_to = max(truth) + 1
    slots: list[ForecastSlot] = []
    start = start_of_hour(now.astimezone(UTC))
    while start < until:
        end = start + timedelta(hours=1)
        if (mean := expected(truth, known_to, hour_of(start))) is not None:
            slots.append(ForecastSlot(start, end, mean))
        start = end
    if not slots:
        return None
    return IntensityForecast(zone, past[-1].end, PERSISTENCE, past[-1].signal, tuple(slots), licences(past))
