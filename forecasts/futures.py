"""Scenarios for a plan: over its own slots, of all zones whose forecasts have a spread."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

import numpy as np

from batchsched.forecasts.calibration import Calibrator
from batchsched.forecasts.evaluation import Array
from batchsched.forecasts.port import IntensityForecast
from batchsched.forecasts.scenarios import scenarios

COUNT = 40
Span = tuple[datetime, datetime]


def futures(
    forecasts: Mapping[str, IntensityForecast], learnt: Callable[[str], Calibrator | None], spans: Sequence[Span], seed: int = 0
) -> dict[str, list[list[float]]]:
    """For each zone, of each future, g/kWh by span; row n of all zones is one future. Zones without any quantiles are left out.

    `learnt`: what is known of a zone's past errors. Hours beyond the last with quantiles err as that one does; those that the
    forecast does not know are 0.
    """
    spread = {zone: one for zone, one in forecasts.items() if any(slot.quantiles for slot in one.slots)}
    if not spread or not spans:
        return {}
    drawn = scenarios(spread, {zone: learnt(zone) or Calibrator() for zone in spread}, COUNT, seed)
    return {zone: _over(one, drawn[zone], spans) for zone, one in spread.items()}


def _over(forecast: IntensityForecast, drawn: Array, spans: Sequence[Span]) -> list[list[float]]:
    means = np.array([np.nan if slot.mean_g_per_kwh is None else slot.mean_g_per_kwh for slot in forecast.slots])
    off = drawn / np.maximum(means, 1e-9)
    known = np.isfinite(off).all(axis=0)
    last = np.maximum.accumulate(np.where(known, np.arange(len(means)), -1))
    off = np.where(last < 0, 1.0, off[:, np.maximum(last, 0)])
    values = np.nan_to_num(off * means)
    since, until = (np.array([getattr(slot, name).timestamp() for slot in forecast.slots]) for name in ("start", "end"))
    begins, ends = (np.array([span[side].timestamp() for span in spans]) for side in (0, 1))
    shared = np.clip(np.minimum(until, ends[:, None]) - np.maximum(since, begins[:, None]), 0.0, None)
    mean = values @ shared.T / np.maximum(shared.sum(axis=1), 1e-9)
    rows: list[list[float]] = np.round(mean, 2).tolist()
    return rows
