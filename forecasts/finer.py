"""Hourly means as the shorter slots that a zone is measured in, each hour's mean kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import timedelta

from batchsched.forecasts.persistence import instant_of
from batchsched.forecasts.port import ForecastSlot, Realised

HOUR = timedelta(hours=1)
STEPS = (timedelta(minutes=15), timedelta(minutes=30))
LATELY = timedelta(days=1)


def step_of(values: Sequence[Realised]) -> timedelta:
    """The step that fits the commonest slots of the last known day: a quarter of an hour at the finest, an hour at most."""
    since = max((value.end for value in values), default=None)
    lengths = Counter(value.end - value.start for value in values if since and value.end > since - LATELY)
    commonest = max(lengths, key=lambda length: lengths[length] * length, default=HOUR)
    return next((step for step in STEPS if commonest <= step), HOUR)


def in_steps(first: int, means: Sequence[float], step: timedelta) -> tuple[ForecastSlot, ...]:
    """The means of the hours from `first` on (counted from the epoch), in slots of `step`.

    Within an hour they go up or down as fast as from the hour before it to the hour after it, and never below zero.
    """
    parts = HOUR // step
    padded = [means[0], *means, means[-1]]
    slots: list[ForecastSlot] = []
    for n, mean in enumerate(means):
        farthest = (parts - 1) / parts / 2
        slope = (padded[n + 2] - padded[n]) / 2
        slope = max(min(slope, mean / farthest), -mean / farthest) if farthest else 0.0
        start = instant_of(first + n)
        slots += [
            ForecastSlot(start + part * step, start + (part + 1) * step, mean + slope * ((part + 0.5) / parts - 0.5))
            for part in range(parts)
        ]
    return tuple(slots)
