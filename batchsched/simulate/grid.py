"""What a simulation knows of the grid: forecasts as any provider of ours gives them, hour by hour, and what came true of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from batchsched.errors import ForecastUnavailable
from batchsched.forecasts.port import QUANTILES, Provider

Floats = NDArray[np.float64]
HOUR = timedelta(hours=1)
_QUARTILES = [QUANTILES.index(0.25), QUANTILES.index(0.75)]
_QUARTILES_APART = 1.349  # in standard deviations of a normal distribution


class Ahead:
    """What is expected of each zone from one hour on, g/kWh by zone: the mean, and quantiles [hours, 5]; NaN where unknown."""

    def __init__(self, mean: dict[str, Floats], bands: dict[str, Floats]) -> None:
        self.mean, self.bands = mean, bands
        low, high = ({zone: band[:, n] for zone, band in bands.items()} for n in _QUARTILES)
        self.spread = {zone: np.nan_to_num((high[zone] - low[zone]) / _QUARTILES_APART) for zone in bands}
        """A standard deviation; 0 where it is unknown."""


class Grid:
    """Zones over the hours of a simulation. Each forecast is asked for once, however many policies are tried.

    The provider is asked with the virtual time as its `now`: by its contract, what it says then rests on nothing later.
    """

    def __init__(
        self,
        provider: Provider,
        zones: Sequence[str],
        start: datetime,
        hours: int,
        ahead_h: int = 96,
        known_at: datetime | None = None,
    ) -> None:
        """`start`: a whole hour; the grid is known for `hours` from it on. `known_at`: what came true is taken as it was known
        then, since measurements may come late; None: at the end. Raises ForecastUnavailable where too little is known."""
        self.provider, self.zones, self.start, self.hours, self.ahead_h = provider, tuple(zones), start, hours, ahead_h
        self.filled_h = 0
        """Hours of all zones that were never measured, and are filled in from those beside them."""
        self.truth = {zone: self._measured(zone, known_at or self.end) for zone in self.zones}
        self._issued: dict[int, Ahead] = {}

    @property
    def end(self) -> datetime:
        """When what is known of it ends."""
        return self.start + self.hours * HOUR

    def issued(self, hour: int) -> Ahead:
        """As it was forecast at the beginning of that hour."""
        if hour not in self._issued:
            found = {zone: self._forecast(zone, hour) for zone in self.zones}
            self._issued[hour] = Ahead({z: mean for z, (mean, _) in found.items()}, {z: band for z, (_, band) in found.items()})
        return self._issued[hour]

    def perfect(self, hour: int) -> Ahead:
        """As it came true."""
        mean = {zone: values[hour : hour + self.ahead_h] for zone, values in self.truth.items()}
        return Ahead(mean, {zone: np.repeat(values[:, None], len(QUANTILES), axis=1) for zone, values in mean.items()})

    def _forecast(self, zone: str, hour: int) -> tuple[Floats, Floats]:
        now = self.start + hour * HOUR
        given = self.provider.forecast(zone, now, now + self.ahead_h * HOUR)
        mean, band = np.full(self.ahead_h, np.nan), np.full((self.ahead_h, len(QUANTILES)), np.nan)
        for slot in given.slots:
            first = max(0, (slot.start - now) // HOUR)
            hours = slice(first, max(first, -((now - slot.end) // HOUR)))
            if slot.mean_g_per_kwh is not None:
                mean[hours] = slot.mean_g_per_kwh
            if slot.quantiles:
                band[hours] = slot.quantiles
        return mean, band

    def _measured(self, zone: str, known_at: datetime) -> Floats:
        sums, shares = np.zeros(self.hours), np.zeros(self.hours)
        for one in self.provider.realised(zone, self.start, self.end, known_at):
            first = max(0, (one.start - self.start) // HOUR)
            for n in range(first, min(self.hours, -((self.start - one.end) // HOUR))):
                since = self.start + n * HOUR
                share = (min(one.end, since + HOUR) - max(one.start, since)) / HOUR
                sums[n] += share * one.intensity_g_per_kwh
                shares[n] += share
        known = np.flatnonzero(shares > 0)
        if len(known) < 0.9 * self.hours:
            raise ForecastUnavailable(
                f"Zone {zone} was measured for {len(known)} of the {self.hours} hours from {self.start:%Y-%m-%d %H:%M} UTC on.",
                hint="Choose a start within the data, fewer days, or other zones.",
            )
        self.filled_h += self.hours - len(known)
        filled: Floats = np.interp(np.arange(self.hours), known, sums[known] / shares[known])
        return filled
