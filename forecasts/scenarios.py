"""Futures that may come true together: drawn over zones and hours at once, as forecasts have erred together before.

Each zone and lead keeps its own calibrated quantiles. Which of them come together is copied from days of the past (the Schaake
shuffle): a scenario takes one past issue, and gives every hour of every zone the quantile whose rank that issue's error had there
among all of them. So a day that turned out cleaner from noon on, in two neighbours at once, stays such a day.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

import numpy as np
from numpy.typing import NDArray

from batchsched.forecasts.calibration import LEADS_H, Calibrator
from batchsched.forecasts.evaluation import Array
from batchsched.forecasts.port import QUANTILES, IntensityForecast
from batchsched.units import start_of_hour

LEAST = 10  # fewer past issues than these say nothing about what goes together: then all hours of all zones rise and fall as one
TOGETHER_H = 6  # issues of two zones this close count as one
KNOWN_SHARE = 0.9  # of the hours of a past issue; the rest is filled in from the hours beside them
_LEVELS = np.array(QUANTILES)


def scenarios(
    forecasts: Mapping[str, IntensityForecast], calibrators: Mapping[str, Calibrator], count: int, seed: int
) -> dict[str, Array]:
    """For each zone [count, slots], g/kWh: row n of all zones is one future. NaN for a slot without quantiles.

    The same forecasts, calibrators and seed give the same futures.
    """
    ranks = shuffled(past_errors(calibrators), count, np.random.default_rng(seed))
    hour = timedelta(hours=1)
    found: dict[str, Array] = {}
    for zone, forecast in forecasts.items():
        issued = start_of_hour(forecast.issued_at)
        leads = [(slot.start + (slot.end - slot.start) / 2 - issued) // hour for slot in forecast.slots]
        bands = np.array([slot.quantiles or [np.nan] * len(QUANTILES) for slot in forecast.slots])
        found[zone] = at_ranks(bands, ranks[zone][:, np.clip(leads, 0, LEADS_H - 1)])
    return found


def past_errors(calibrators: Mapping[str, Calibrator]) -> dict[str, Array]:
    """The errors of the issues that all zones share and that have come true, [issues, 96], relative to their size at the time."""
    of_zone = {zone: _matured(calibrator) for zone, calibrator in calibrators.items()}
    hours = min((hours for hours, _ in of_zone.values()), key=len, default=np.empty(0))
    nearest = {zone: _nearest(own, hours) for zone, (own, _) in of_zone.items()}
    shared = np.all([found >= 0 for found in nearest.values()], axis=0)
    return {zone: of_zone[zone][1][nearest[zone][shared]] for zone in of_zone}


def _matured(calibrator: Calibrator) -> tuple[Array, Array]:
    kept = [issue for issue in calibrator.issues if np.isfinite(issue.errors).mean() >= KNOWN_SHARE]
    leads = np.arange(LEADS_H)
    rows = [np.interp(leads, leads[known := np.isfinite(issue.errors)], issue.errors[known] / issue.scale) for issue in kept]
    return np.array([issue.hour for issue in kept], float), np.array(rows).reshape(-1, LEADS_H)


def _nearest(own: Array, hours: Array) -> NDArray[np.int64]:
    """For each of `hours` the place of the closest of `own`, -1 where none is close."""
    if not own.size or not hours.size:
        return np.full(hours.shape, -1, np.int64)
    gaps = np.abs(own[None, :] - hours[:, None])
    places: NDArray[np.int64] = np.where(gaps.min(axis=1) <= TOGETHER_H, gaps.argmin(axis=1), -1)
    return places


def shuffled(errors: Mapping[str, Array], count: int, rng: np.random.Generator) -> dict[str, Array]:
    """For each zone [count, leads]: ranks between 0 and 1, even for each zone and lead, that go together as the errors do."""
    issues = min((len(rows) for rows in errors.values()), default=0)
    jitter = rng.random(count)[:, None]
    if issues < LEAST:
        evenly = (rng.permutation(count)[:, None] + jitter) / count
        return {zone: np.broadcast_to(evenly, (count, LEADS_H)) for zone in errors}
    days = np.concatenate([rng.permutation(issues) for _ in range(-(-count // issues))])[:count]
    return {zone: (rows.argsort(axis=0).argsort(axis=0)[days] + jitter) / issues for zone, rows in errors.items()}


def at_ranks(bands: Array, ranks: Array) -> Array:
    """The values of each slot's distribution at these ranks: `bands` [slots, 5], `ranks` and answer [count, slots].

    Between the quantiles, and beyond the outer ones, by straight lines of the value's logarithm over the logit of the rank.
    """
    logs = np.log(np.maximum(bands, 1e-3)).T
    at = _logit(_LEVELS)
    piece = np.clip(np.searchsorted(_LEVELS, ranks) - 1, 0, len(_LEVELS) - 2)
    low, high = np.take_along_axis(logs, piece, axis=0), np.take_along_axis(logs, piece + 1, axis=0)
    values: Array = np.exp(low + (high - low) * (_logit(ranks) - at[piece]) / (at[piece + 1] - at[piece]))
    return values


def _logit(share: Array) -> Array:
    safe = np.clip(share, 1e-4, 1 - 1e-4)
    odds: Array = np.log(safe / (1 - safe))
    return odds
