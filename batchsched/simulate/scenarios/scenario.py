"""A scenario: a scene, where and when it lies, and what else happens."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import msgspec
import numpy as np

from batchsched.forecasts.port import Provider
from batchsched.simulate.conditions import USUAL, Conditions
from batchsched.simulate.grid import Grid
from batchsched.simulate.rolling import hours_of
from batchsched.simulate.scene import LOAD, Scene

WEEK = timedelta(days=7)


class Scenario(msgspec.Struct, frozen=True):
    """What every policy is run on."""

    name: str
    zones: tuple[str, ...]
    start: datetime
    scene: Scene
    load: float = LOAD
    """The share of the fleet's time that the work takes."""
    conditions: Conditions = USUAL
    feed: Callable[[Provider], Provider] | None = None
    """What becomes of a sound provider here; None: nothing."""

    def grid(self, provider: Provider, known_at: datetime | None = None) -> Grid:
        """What is known of the grid, and what comes true: as it was known then, None: at the end. Raises ForecastUnavailable."""
        fed = self.feed(provider) if self.feed else provider
        return Grid(fed, self.zones, self.start, hours_of(self.scene), known_at=known_at)


def weeks(first: datetime, last: datetime, count: int, seed: int) -> list[datetime]:
    """So many different weeks, in order of time, of those that begin a whole number of weeks after `first` and end by `last`."""
    whole = (last - first) // WEEK
    chosen = np.random.default_rng([seed, whole]).permutation(whole)[:count]
    return [first + int(week) * WEEK for week in sorted(chosen.tolist())]
