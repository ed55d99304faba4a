"""A linear model of one zone: from what the last days and weeks were to the next four days, by ridge regression.

One regression an issue hour (the hours beside it help), all leads at once, a second or two to learn. On the same inputs it
captured as many grams as boosted trees and took a tenth of the time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from batchsched.forecasts.models.features import Features
from batchsched.forecasts.models.history import DAY_H, WEEK_H, Floats, Integers, beyond_week, trailing_mean

PENALTY = 5.0
_FAR = 7.0  # other zones are many, and each says little: their columns are that much smaller, so the penalty weighs 49 times
_BESIDE = ((1, 0.8), (2, 0.4))  # hours beside the issue's own, and how much their rows count
_LAGS_H = (1, 2, 3, 6, 12, 18, 24)
_BLOCK_H = 6


@dataclass(frozen=True)
class Linear:
    """`weights[hour of the day of the issue]`: from what `_rows` gives, over its `spread`, to the deviation at each lead.

    `beside`: it looks at other zones too.
    """

    weights: Floats
    spread: Floats
    beside: bool

    @property
    def leads_h(self) -> int:
        """It answers leads below."""
        return int(self.weights.shape[2])

    @classmethod
    def fit(cls, features: Features, issues: Integers, leads_h: int, half_life_h: float, *, beside: bool) -> Linear:
        """Learn from these issues, named by their first unknown place, wherever all their outcomes are known."""
        wanted = features.deviation(issues[:, None] + np.arange(leads_h))
        rows = _rows(features, issues, beside)
        usable = np.isfinite(wanted).all(1) & np.isfinite(rows).all(1)
        issues, rows, wanted = issues[usable], rows[usable], wanted[usable]
        weight = 0.5 ** ((issues.max(initial=0) - issues) / half_life_h / 2)[:, None]
        spread = rows.std(0) + 1e-3
        if beside and features.beside is not None:
            spread[-features.beside.shape[1] :] *= _FAR
        rows, wanted = rows / spread * weight, wanted * weight
        hour = features.hour(issues)
        sums = []
        for part in (rows, wanted):
            by_hour = np.stack([rows[hour == of_day].T @ part[hour == of_day] for of_day in range(DAY_H)])
            sums.append(by_hour + sum(w * (np.roll(by_hour, n, 0) + np.roll(by_hour, -n, 0)) for n, w in _BESIDE))
        gram, cross = sums
        size = np.maximum(np.mean(np.diagonal(gram, axis1=1, axis2=2)), 1e-6)
        penalty = np.eye(gram.shape[1]) * (PENALTY / 100 * size)
        return cls(np.linalg.solve(gram + penalty, cross).astype(np.float32), spread, beside)

    def logs(self, features: Features, issues: Integers) -> Floats:
        """Expected logarithms, [issues, leads]. What has fallen silent since counts as nothing out of the ordinary."""
        rows, hour = np.nan_to_num(_rows(features, issues, self.beside)) / self.spread, features.hour(issues)
        out = np.empty((len(issues), self.leads_h), np.float32)
        for of_day in range(DAY_H):
            out[hour == of_day] = rows[hour == of_day] @ self.weights[of_day]
        return out + features.typical(issues[:, None] + np.arange(self.leads_h))


def _rows(features: Features, issues: Integers, beside: bool) -> Floats:
    """The last day hour by hour, the week's mean and the same weekday by hour, levels, weekday, mix, weather, other zones."""
    back = issues[:, None] - DAY_H + np.arange(DAY_H)
    days = np.stack([features.deviation(back - DAY_H * day) for day in range(7)])
    level = np.stack([features.off_level(hours)[issues] for hours in (3 * DAY_H, WEEK_H, 4 * WEEK_H)], 1)
    weekday = np.eye(7, dtype=np.float32)[features.weekday(issues)] * 0.1
    parts = [days[0], days.mean(0), days[6], days.mean(2).T, level, weekday]
    for values in features.sources.values():
        day_mean, week_mean, month_mean = (trailing_mean(values, hours)[issues] for hours in (DAY_H, WEEK_H, 4 * WEEK_H))
        lagged = beyond_week(values)[np.maximum(issues[:, None] - np.array(_LAGS_H), 0)]
        parts += [lagged, np.stack([day_mean - week_mean, week_mean - month_mean], 1)]
    parts += features.weather_blocks(issues, _BLOCK_H)
    if beside and features.beside is not None:
        parts.append(features.beside[issues])
    return np.concatenate(parts, 1).astype(np.float32)
