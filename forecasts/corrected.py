"""A file's forecasts as plans read them: corrected by the measurements that it holds beside them. See nowcast.py."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from batchsched.errors import ForecastUnavailable
from batchsched.forecasts.port import IntensityForecast, Provider, Realised
from batchsched.forecasts.wrapped import Wrapped

if TYPE_CHECKING:
    from batchsched.forecasts.nowcast import Nowcast

_AHEAD = timedelta(hours=96)
_LATE = timedelta(days=2)


class Corrected(Wrapped):
    """A provider whose issues and measurements are asked for as they were at any instant."""

    def __init__(self, inner: Provider) -> None:
        super().__init__(inner)
        self._nowcasts: dict[str, Nowcast] = {}

    def forecast(self, zone: str, now: datetime, until: datetime) -> IntensityForecast:
        """The inner forecast; where some of it has come true, or of those before it, corrected and with a spread from that."""
        given = self._inner.forecast(zone, now, until)
        if not self._inner.realised(zone, now - _LATE, now, now):
            return given
        corrected = self._nowcast(zone).of(self._whole(given, now), now)
        return msgspec.structs.replace(corrected, slots=tuple(slot for slot in corrected.slots if slot.end > now))

    def _whole(self, given: IntensityForecast, now: datetime) -> IntensityForecast:
        """With the slots of the same issue that lie behind."""
        since = max(given.issued_at, now - _LATE)
        behind = self._inner.forecast(given.zone, since, now).slots if since < now else ()
        first = given.slots[0].start
        return msgspec.structs.replace(given, slots=(*(slot for slot in behind if slot.end <= first), *given.slots))

    def _nowcast(self, zone: str) -> Nowcast:
        from batchsched.forecasts.nowcast import Nowcast

        if zone not in self._nowcasts:

            def issued(at: datetime) -> IntensityForecast | None:
                try:
                    return self._whole(self._inner.forecast(zone, at, at + _AHEAD), at)
                except ForecastUnavailable:
                    return None

            def came(start: datetime, end: datetime, now: datetime) -> list[Realised]:
                return self._inner.realised(zone, start, end, now)

            self._nowcasts[zone] = Nowcast(issued, came)
        return self._nowcasts[zone]
