"""Days on which something goes wrong: profiles that are off, a spike of load, a feed of forecasts that hangs."""

from __future__ import annotations

from datetime import datetime

import msgspec

from batchsched.errors import ForecastUnavailable
from batchsched.forecasts.port import IntensityForecast, Provider, Realised
from batchsched.forecasts.wrapped import Wrapped
from batchsched.simulate.scenarios.scenario import Scenario
from batchsched.simulate.scene import Arrival, draw_scene

SLOWER = 1.3
SPIKE = 3.0
"""So many times as many batches come."""
SPIKE_H = (48.0, 60.0)


def wrong_profiles(good: Scenario, factor: float = SLOWER) -> Scenario:
    """All work takes so many times what profiles say, and nobody is told."""
    slower = [msgspec.structs.replace(one, slowness=one.slowness * factor) for one in good.scene.arrivals]
    return _with(good, f"profiles wrong by {factor - 1:+.0%}", slower)


def spike(good: Scenario, seed: int) -> Scenario:
    """For half a day more batches come: like those of other days, drawn from another seed."""
    scene, first_s, last_s = good.scene, SPIKE_H[0] * 3600, SPIKE_H[1] * 3600
    more = []
    for n in range(1, round(SPIKE)):
        drawn = draw_scene(good.zones, scene.days, seed + n, fleet=scene.fleet).arrivals
        more += [msgspec.structs.replace(one, batch_id=f"{one.batch_id}_{n}") for one in drawn if first_s <= one.at_s < last_s]
    return _with(good, "a spike of load", sorted([*scene.arrivals, *more], key=lambda one: (one.at_s, one.batch_id)))


def _with(good: Scenario, name: str, arrivals: list[Arrival]) -> Scenario:
    return msgspec.structs.replace(
        good, name=f"{good.name}, {name}", scene=msgspec.structs.replace(good.scene, arrivals=arrivals)
    )


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
