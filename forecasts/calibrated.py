"""Calibrators at work on forecasts as providers give them: slots of any length in, the same slots with quantiles out."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import msgspec
import numpy as np

from batchsched.forecasts.calibration import LEADS_H, Calibrator
from batchsched.forecasts.evaluation import Array
from batchsched.forecasts.port import ForecastSlot, IntensityForecast, Realised, mean_realised

_HOUR = timedelta(hours=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def with_quantiles(forecast: IntensityForecast, calibrator: Calibrator) -> IntensityForecast:
    """The forecast with the zone's calibrated quantiles, remembered to learn from. Past 96 h the spread stays unknown."""
    hour = (forecast.issued_at - _EPOCH) // _HOUR
    start = _EPOCH + hour * _HOUR
    edges = [forecast.issued_at, *(start + n * _HOUR for n in range(1, LEADS_H + 1))]
    points = np.array([_known(forecast.mean_over(since, to)) for since, to in pairwise(edges)])
    shares = calibrator.issue(hour, points) / points[:, None]
    return msgspec.structs.replace(forecast, slots=tuple(_widened(slot, start, shares) for slot in forecast.slots))


def learn(calibrator: Calibrator, values: Iterable[Realised], now: datetime) -> None:
    """Let the zone's calibrator learn from what had come true by `now`; hours that are known in part only are left out."""
    known = [value for value in values if value.end <= now]
    if not known:
        return
    first = (known[0].start - _EPOCH) // _HOUR
    hours = (known[-1].end - _EPOCH) // _HOUR - first
    of_hour: list[list[Realised]] = [[] for _ in range(hours + 1)]
    for value in known:
        for hour in range((value.start - _EPOCH) // _HOUR - first, (value.end - _EPOCH) // _HOUR - first + 1):
            of_hour[hour].append(value)
    means = (mean_realised(of_hour[n], *_span(first + n)) for n in range(hours))
    calibrator.learn(first, np.array([_known(mean if share > 1 - 1e-9 else None) for mean, share in means]))


def _span(hour: int) -> tuple[datetime, datetime]:
    return _EPOCH + hour * _HOUR, _EPOCH + (hour + 1) * _HOUR


def _known(mean: float | None) -> float:
    return float("nan") if mean is None else mean


def _widened(slot: ForecastSlot, start: datetime, shares: Array) -> ForecastSlot:
    lead = (slot.start + (slot.end - slot.start) / 2 - start) // _HOUR
    if slot.mean_g_per_kwh is None or not 0 <= lead < LEADS_H or not np.isfinite(shares[lead]).all():
        return msgspec.structs.replace(slot, quantiles=None)
    return msgspec.structs.replace(slot, quantiles=tuple(float(share) * slot.mean_g_per_kwh for share in shares[lead]))
