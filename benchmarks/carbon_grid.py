"""The grids of `benchmarks/carbon.py`: our own forecasts as a server would have issued them hour by hour, and what came true.

`python -m benchmarks.carbon_grid [--jobs N]` learns them all beforehand.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from batchsched.errors import ForecastUnavailable
from batchsched.forecasts.evaluation import Array
from batchsched.forecasts.port import ForecastSlot, IntensityForecast, Realised, Signal
from benchmarks import forecast_ours
from benchmarks.forecast import cached
from benchmarks.forecast_trials import LEADS_H, Trial, need_data, us_2022h1, us_2022h2

HOUR = timedelta(hours=1)
SIGNAL = Signal("average", "direct")
SITES = ("PJM", "CISO", "ISNE", "ERCO", "MISO")
"""Of the fleets of `regions`; the first is home."""


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


def issued(folder: Path, cache: Path, jobs: int | None = None) -> Issued:
    """25 zones of the United States, July to December 2022: our models, trained on what lies before, blended with CarbonCast as
    it was issued. What they forecast is kept in `cache`; learnt in `jobs` processes, of which each learnt zone is kept until all
    are blended, so that a run which was stopped goes on."""
    return _issued(us_2022h2(folder), "blended", cache, jobs)


def issued_before(folder: Path, zones: Sequence[str], cache: Path, jobs: int | None = None) -> Issued:
    """The same for January to June 2022, by our models alone: nobody else's forecasts of that time were kept."""
    return _issued(us_2022h1(folder, zones), "alone", cache, jobs)


NAMES = {"blended": "ours, blended with CarbonCast", "alone": "ours"}


def _issued(trial: Trial, way: Literal["blended", "alone"], cache: Path, jobs: int | None) -> Issued:
    learnt = forecast_ours.Learnt(jobs, cache)
    forecaster = forecast_ours.blended if way == "blended" else forecast_ours.alone
    rows = cached(trial, f"ours {way}", partial(forecaster, learnt=learnt), cache)
    learnt.forget(trial)
    return Issued(trial, rows, NAMES[way])


def main() -> None:
    """Learn both half-years."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes that learn")
    asked = parser.parse_args()
    need_data(data_folder())
    issued_before(data_folder(), SITES, cache_folder(), asked.jobs)
    issued(data_folder(), cache_folder(), asked.jobs)


def data_folder() -> Path:
    """Where the shared data is."""
    return Path(os.environ.get("BATCHSCHED_DATA", "../shared/data"))


def cache_folder() -> Path:
    """Where what was learnt is kept."""
    return Path(os.environ.get("BATCHSCHED_BENCH_CACHE", ".bench/forecasts"))


if __name__ == "__main__":
    main()
