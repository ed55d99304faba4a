"""A linear model of one zone: from what the last days and weeks were to the next four days, by ridge regression.

One regression an issue hour (the hours beside it help), all leads at once, a second or two to learn. It follows the last hours
more closely than trees do, and it extrapolates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from batchsched.forecasts.models.features import Features
from batchsched.forecasts.models.history import DAY_H, WEEK_H, Floats, Integers, trailing_mean

PENALTY = 5.0
_BESIDE = ((1, 0.8), (2, 0.4))  # hours beside the issue's own, and how much their rows count
_LAGS_H = (1, 2, 3, 6, 12, 18, 24)
_BLOCK_H = 6


@dataclass(frozen=True)
class Linear:
    """`weights[hour of the day of the issue]`: from what `_rows` gives, over its `spread`, to the deviation at each lead."""

    weights: Floats
    spread: Floats

    @property
    def leads_h(self) -> int:
        """It answers leads below."""
        return int(self.weights.shape[2])

    @classmethod
    def fit(cls, features: Features, issues: Integers, leads_h: int, half_life_h: float) -> Linear:
        """Learn from these issues, named by their first unknown place, wherever all their outcomes are known."""
        wanted = features.deviation(issues[:, None] + np.arange(leads_h))
        usable = np.isfinite(wanted).all(1)
        issues, wanted = issues[usable], wanted[usable]
        weight = 0.5 ** ((issues.max(initial=0) - issues) / half_life_h / 2)[:, None]
        rows = _rows(features, issues)
        spread = rows.std(0) + 1e-3
        rows, wanted = rows / spread * weight, wanted * weight
        hour = features.hour(issues)
        sums = []
        for part in (rows, wanted):
            by_hour = np.stack([rows[hour == of_day].T @ part[hour == of_day] for of_day in range(DAY_H)])
            sums.append(by_hour + sum(w * (np.roll(by_hour, n, 0) + np.roll(by_hour, -n, 0)) for n, w in _BESIDE))
        gram, cross = sums
        size = np.maximum(np.mean(np.diagonal(gram, axis1=1, axis2=2)), 1e-6)
        penalty = np.eye(gram.shape[1]) * (PENALTY / 100 * size)
        return cls(np.linalg.solve(gram + penalty, cross).astype(np.float32), spread)

    def logs(self, features: Features, issues: Integers) -> Floats:
        """Expected logarithms, [issues, leads]."""
        rows, hour = _rows(features, issues) / self.spread, features.hour(issues)
        out = np.empty((len(issues), self.leads_h), np.float32)
        for of_day in range(DAY_H):
            out[hour == of_day] = rows[hour == of_day] @ self.weights[of_day]
        return out + features.typical(issues[:, None] + np.arange(self.leads_h))


def out_of_fold(features: Features, issues: Integers, leads_h: int, half_life_h: float, folds: int = 3) -> Floats:
    """What linear models said that had not seen the month of the issue: honest inputs for another model's training."""
    fold = issues // (4 * WEEK_H) % folds
    out = np.empty((len(issues), leads_h), np.float32)
    for number in range(folds):
        model = Linear.fit(features, issues[fold != number], leads_h, half_life_h)
        out[fold == number] = model.logs(features, issues[fold == number])
    return out


def _rows(features: Features, issues: Integers) -> Floats:
    """The last day hour by hour, the week's mean and the same weekday by hour, levels, weekday, mix, weather."""
    back = issues[:, None] - DAY_H + np.arange(DAY_H)
    days = np.stack([features.deviation(back - DAY_H * day) for day in range(7)])
    level = np.stack([features.off_level(hours)[issues] for hours in (3 * DAY_H, WEEK_H, 4 * WEEK_H)], 1)
    weekday = np.eye(7, dtype=np.float32)[features.weekday(issues)] * 0.1
    parts = [days[0], days.mean(0), days[6], days.mean(2).T, level, weekday]
    for values in features.sources.values():
        week = np.stack([values[np.maximum(np.arange(len(values)) - DAY_H * day, 0)] for day in range(1, 8)]).mean(0)
        day_mean, week_mean, month_mean = (trailing_mean(values, hours)[issues] for hours in (DAY_H, WEEK_H, 4 * WEEK_H))
        lagged = (values - week)[np.maximum(issues[:, None] - np.array(_LAGS_H), 0)]
        parts += [lagged, np.stack([day_mean - week_mean, week_mean - month_mean], 1)]
    parts += features.weather_blocks(issues, _BLOCK_H)
    return np.concatenate(parts, 1).astype(np.float32)
