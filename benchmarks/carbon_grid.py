"""The grids of `benchmarks/carbon.py`: our own forecasts as a server would have issued them hour by hour, and what came true."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from batchsched.errors import ForecastUnavailable
from batchsched.forecasts.evaluation import Array
from batchsched.forecasts.port import ForecastSlot, IntensityForecast, Realised, Signal
from benchmarks import forecast_ours
from benchmarks.forecast import cached
from benchmarks.forecast_trials import LEADS_H, Trial, us_2022h2

HOUR = timedelta(hours=1)
SIGNAL = Signal("average", "direct")


class Issued:
    """Forecasts of a trial, one an hour, and its measurements."""

    def __init__(self, trial: Trial, rows: dict[str, Array], name: str) -> None:
        self._trial, self._rows, self._name = trial, rows, name

    @property
    def name(self) -> str:
        """Whose forecasts these are."""
        return self._name

    def zones(self) -> list[str]:
        """Those of the trial."""
        return list(self._trial.zones)

    def signal_of(self, zone: str) -> Signal:
        """Direct emissions, on average. Raises ForecastUnavailable."""
        self._values(zone)
        return SIGNAL

    def forecast(self, zone: str, now: datetime, until: datetime) -> IntensityForecast:
        """The one of the hour that `now` lies in. Raises ForecastUnavailable."""
        place = (now - self._trial.base) // HOUR - self._trial.start
        self._values(zone)
        if not 0 <= place < len(self._rows[zone]):
            raise ForecastUnavailable(f"Nothing was forecast for {zone} at {now:%Y-%m-%d %H:%M} UTC.")
        since = self._trial.instant(place + self._trial.start)
        hours = min(LEADS_H, -((since - until) // HOUR))
        values = self._rows[zone][place][:hours].tolist()
        slots = [ForecastSlot(since + n * HOUR, since + (n + 1) * HOUR, _known(value)) for n, value in enumerate(values)]
        return IntensityForecast(zone, since, self._name, SIGNAL, tuple(slots))

    def realised(self, zone: str, start: datetime, end: datetime, now: datetime) -> list[Realised]:
        """The hours within [start, end) that had ended by `now`."""
        values, base = self._values(zone), self._trial.base
        first, last = max(0, (start - base) // HOUR), min(len(values), (min(end, now) - base) // HOUR)
        found = [(self._trial.instant(n), float(values[n])) for n in range(first, last) if np.isfinite(values[n])]
        return [Realised(zone, at, at + HOUR, value, self._name, SIGNAL) for at, value in found]

    def _values(self, zone: str) -> Array:
        if zone not in self._trial.values:
            raise ForecastUnavailable(f"Zone {zone} is not in the data.")
        return self._trial.values[zone]


def _known(value: float) -> float | None:
    return value if np.isfinite(value) else None


def issued(folder: Path, cache: Path) -> Issued:
    """25 zones of the United States, July to December 2022: our models, trained on what lies before, blended with CarbonCast as
    it was issued. What they forecast is kept in `cache`."""
    trial = us_2022h2(folder)
    rows = cached(trial, "ours blended", forecast_ours.blended, cache)
    return Issued(trial, rows, "ours, blended with CarbonCast")
