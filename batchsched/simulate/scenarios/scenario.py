"""A scenario: a scene, and where and when it lies."""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec
import numpy as np

from batchsched.simulate.scene import Scene

WEEK = timedelta(days=7)


class Scenario(msgspec.Struct, frozen=True):
    """What every policy is run on."""

    name: str
    zones: tuple[str, ...]
    start: datetime
    scene: Scene


def weeks(first: datetime, last: datetime, count: int, seed: int) -> list[datetime]:
    """So many different weeks, in order of time, of those that begin a whole number of weeks after `first` and end by `last`."""
    whole = (last - first) // WEEK
    chosen = np.random.default_rng([seed, whole]).permutation(whole)[:count]
    return [first + int(week) * WEEK for week in sorted(chosen.tolist())]
