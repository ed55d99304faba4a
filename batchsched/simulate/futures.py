"""Joint futures of the intensity at an hour of a simulation: quantiles of the forecasts then, which go together as errors did."""

from __future__ import annotations

from datetime import timedelta

import numpy as np

from batchsched.errors import ForecastUnavailable
from batchsched.forecasts.evaluation import Array
from batchsched.forecasts.scenarios import at_ranks, shuffled
from batchsched.simulate.grid import HOUR, Grid

COUNT = 20
MATURED_DAYS, DAYS = 3, 23
"""Past forecasts, one a day: those so many days old, whose errors are known three days ahead."""


class Futures:
    """Of a grid. Errors of past forecasts are worked out once."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._errors: dict[int, dict[str, Array] | None] = {}
        since = DAYS * 24 + 24
        start = grid.start - timedelta(hours=since)
        measured = {zone: grid.provider.realised(zone, start, grid.end, grid.end) for zone in grid.zones}
        self._truth = {zone: {one.start: one.intensity_g_per_kwh for one in values} for zone, values in measured.items()}

    def at(self, hour: int) -> dict[str, Array]:
        """Of each zone [COUNT, hours], g/kWh; what has no quantiles is as expected in all of them."""
        ahead = self._grid.issued(hour)
        days = [hour - hour % 24 - 24 * day for day in range(MATURED_DAYS, DAYS)]
        past = [errors for errors in map(self._of, days) if errors is not None]
        errors = {zone: np.array([one[zone] for one in past]) for zone in self._grid.zones}
        ranks = shuffled(errors, COUNT, np.random.default_rng(hour))
        found: dict[str, Array] = {}
        for zone, bands in ahead.bands.items():
            values = at_ranks(bands, ranks[zone][:, : len(bands)])
            found[zone] = np.where(np.isfinite(values), values, ahead.mean[zone])
        return found

    def _of(self, hour: int) -> dict[str, Array] | None:
        """The errors of what was forecast at an hour, in logarithms; three days of them, and the last for what lies beyond."""
        if hour not in self._errors:
            try:
                ahead = self._grid.issued(hour)
            except ForecastUnavailable:
                self._errors[hour] = None
                return None
            times = [self._grid.start + (hour + lead) * HOUR for lead in range(min(MATURED_DAYS * 24, self._grid.ahead_h))]
            errors: dict[str, Array] = {}
            for zone, mean in ahead.mean.items():
                came = np.array([self._truth[zone].get(at, np.nan) for at in times])
                off = np.log(np.maximum(came, 1.0) / np.maximum(mean[: len(times)], 1.0))
                off = np.where(np.isfinite(off), off, 0.0)
                errors[zone] = np.append(off, np.full(len(mean) - len(off), off[-1]))
            self._errors[hour] = errors
        return self._errors[hour]
