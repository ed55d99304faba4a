"""The grid as a policy sees it: forecasts as they were issued, or, with perfect foresight, what comes true."""

from __future__ import annotations

import math
from datetime import datetime

from batchsched.errors import ForecastUnavailable
from batchsched.forecasts.port import ForecastSlot, IntensityForecast
from batchsched.forecasts.wrapped import Wrapped
from batchsched.simulate.grid import HOUR, Ahead, Grid
from batchsched.simulate.policies import Policy


class Seen(Wrapped):
    """A provider for the scheduler of a simulation. What was measured is the grid's own."""

    def __init__(self, grid: Grid, policy: Policy) -> None:
        super().__init__(grid.provider)
        self._grid, self._policy = grid, policy
        self._every_h = max(1, round(policy.replan_s / 3600))
        self._known: dict[tuple[str, int], tuple[ForecastSlot, ...]] = {}

    def forecast(self, zone: str, now: datetime, until: datetime) -> IntensityForecast:  # noqa: ARG002 - it is all there is
        """As of the last hour in which the policy looked. Raises ForecastUnavailable outside of the grid."""
        hour = (now - self._grid.start) // HOUR
        hour -= hour % self._every_h
        if not 0 <= hour < self._grid.hours or zone not in self._grid.zones:
            raise ForecastUnavailable(f"Nothing is known of {zone} at {now:%Y-%m-%d %H:%M} UTC.")
        if (zone, hour) not in self._known:
            self._known[zone, hour] = self._slots(zone, hour)
        made_at = self._grid.start + hour * HOUR
        return IntensityForecast(zone, made_at, self.name, self.signal_of(zone), self._known[zone, hour])

    def _slots(self, zone: str, hour: int) -> tuple[ForecastSlot, ...]:
        ahead: Ahead = self._grid.perfect(hour) if self._policy.sees == "perfect" else self._grid.issued(hour)
        start = self._grid.start + hour * HOUR
        means = (ahead.mean[zone] + self._policy.lean * ahead.spread[zone]).tolist()
        bands: list[list[float]] = ahead.bands[zone].tolist()
        return tuple(
            ForecastSlot(
                start + n * HOUR,
                start + (n + 1) * HOUR,
                max(0.0, mean) if math.isfinite(mean) else None,
                tuple(band) if all(map(math.isfinite, band)) else None,
            )
            for n, (mean, band) in enumerate(zip(means, bands, strict=True))
        )
