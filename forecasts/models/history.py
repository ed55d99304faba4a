"""The hourly past of one zone, as arrays: what the models learn from and what they look back on when they forecast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from batchsched.errors import InvalidValue

Floats: TypeAlias = NDArray[np.floating[Any]]
Integers: TypeAlias = NDArray[np.int64]

HOUR = timedelta(hours=1)
DAY_H, WEEK_H = 24, 168


@dataclass(frozen=True)
class Weather:
    """Weather forecasts as issued. `values[run, step]` is one variable's forecast for `runs[run] + step` hours.

    `runs`: hours since the epoch, rising. `published_after_h`: how long after its nominal time a run can be had.
    """

    runs: Integers
    values: Mapping[str, Floats]
    published_after_h: int = 6


@dataclass(frozen=True)
class History:
    """One zone, hour by hour from `begins_at` (UTC, a whole hour); what is not known is NaN.

    `intensity`: gCO2e per kWh, of one signal. `mix`: MW by source, as long as `intensity`. `utc_offset_h`: the zone's winter
    time, for weekdays that begin when people's do. `beside`: other zones over the same hours; weather comes from somewhere.
    """

    zone: str
    begins_at: datetime
    intensity: Floats
    mix: Mapping[str, Floats] = field(default_factory=dict[str, Floats])
    weather: Weather | None = None
    utc_offset_h: int = 0
    beside: Mapping[str, History] = field(default_factory=dict[str, "History"])

    def __post_init__(self) -> None:
        if self.begins_at.utcoffset() is None or self.first_hour * 3600 != self.begins_at.timestamp():
            raise InvalidValue(f"The history of '{self.zone}' must begin at a whole hour of a known offset.")
        if any(len(values) != len(self.intensity) for values in self.mix.values()):
            raise InvalidValue(f"The generation mix of '{self.zone}' is not as long as its intensity.")
        for name, other in self.beside.items():
            if (other.first_hour, len(other.intensity)) != (self.first_hour, len(self.intensity)):
                raise InvalidValue(f"The history of '{name}' beside '{self.zone}' must span the same hours.")

    @property
    def first_hour(self) -> int:
        """Hours since the epoch of the first value."""
        return int(self.begins_at.timestamp() // 3600)

    def index(self, at: datetime) -> int:
        """The place of the hour that holds `at`; it may lie outside."""
        return int(at.timestamp() // 3600) - self.first_hour

    def at(self, index: int) -> datetime:
        """When the hour at this place begins."""
        return self.begins_at.astimezone(UTC) + index * HOUR

    def until(self, known_until: datetime) -> History:
        """What was known then: nothing that ended later, and no weather run that came out later. Itself, where that is all."""
        end = max(0, self.index(known_until))
        weather = self.weather
        if weather is not None:
            out = weather.runs + weather.published_after_h <= self.first_hour + end
            if not out.all():
                weather = Weather(weather.runs[out], {k: v[out] for k, v in weather.values.items()}, weather.published_after_h)
        beside = {name: other.until(known_until) for name, other in self.beside.items()}
        whole = weather is self.weather and all(beside[name] is other for name, other in self.beside.items())
        if whole and end >= len(self.intensity):
            return self  # with what was worked out of it
        mix = {source: values[:end] for source, values in self.mix.items()}
        return History(self.zone, self.begins_at, self.intensity[:end], mix, weather, self.utc_offset_h, beside)

    # -- what zones beside it look at; worked out once, however many they are --

    @cached_property
    def lately(self) -> Floats:
        """By the first unknown place: how far the logarithms of the last 3 h and of the last day lay from their week."""
        logs = np.log(np.maximum(filled(self.intensity), 1.0))
        return np.stack([trailing_mean(beyond_week(logs), hours) for hours in (3, DAY_H)], 1)

    @cached_property
    def wind_lately(self) -> Floats:
        """The same of the wind's share: of the last 3 h, half day, day, and the day before. Raises KeyError without wind."""
        share = filled(self.mix["wind"]) / np.maximum(load_of(self, tuple(self.mix)), 1.0)
        week, day = trailing_mean(share, WEEK_H), trailing_mean(share, DAY_H)
        spans = (trailing_mean(share, 3), trailing_mean(share, 12), day, _before(day, DAY_H))
        return np.stack([mean - week for mean in spans], 1)


def load_of(history: History, sources: tuple[str, ...]) -> Floats:
    """MW of these sources together, gaps filled."""
    return np.nansum(np.stack([filled(history.mix[name]) for name in sources]), 0) if sources else np.zeros(0, np.float32)


def filled(values: Floats) -> Floats:
    """Gaps closed from the past alone: by the same hour of the day before, on the first day by the last value."""
    out = values.copy()
    for gap in np.flatnonzero(np.isnan(values)):
        if gap:
            out[gap] = out[gap - DAY_H] if gap >= DAY_H else out[gap - 1]
    return out


def trailing_mean(values: Floats, hours: int) -> Floats:
    """Row k: the mean of the `hours` values before place k (fewer at the beginning); one row longer than `values`."""
    sums = np.concatenate([[0.0], np.cumsum(np.nan_to_num(values, nan=0.0), dtype=np.float64)])
    counts = np.concatenate([[0.0], np.cumsum(~np.isnan(values), dtype=np.float64)])
    begin = np.maximum(np.arange(len(sums)) - hours, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((sums - sums[begin]) / (counts - counts[begin]), np.float32)


def beyond_week(values: Floats) -> Floats:
    """Against the mean of the same hour over the seven days before."""
    week = np.stack([values[np.maximum(np.arange(len(values)) - DAY_H * day, 0)] for day in range(1, 8)]).mean(0)
    return np.asarray(values - week, np.float32)


def _before(values: Floats, hours: int) -> Floats:
    return values[np.maximum(np.arange(len(values)) - hours, 0)]
