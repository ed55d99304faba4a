"""What a model sees of a zone: for each pair of an issue and a target hour, numbers that were known at the issue.

An issue is named by the first hour that was not yet known then; every lag is counted from there, so that late reports only make
the lead longer. All intensities are logarithms, as differences from a base: half the last known day, half the last seven days, at
the target's hour of the day.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from batchsched.forecasts.models.history import DAY_H, WEEK_H, Floats, History, Integers, Weather, filled, trailing_mean

VERSION = 1
_YEAR_H = 8766.0
_LEVELS_H = (3, 6, 12, 24, 48, 72, WEEK_H, 4 * WEEK_H)
_DAYS = (1, 2, 3, 6, 13)


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
        load = _load(history, tuple(history.mix))
        runs = history.weather.values if history.weather else {}
        weather = {name: (float(np.nanmean(v)), float(np.nanstd(v)) + 1e-9) for name, v in runs.items() if np.isfinite(v).any()}
        reported = {name: float(np.isfinite(values).mean()) for name, values in history.mix.items()}
        shares = {name: float(np.nansum(values)) / max(float(load.sum()), 1.0) for name, values in history.mix.items()}
        sources = tuple(name for name in history.mix if reported[name] > 0.5 and shares[name] > 0.02)
        return cls(floor, rows, sources, max(float(np.median(load)) / 20, 1.0) if sources else 1.0, weather)

    def at(self, hour: Integers) -> Floats:
        """The typical logarithm at hours since the epoch."""
        return np.asarray(np.einsum("ij,ij->i", _waves(hour), self.by_hour[hour % DAY_H]), np.float32)


def _load(history: History, sources: tuple[str, ...]) -> Floats:
    return np.nansum(np.stack([filled(history.mix[name]) for name in sources]), 0) if sources else np.zeros(0, np.float32)


def _waves(hour: Integers) -> Floats:
    angle = hour * (2 * np.pi / _YEAR_H)
    return np.stack([np.ones_like(angle), np.cos(angle), np.sin(angle), np.cos(2 * angle), np.sin(2 * angle)], 1).astype(
        np.float32
    )


class Features:
    """All that one history can tell, prepared once; `rows` gives any pairs of issue and target."""

    def __init__(self, history: History, profile: Profile) -> None:
        self._history = history
        self._profile = profile
        known = filled(history.intensity)
        self.logs: Floats = np.log(np.maximum(known, profile.floor))
        places = np.arange(len(known) + WEEK_H)
        self._typical = profile.at(places + history.first_hour)
        self._issue = self._of_issues()
        self.sources = self._of_sources()

    def base(self, known: Integers, target: Integers) -> Floats:
        """What the forecast is a difference from, and the naive forecast for hours without a model."""
        last = _last_day(known, target)
        week = np.stack([self._log(last - DAY_H * day) for day in range(7)])
        return np.asarray((week[0] + week.mean(0)) / 2, np.float32)

    def naive(self, known: Integers, target: Integers) -> Floats:
        """The same hour of the last known day."""
        return self._log(_last_day(known, target))

    def outcome(self, target: Integers) -> Floats:
        """The logarithm that came true; NaN where the value is unknown."""
        values = self._history.intensity[np.clip(target, 0, len(self.logs) - 1)]
        return np.where(target < len(self.logs), np.log(np.maximum(values, self._profile.floor)), np.nan).astype(np.float32)

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
        run = (
            np.searchsorted(weather.runs, first + np.minimum(issues[:, None], target) - weather.published_after_h, side="right")
            - 1
        )
        for name, (mean, spread) in self._profile.weather.items():
            values = (_of_run(weather, weather.values[name], run, first + target) - mean) / spread
            out.append(np.nan_to_num(values, nan=0.0).reshape(len(issues), -1, block_h).mean(2) * 0.1)
        return out

    def rows(self, known: Integers, target: Integers) -> tuple[list[str], Floats]:
        """Names and values of the features of issues that know the places before `known`, for the places `target`."""
        columns = self._calendar(known, target)
        base = self.base(known, target)
        self._shape(columns, base, known, target)
        for name, values in self._issue.items():
            columns[name] = values[known]
        columns["level_to_base"] = self._level[known] - base
        last = _last_day(known, target)
        for name, values in self.sources.items():
            columns[f"{name}_now"] = values[np.maximum(known - 1, 0)]
            columns[f"{name}_same_hour"] = values[np.maximum(last, 0)]
            columns[f"{name}_day_change"] = values[np.maximum(last, 0)] - values[np.maximum(last - DAY_H, 0)]
            columns[f"{name}_week_before"] = values[np.maximum(last - 6 * DAY_H, 0)]
        self._weather(columns, known, target)
        return list(columns), np.stack(list(columns.values()), 1).astype(np.float32)

    def _log(self, places: Integers) -> Floats:
        """Before the beginning the same hour of the first day that is known."""
        early = np.maximum(-(places // DAY_H), 0) * DAY_H
        return np.asarray(self.logs[np.minimum(places + early, len(self.logs) - 1)], np.float32)

    def _calendar(self, known: Integers, target: Integers) -> dict[str, Floats]:
        hour = target + self._history.first_hour
        local = hour + self._history.utc_offset_h
        year = hour * (2 * np.pi / _YEAR_H)
        found = {
            "lead_h": target - known,
            "hour": local % DAY_H,
            "weekday": (local // DAY_H + 3) % 7,
            "last_weekday": ((_last_day(known, target) + local - target) // DAY_H + 3) % 7,
            "year_cos": np.cos(year),
            "year_sin": np.sin(year),
        }
        return {name: np.asarray(values, np.float32) for name, values in found.items()}

    def _shape(self, columns: dict[str, Floats], base: Floats, known: Integers, target: Integers) -> None:
        last = _last_day(known, target)
        for day in _DAYS:
            columns[f"lag_{day}d"] = self._log(last - DAY_H * (day - 1)) - base
        for step in (-2, -1, 1, 2):
            beside = last + step
            columns[f"beside_{step}h"] = self._log(np.where(beside < known, beside, beside - DAY_H)) - base
        weeks = np.stack([self._log(last - DAY_H * day) for day in range(28)])
        columns["same_hour_28d"] = weeks.mean(0) - base
        columns["same_hour_spread"] = weeks[:7].std(0)
        columns["typical_to_base"] = self._typical[target] - base
        columns["typical_levelled"] = self._typical[target] + self._off_typical[known] - base
        columns["typical_change"] = self._typical[target] - self._typical[np.maximum(last, 0)]

    def _of_issues(self) -> dict[str, Floats]:
        """By the first unknown place: levels, their differences, and how the last hours lay against the week's shape."""
        logs, levels = self.logs, {hours: trailing_mean(self.logs, hours) for hours in _LEVELS_H}
        self._level = levels[DAY_H]
        places = np.arange(len(logs))
        week = np.stack([self._log(places - DAY_H * day) for day in range(1, 8)]).mean(0)
        beyond_week, beyond_day = logs - week, logs - self._log(places - DAY_H)
        self._off_typical = trailing_mean(logs - self._typical[: len(logs)], 3 * DAY_H)
        found = {f"level_{hours}h": values - levels[WEEK_H] for hours, values in levels.items() if hours != WEEK_H}
        found["level"] = levels[WEEK_H]
        for hours in (1, 3, 6, 12, 24):
            found[f"beyond_week_{hours}h"] = trailing_mean(beyond_week, hours)
        for hours in (1, 3, 24):
            found[f"beyond_day_{hours}h"] = trailing_mean(beyond_day, hours)
        found["slope"] = found["beyond_week_1h"] - _before(found["beyond_week_1h"], 2)
        found["beyond_week_day_ago"] = _before(found["beyond_week_6h"], DAY_H)
        found["off_typical_6h"] = trailing_mean(logs - self._typical[: len(logs)], 6)
        return found

    def _of_sources(self) -> dict[str, Floats]:
        """The load as logarithm and each source's share, by place, as differences from its own week where a level would drift."""
        sources = self._profile.sources
        if not sources or not set(sources) <= self._history.mix.keys():
            return {}
        load = np.maximum(_load(self._history, sources), self._profile.load_floor)
        shares = {name: np.asarray(filled(self._history.mix[name]) / load, np.float32) for name in sources}
        return {"load": np.asarray(np.log(load), np.float32), **shares}

    def _weather(self, columns: dict[str, Floats], known: Integers, target: Integers) -> None:
        """What the newest run says of the target, and its change against what was said of the last known day."""
        weather = self._history.weather
        if weather is None:
            return
        first = self._history.first_hour
        newest = np.searchsorted(weather.runs, first + known - weather.published_after_h, side="right") - 1
        last = _last_day(known, target)
        earlier = np.searchsorted(weather.runs, first + np.minimum(last, known - weather.published_after_h), side="right") - 1
        for name in self._profile.weather:
            values = weather.values[name]
            here = _of_run(weather, values, newest, first + target)
            columns[f"wx_{name}"] = here
            columns[f"wx_{name}_change"] = here - _of_run(weather, values, earlier, first + last)


def _of_run(weather: Weather, values: Floats, run: Integers, hour: Integers) -> Floats:
    step = hour - weather.runs[np.maximum(run, 0)]
    inside = (run >= 0) & (step >= 0) & (step < values.shape[1])
    return np.where(inside, values[np.maximum(run, 0), np.clip(step, 0, values.shape[1] - 1)], np.nan).astype(np.float32)


def _last_day(known: Integers, target: Integers) -> Integers:
    """The place of the target's hour on the last day of which that hour was known."""
    return target - DAY_H * ((target - known) // DAY_H + 1)


def _before(values: Floats, hours: int) -> Floats:
    return values[np.maximum(np.arange(len(values)) - hours, 0)]
