"""What a model sees of a zone: numbers that were known at an issue.

An issue is named by the first hour that was not yet known then; every lag is counted from there, so that late reports only make
the lead longer. Intensities are logarithms, as deviations from a smooth typical year.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from batchsched.forecasts.models.history import (
    DAY_H,
    WEEK_H,
    Floats,
    History,
    Integers,
    Weather,
    filled,
    load_of,
    trailing_mean,
)

VERSION = 1
_YEAR_H = 8766.0


@dataclass(frozen=True)
class Profile:
    """What is learnt of a zone before its models: a smooth typical year (coefficients by hour of the day) and its scales.

    `floor` and `load_floor` keep logarithms of nearly nothing from going wild; `sources` are those that matter there.
    """

    floor: float
    by_hour: Floats
    sources: tuple[str, ...] = ()
    load_floor: float = 1.0
    weather: Mapping[str, tuple[float, float]] = field(default_factory=dict[str, tuple[float, float]])
    beside: Mapping[str, bool] = field(default_factory=dict[str, bool])

    @classmethod
    def of(cls, history: History) -> Profile:
        """Learnt from all of a history; of less than a year, only the mean of each hour of the day."""
        known = history.intensity[history.intensity > 0]
        floor = float(np.median(known)) / 20 if len(known) else 1.0
        logs = np.log(np.maximum(history.intensity, floor))
        hour = np.arange(len(logs)) + history.first_hour
        waves = _waves(hour) if len(logs) >= _YEAR_H else _waves(hour)[:, :1]
        rows = np.zeros((DAY_H, 5), np.float32)
        for of_day in range(DAY_H):
            chosen = (hour % DAY_H == of_day) & ~np.isnan(logs)
            x, y = waves[chosen], logs[chosen]
            if len(y):
                ridge = np.eye(x.shape[1]) * (np.arange(x.shape[1]) > 0)
                rows[of_day, : x.shape[1]] = np.linalg.solve(x.T @ x + ridge, x.T @ y)
        nothing = np.full(1, np.nan, np.float32)
        load = load_of(history, tuple(history.mix))
        runs = history.weather.values if history.weather else {}
        weather = {name: (float(np.nanmean(v)), float(np.nanstd(v)) + 1e-9) for name, v in runs.items() if np.isfinite(v).any()}
        beside = {name: bool(np.isfinite(other.mix.get("wind", nothing)).mean() > 0.5) for name, other in history.beside.items()}
        reported = {name: float(np.isfinite(values).mean()) for name, values in history.mix.items()}
        shares = {name: float(np.nansum(values)) / max(float(load.sum()), 1.0) for name, values in history.mix.items()}
        sources = tuple(name for name in history.mix if reported[name] > 0.5 and shares[name] > 0.02)
        return cls(floor, rows, sources, max(float(np.median(load)) / 20, 1.0) if sources else 1.0, weather, beside)

    def at(self, hour: Integers) -> Floats:
        """The typical logarithm at hours since the epoch."""
        return np.asarray(np.einsum("ij,ij->i", _waves(hour), self.by_hour[hour % DAY_H]), np.float32)


def _waves(hour: Integers) -> Floats:
    angle = hour * (2 * np.pi / _YEAR_H)
    return np.stack([np.ones_like(angle), np.cos(angle), np.sin(angle), np.cos(2 * angle), np.sin(2 * angle)], 1).astype(
        np.float32
    )


class Features:
    """All that one history can tell, prepared once."""

    def __init__(self, history: History, profile: Profile) -> None:
        self._history = history
        self._profile = profile
        known = filled(history.intensity)
        self.logs: Floats = np.log(np.maximum(known, profile.floor))
        places = np.arange(len(known) + WEEK_H)
        self._typical = profile.at(places + history.first_hour)
        self.sources = self._of_sources()

    def base(self, known: Integers, target: Integers) -> Floats:
        """Half the last known day, half the last seven, at the hour of the target: the forecast where nothing was learnt."""
        last = _last_day(known, target)
        week = np.stack([self._log(last - DAY_H * day) for day in range(7)])
        return np.asarray((week[0] + week.mean(0)) / 2, np.float32)

    def deviation(self, places: Integers) -> Floats:
        """The logarithm against the typical year, gaps filled; NaN after the end."""
        inside = places < len(self.logs)
        return np.where(inside, self._log(places) - self.typical(places), np.nan).astype(np.float32)

    def typical(self, places: Integers) -> Floats:
        """The typical logarithm of these places."""
        return self._typical[np.clip(places, 0, len(self._typical) - 1)]

    def off_level(self, hours: int) -> Floats:
        """By the first unknown place: how far the last `hours` lay from the typical year."""
        return trailing_mean(self.logs - self._typical[: len(self.logs)], hours)

    def hour(self, places: Integers) -> Integers:
        """The hour of the day, UTC."""
        return (places + self._history.first_hour) % DAY_H

    def weekday(self, places: Integers) -> Integers:
        """Monday is 0, by the zone's winter time."""
        return ((places + self._history.first_hour + self._history.utc_offset_h) // DAY_H + 3) % 7

    def weather_blocks(self, issues: Integers, block_h: int) -> list[Floats]:
        """For each variable the newest run's means over blocks of hours, from a day before the issue on; 0 where not known."""
        weather = self._history.weather
        if weather is None or not self._profile.weather:
            return []
        first, out = self._history.first_hour, []
        target = issues[:, None] + np.arange(-DAY_H, 4 * DAY_H)
        out_by = first + np.minimum(issues[:, None], target) - weather.published_after_h
        run = np.searchsorted(weather.runs, out_by, side="right") - 1
        for name, (mean, spread) in self._profile.weather.items():
            values = (_of_run(weather, weather.values[name], run, first + target) - mean) / spread
            out.append(np.nan_to_num(values, nan=0.0).reshape(len(issues), -1, block_h).mean(2) * 0.1)
        return out

    @cached_property
    def beside(self) -> Floats | None:
        """By the first unknown place: how the other zones and their wind lately lay against their week; None without them all."""
        others = self._history.beside
        if not self._profile.beside or not self._profile.beside.keys() <= others.keys():
            return None
        columns: list[Floats] = []
        for name, windy in self._profile.beside.items():
            columns += [others[name].lately, *([others[name].wind_lately] if windy else [])]
        found: Floats = np.nan_to_num(np.concatenate(columns, 1))
        return found

    def _log(self, places: Integers) -> Floats:
        """Before the beginning the same hour of the first day that is known."""
        early = np.maximum(-(places // DAY_H), 0) * DAY_H
        return np.asarray(self.logs[np.minimum(places + early, len(self.logs) - 1)], np.float32)

    def _of_sources(self) -> dict[str, Floats]:
        """The load as logarithm, and each source's share of it, by place."""
        sources = self._profile.sources
        if not sources or not set(sources) <= self._history.mix.keys():
            return {}
        load = np.maximum(load_of(self._history, sources), self._profile.load_floor)
        shares = {name: np.asarray(filled(self._history.mix[name]) / load, np.float32) for name in sources}
        return {"load": np.asarray(np.log(load), np.float32), **shares}


def _of_run(weather: Weather, values: Floats, run: Integers, hour: Integers) -> Floats:
    step = hour - weather.runs[np.maximum(run, 0)]
    inside = (run >= 0) & (step >= 0) & (step < values.shape[1])
    return np.where(inside, values[np.maximum(run, 0), np.clip(step, 0, values.shape[1] - 1)], np.nan).astype(np.float32)


def _last_day(known: Integers, target: Integers) -> Integers:
    """The place of the target's hour on the last day of which that hour was known."""
    return target - DAY_H * ((target - known) // DAY_H + 1)
