"""The provider of a running server: the archive as it stood at any instant, each zone by its sources in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

import msgspec

from batchsched.errors import ForecastUnavailable, SignalMismatch
from batchsched.forecasts.archive import Archive
from batchsched.forecasts.port import ForecastSlot, IntensityForecast, Realised, Signal, apart

Usable = Callable[[IntensityForecast, datetime], bool]


def _any(_forecast: IntensityForecast, _now: datetime) -> bool:
    return True


def _in_time(slot: ForecastSlot, now: datetime, until: datetime) -> bool:
    return slot.end > now and (slot.start < until or slot.start <= now)


class Archived:
    """Answers from what had reached the archive by `now`, so that an earlier `now` replays what was known then.

    `order`: the sources of each zone, the best first; for a zone that is not named any source will do, the newest issue first.
    `signals`: the figure that a zone is decided on; a zone that is not named must have one only.
    `usable`: which forecasts will do at an instant.
    """

    name = "archive"

    def __init__(
        self,
        archive: Archive,
        order: Mapping[str, Sequence[str]] | None = None,
        signals: Mapping[str, Signal] | None = None,
        usable: Usable = _any,
    ) -> None:
        self._archive = archive
        self._order = order or {}
        self._signals = signals or {}
        self._usable = usable

    def zones(self) -> list[str]:
        """Zones that are declared, and those that the archive has."""
        return sorted({*self._order, *self._signals, *(feed.zone for feed in self._archive.feeds())})

    def signal_of(self, zone: str) -> Signal:
        """The declared signal, else the only one that the archive has. Raises ForecastUnavailable, SignalMismatch."""
        if zone in self._signals:
            return self._signals[zone]
        order = self._order.get(zone)
        found = {feed.signal: feed.provider for feed in self._archive.feeds(zone) if order is None or feed.provider in order}
        if len(found) > 1:
            has = " and ".join(f"{signal} by {provider}" for signal, provider in sorted(found.items()))
            raise SignalMismatch(f"The archive has '{zone}' as {has}; say which signal is meant.")
        if not found:
            raise ForecastUnavailable(f"Nothing is known about '{zone}' (but about: {', '.join(self.zones()) or 'no zone'}).")
        return Signal.parse(next(iter(found)))

    def forecast(self, zone: str, now: datetime, until: datetime) -> IntensityForecast:
        """The first source's newest forecast that was out by `now`, is usable and says something about [now, until).

        Raises ForecastUnavailable where no source has one, and SignalMismatch where one gives another signal than the zone's.
        """
        signal = self.signal_of(zone)
        for provider in self._order.get(zone, (None,)):
            found = self._archive.newest(zone, as_of=now, provider=provider, signal=signal)
            slots = [slot for slot in found.slots if _in_time(slot, now, until)] if found else []
            if found and any(slot.mean_g_per_kwh is not None for slot in slots) and self._usable(found, now):
                return msgspec.structs.replace(found, slots=tuple(slots))
        raise ForecastUnavailable(f"No forecast for '{zone}' was known at {now:%Y-%m-%d %H:%M:%S} UTC.")

    def realised(self, zone: str, start: datetime, end: datetime, now: datetime) -> list[Realised]:
        """What came true as far as it was known at `now`; where two sources measured the same time, the better one holds."""
        signal = self.signal_of(zone)
        return apart(
            value
            for provider in self._order.get(zone, (None,))
            for value in self._archive.realised(zone, start, end, as_of=now, provider=provider, signal=signal)
        )
