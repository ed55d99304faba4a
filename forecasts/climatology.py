"""The built-in forecast that needs no key and no network: the typical day of each month, by zone.

The table is derived by benchmarks/make_climatology.py from hourly intensity (CarbonCast): average direct signal, hours in UTC,
US zones of 2019 to 2022, the others of 2020 to 2021. It knows seasons and hours, not today's weather.
"""

from __future__ import annotations

import csv
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib import resources

from batchsched.errors import ForecastUnavailable
from batchsched.forecasts.port import CLIMATOLOGY, ForecastSlot, IntensityForecast, Realised, Signal
from batchsched.forecasts.zones import ALIASES, WORLD, guess_zone
from batchsched.units import start_of_hour

__all__ = ["Climatology", "guess_zone"]

LICENCE = "Apache-2.0 (CarbonCast: EIA-930, ENTSO-E, OpenNEM)"
WORLD_LICENCE = "CC-BY-4.0 (Ember)"

# Mean of 2023: Ember by way of Our World in Data, where it is called lifecycle; ACT's location_2023.yaml has the same figure.
WORLD_G_PER_KWH = 481.0

_HOUR = timedelta(hours=1)
_Typical = tuple[float, tuple[float, ...] | None]


class Climatology:
    """Typical values, known for ever: any horizon is covered, and nothing ever comes true."""

    name = CLIMATOLOGY

    def zones(self) -> list[str]:
        """The zones of the table, by their own names, and `WORLD`."""
        return [*sorted({zone for zone, _, _ in _table()}), WORLD]

    def signal_of(self, zone: str) -> Signal:
        """Average direct; the world's mean is average lifecycle. Raises ForecastUnavailable for an unknown zone."""
        return Signal("average", "lifecycle" if self._own_name(zone) == WORLD else "direct")

    def forecast(self, zone: str, now: datetime, until: datetime) -> IntensityForecast:
        """Hours from the one that holds `now` to `until`. Raises ForecastUnavailable for an unknown zone."""
        own = self._own_name(zone)
        slots: list[ForecastSlot] = []
        start = start_of_hour(now.astimezone(UTC))
        while start < until or not slots:
            mean, quantiles = _typical(own, start)
            slots.append(ForecastSlot(start, start + _HOUR, mean, quantiles))
            start += _HOUR
        licence = WORLD_LICENCE if own == WORLD else LICENCE
        return IntensityForecast(zone, now, self.name, self.signal_of(zone), tuple(slots), licence)

    def realised(self, zone: str, start: datetime, end: datetime, now: datetime) -> list[Realised]:
        """Nothing: a typical day is not a measurement."""
        del zone, start, end, now
        return []

    def _own_name(self, zone: str) -> str:
        own = ALIASES.get(zone, zone)
        if own != WORLD and (own, 1, 0) not in _table():
            known = ", ".join(self.zones())
            raise ForecastUnavailable(
                f"The built-in climatology does not know the zone '{zone}' (it knows: {known}).",
                hint="Name one of these, or WORLD, or a source that knows it: forecast.source or forecast.path.",
            )
        return own


def _typical(zone: str, at: datetime) -> _Typical:
    return (WORLD_G_PER_KWH, None) if zone == WORLD else _table()[zone, at.month, at.hour]


@cache
def _table() -> dict[tuple[str, int, int], _Typical]:
    path = resources.files("batchsched.forecasts") / "data" / "climatology.csv"
    with path.open(encoding="utf-8") as lines:
        rows = csv.reader(lines)
        next(rows)
        return {
            (zone, int(month), int(hour)): (float(mean), tuple(map(float, quantiles)))
            for zone, month, hour, mean, *quantiles in rows
        }
