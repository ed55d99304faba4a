"""A provider whose forecast reaches as far as it is asked: what the inner one leaves open at the end is filled in, and said."""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec

from batchsched.errors import ForecastUnavailable
from batchsched.forecasts.port import ForecastSlot, IntensityForecast, Provider, licences, weighted_mean
from batchsched.forecasts.wrapped import Wrapped

_DAY = timedelta(days=1)


class Continued(Wrapped):
    """Continues `inner` by `typical` where that knows the zone by the same signal, else by repeating the last day that is known.

    Of a forecast shorter than a day the mean goes on. Repeated values carry no quantiles: how wrong they are is not known.
    """

    def __init__(self, inner: Provider, typical: Provider) -> None:
        super().__init__(inner)
        self._typical = typical

    def forecast(self, zone: str, now: datetime, until: datetime) -> IntensityForecast:
        """The inner forecast, continued to `until`; where it has ended before `now`, the typical one alone.

        Raises ForecastUnavailable for a zone that the inner provider does not know, and where nothing can stand in.
        """
        try:
            given = self._inner.forecast(zone, now, until)
        except ForecastUnavailable:
            if not self._same_signal(zone):
                raise
            typical = self._typical.forecast(zone, now, until)
            return msgspec.structs.replace(
                typical, provider=self._inner.name, continued_by=self._typical.name, continued_from=now
            )
        end = given.slots[-1].end
        if end >= until:
            return given
        if self._same_signal(zone):
            typical = self._typical.forecast(zone, now, until)
            by, added, licence = self._typical.name, _from(typical, end), licences([given, typical])
        else:
            by, added, licence = "repeating its last day", _repeated(given, end, until), given.licence
        slots = (*given.slots, *added)
        return msgspec.structs.replace(given, slots=slots, licence=licence, continued_by=by, continued_from=end)

    def _same_signal(self, zone: str) -> bool:
        try:
            return self._typical.signal_of(zone) == self._inner.signal_of(zone)
        except ForecastUnavailable:
            return False


def _from(forecast: IntensityForecast, start: datetime) -> list[ForecastSlot]:
    """The slots after `start`, the first one cut there."""
    return [msgspec.structs.replace(slot, start=max(slot.start, start)) for slot in forecast.slots if slot.end > start]


def _repeated(given: IntensityForecast, end: datetime, until: datetime) -> list[ForecastSlot]:
    since = end - _DAY
    if given.mean_over(since, end) is None:  # less than a whole day is known
        pieces = [(slot.start, slot.end, slot.mean_g_per_kwh) for slot in given.slots]
        return [ForecastSlot(end, until, weighted_mean(pieces, given.slots[0].start, end)[0])]
    day = [(max(slot.start, since), slot.end, slot.mean_g_per_kwh) for slot in given.slots if slot.end > since]
    days = range(1, 2 + (until - end) // _DAY)
    added = (ForecastSlot(start + n * _DAY, stop + n * _DAY, mean) for n in days for start, stop, mean in day)
    return [slot for slot in added if slot.start < until]
