"""A grid for where there is no data: the typical days that are built in, with weather drawn from a seed.

How far an hour lies from its typical value is a rank that wanders: a normal variable that keeps 97 % of itself from hour to hour.
A forecast knows the last rank and that law, nothing more; so its quantiles are right by construction, and narrower the nearer an
hour is.
"""

from __future__ import annotations

import zlib
from datetime import datetime
from statistics import NormalDist

import numpy as np

from batchsched.errors import ForecastUnavailable
from batchsched.forecasts.climatology import Climatology
from batchsched.forecasts.evaluation import Array
from batchsched.forecasts.port import QUANTILES, ForecastSlot, IntensityForecast, Realised
from batchsched.forecasts.scenarios import at_ranks
from batchsched.forecasts.wrapped import Wrapped
from batchsched.simulate.grid import HOUR, Floats

PERSISTENCE = 0.97
_NORMAL = NormalDist()
_Z = np.array([_NORMAL.inv_cdf((n + 0.5) / 20) for n in range(20)])
"""Points that stand for a normal distribution, all equally likely."""
_LEVELS = np.array([_NORMAL.inv_cdf(level) for level in QUANTILES])
_AXIS = np.linspace(-6, 6, 2401)
_CDF = np.array([_NORMAL.cdf(z) for z in _AXIS.tolist()])


class Drawn(Wrapped):
    """A provider whose truth is drawn: `hours` from `start` on, the same for the same seed."""

    def __init__(self, start: datetime, hours: int, seed: int) -> None:
        super().__init__(Climatology())
        self._start, self._hours, self._seed = start, hours, seed
        self._known: dict[str, tuple[Floats, Floats]] = {}

    @property
    def name(self) -> str:
        """Whose forecasts these are."""
        return "typical days with drawn weather"

    def forecast(self, zone: str, now: datetime, until: datetime) -> IntensityForecast:
        """From the rank of the hour before `now`. Raises ForecastUnavailable outside of what is drawn."""
        place, (ranks, bands) = (now - self._start) // HOUR, self._of(zone)
        leads = np.arange(1, min(-((now - until) // HOUR), self._hours - place) + 1)
        if place < 0 or not len(leads):
            raise ForecastUnavailable(f"Nothing is drawn for {now:%Y-%m-%d %H:%M} UTC.")
        keeps = PERSISTENCE**leads
        middle, width = keeps * (ranks[place - 1] if place else 0.0), np.sqrt(1 - keeps**2)
        ahead = bands[place : place + len(leads)]
        means = at_ranks(ahead, _cdf(middle + width * _Z[:, None])).mean(axis=0)
        quantiles = at_ranks(ahead, _cdf(middle + width * _LEVELS[:, None])).T
        since = self._start + place * HOUR
        slots = tuple(
            ForecastSlot(since + n * HOUR, since + (n + 1) * HOUR, float(mean), tuple(quantiles[n].tolist()))
            for n, mean in enumerate(means.tolist())
        )
        return IntensityForecast(zone, now, self.name, self.signal_of(zone), slots)

    def realised(self, zone: str, start: datetime, end: datetime, now: datetime) -> list[Realised]:
        """The hours that meet [start, end) and had ended by `now`."""
        ranks, bands = self._of(zone)
        worth = at_ranks(bands, _cdf(ranks)[None, :])[0]
        first, until = max(0, (start - self._start) // HOUR), -((self._start - end) // HOUR)
        last = min(self._hours, until, (now - self._start) // HOUR)
        begin = [self._start + n * HOUR for n in range(first, last)]
        signal = self.signal_of(zone)
        return [Realised(zone, at, at + HOUR, float(worth[first + n]), self.name, signal) for n, at in enumerate(begin)]

    def _of(self, zone: str) -> tuple[Floats, Floats]:
        """Normal ranks [hours], and the typical quantiles [hours, 5]."""
        if zone not in self._known:
            typical = self._inner.forecast(zone, self._start, self._start + self._hours * HOUR).slots[: self._hours]
            bands = np.array([slot.quantiles or [slot.mean_g_per_kwh] * len(QUANTILES) for slot in typical], float)
            rng = np.random.default_rng([self._seed, zlib.crc32(zone.encode())])
            news = rng.normal(0.0, np.sqrt(1 - PERSISTENCE**2), self._hours)
            ranks = np.zeros(self._hours)
            ranks[0] = rng.normal()
            for n in range(1, self._hours):
                ranks[n] = PERSISTENCE * ranks[n - 1] + news[n]
            self._known[zone] = ranks, bands
        return self._known[zone]


def _cdf(z: Array) -> Floats:
    found: Floats = np.interp(z, _AXIS, _CDF)
    return found
