"""A provider that is listened to: who made the forecasts that were asked for, and where nobody had one."""

from __future__ import annotations

from collections import Counter
from datetime import datetime

from batchsched.errors import ForecastUnavailable
from batchsched.forecasts.port import ForecastSlot, IntensityForecast, Provider, Signal
from batchsched.forecasts.wrapped import Wrapped

NOBODY = "nobody"


class Heard(Wrapped):
    """The inner provider; where it has no forecast, one that knows nothing, as plans took it in life."""

    def __init__(self, inner: Provider) -> None:
        super().__init__(inner)
        self.by: Counter[tuple[str, str]] = Counter()
        """Forecasts that were asked for, by zone and by who made them."""

    def forecast(self, zone: str, now: datetime, until: datetime) -> IntensityForecast:
        """The inner one's."""
        try:
            given = self._inner.forecast(zone, now, until)
        except ForecastUnavailable:
            self.by[zone, NOBODY] += 1
            return IntensityForecast(zone, now, NOBODY, self._signal(zone), (ForecastSlot(now, until, None),))
        instead = given.continued_by if given.continued_from is not None and given.continued_from <= now else None
        self.by[zone, instead or given.provider] += 1
        return given

    def silent(self) -> list[str]:
        """Zones of which nobody ever had a forecast."""
        spoken = {zone for zone, who in self.by if who != NOBODY}
        return sorted({zone for zone, _ in self.by} - spoken)

    def shares(self) -> dict[str, float]:
        """Which part of all forecasts was whose, the greatest first."""
        found: Counter[str] = Counter()
        for (_, who), count in self.by.items():
            found[who] += count
        return {who: count / found.total() for who, count in found.most_common()}

    def _signal(self, zone: str) -> Signal:
        try:
            return self._inner.signal_of(zone)
        except ForecastUnavailable:
            return Signal()
