"""Feeds of forecasts that are not what they should be: that hang, that say what is wrong; and grids with next to no carbon."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta

import msgspec
import numpy as np

from batchsched.errors import ForecastUnavailable
from batchsched.forecasts.chain import Chain, Links
from batchsched.forecasts.climatology import Climatology
from batchsched.forecasts.continued import Continued
from batchsched.forecasts.port import ForecastSlot, IntensityForecast, Provider, Realised, Signal
from batchsched.forecasts.wrapped import Wrapped
from batchsched.simulate.grid import HOUR

DAY = timedelta(days=1)
AHEAD = 4 * DAY
"""As far as an issue of a feed reaches."""
BEFORE = 9 * DAY
"""So long before the start issues are judged, where there are any."""
FAULTS = ("sound", "stuck", "gaps", "biased", "late", "none")
"""What a day's issue may be: as it should, one value for hours, half of it missing, all of it too high or too low, a day or two
late, or it does not come at all."""
ODDS = (0.2, 0.2, 0.15, 0.2, 0.15, 0.1)
FEW_G = 2.0


class Hanging(Wrapped):
    """A provider whose feed hangs for a while: the last forecast stays the newest, and nothing new is measured."""

    def __init__(self, inner: Provider, since: datetime, until: datetime) -> None:
        super().__init__(inner)
        self._since, self._until = since, until

    def forecast(self, zone: str, now: datetime, until: datetime) -> IntensityForecast:
        """Of before it hung, what of it lies ahead. Raises ForecastUnavailable where nothing does."""
        if not self._since <= now < self._until:
            return self._inner.forecast(zone, now, until)
        given = self._inner.forecast(zone, self._since, until)
        ahead = tuple(slot for slot in given.slots if slot.end > now)
        if not ahead:
            raise ForecastUnavailable(f"The feed of {zone} has been hanging since {self._since:%Y-%m-%d %H:%M} UTC.")
        return msgspec.structs.replace(given, slots=ahead)

    def realised(self, zone: str, start: datetime, end: datetime, now: datetime) -> list[Realised]:
        """What had been measured before it hung; all of it once it is over."""
        known = self._since if self._since <= now < self._until else now
        return self._inner.realised(zone, start, end, known)


class NearZero(Wrapped):
    """A provider one zone of which has next to no carbon: hours of two grams at most, many of nothing at all."""

    def __init__(self, inner: Provider, zone: str) -> None:
        super().__init__(inner)
        self._zone = zone

    def forecast(self, zone: str, now: datetime, until: datetime) -> IntensityForecast:
        """The inner one's, made small there."""
        given = self._inner.forecast(zone, now, until)
        if zone != self._zone:
            return given
        return msgspec.structs.replace(given, slots=tuple(_small(slot) for slot in given.slots))

    def realised(self, zone: str, start: datetime, end: datetime, now: datetime) -> list[Realised]:
        """Likewise."""
        found = self._inner.realised(zone, start, end, now)
        if zone != self._zone:
            return found
        return [msgspec.structs.replace(one, intensity_g_per_kwh=_few(one.intensity_g_per_kwh)) for one in found]


def _few(grams: float) -> float:
    """Nothing below 300 g, two grams from 500 g on."""
    return min(FEW_G, max(0.0, (grams - 300.0) / 100.0))


def _small(slot: ForecastSlot) -> ForecastSlot:
    mean = None if slot.mean_g_per_kwh is None else _few(slot.mean_g_per_kwh)
    return ForecastSlot(slot.start, slot.end, mean, tuple(map(_few, slot.quantiles)) if slot.quantiles else None)


class Issues:
    """What a feed said when, and what came true, as the archive would have it."""

    def __init__(self, issues: Iterable[IntensityForecast], measured: Provider) -> None:
        """`issues`: each with the time from which it was there as its time of issue."""
        self._measured = measured
        self._of: dict[str, list[IntensityForecast]] = {}
        for one in sorted(issues, key=lambda one: one.issued_at):
            self._of.setdefault(one.zone, []).append(one)

    def newest(
        self,
        zone: str,
        *,
        as_of: datetime,
        provider: str | None = None,  # noqa: ARG002 - there is one
        signal: Signal | None = None,  # noqa: ARG002
    ) -> IntensityForecast | None:
        """Of those that were there by then."""
        return next((one for one in reversed(self._of.get(zone, [])) if one.issued_at <= as_of), None)

    def realised(
        self,
        zone: str,
        start: datetime,
        end: datetime,
        *,
        as_of: datetime,
        provider: str | None = None,  # noqa: ARG002
        signal: Signal | None = None,  # noqa: ARG002
    ) -> list[Realised]:
        """What had come true by then."""
        return self._measured.realised(zone, start, end, as_of)


def judged(zones: Sequence[str], issues: Iterable[IntensityForecast], measured: Provider) -> Provider:
    """A feed as a server takes it that has no other: judged every hour, corrected by what came true, the zone's own history in
    its place where it is not to be trusted, and typical days behind that."""
    links = {zone: Links((measured.name,), measured.signal_of(zone)) for zone in zones}
    return Continued(Chain(Issues(issues, measured), links, Climatology()), Climatology())


def broken(inner: Provider, zones: Sequence[str], start: datetime, hours: int, seed: int) -> Provider:
    """What comes of a sound provider whose daily issues, at 00 UTC, arrive each with a fault drawn from the seed; as a server
    takes it."""
    issues: list[IntensityForecast] = []
    for zone in zones:
        rng = np.random.default_rng([seed, zlib.crc32(zone.encode())])
        at = start - BEFORE
        while at < start + hours * HOUR:
            fault = str(rng.choice(FAULTS, p=ODDS))
            with suppress(ForecastUnavailable):  # nothing may be known of before the start
                issues += _spoilt(inner.forecast(zone, at, at + AHEAD), fault, rng)
            at += DAY
    return judged(zones, issues, inner)


def _spoilt(sound: IntensityForecast, fault: str, rng: np.random.Generator) -> list[IntensityForecast]:
    """An issue as it arrives; none where it does not."""
    slots, many = sound.slots, len(sound.slots)
    first, last = sorted(rng.integers(0, many + 1, 2).tolist())
    factor = float(rng.choice([0.5, 1.6]))
    if fault == "stuck":
        value = slots[min(first, many - 1)].mean_g_per_kwh
        slots = tuple(_worth(slot, value) if n >= first else slot for n, slot in enumerate(slots))
    elif fault == "gaps":
        slots = tuple(_worth(slot, None) if first <= n < last else slot for n, slot in enumerate(slots))
    elif fault == "biased":
        slots = tuple(_worth(slot, slot.mean_g_per_kwh and factor * slot.mean_g_per_kwh) for slot in slots)
    late = int(rng.integers(24, 49)) * HOUR if fault == "late" else timedelta()
    arrived = msgspec.structs.replace(sound, slots=slots, issued_at=sound.issued_at + late)
    return [] if fault == "none" else [arrived]


def _worth(slot: ForecastSlot, mean: float | None) -> ForecastSlot:
    return ForecastSlot(slot.start, slot.end, mean)
