"""Our members and the forecast of a zone's provider made one, hour by hour, by what has come true of both by then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from batchsched.forecasts.models import Blend, Rows
from batchsched.forecasts.models.blend import BACK_H, VERSION
from batchsched.forecasts.models.history import DAY_H
from batchsched.forecasts.models.model import HORIZON_H, mean_log
from batchsched.forecasts.persistence import hour_of, hours_of, instant_of

if TYPE_CHECKING:
    from batchsched.forecasts.archive import Receipt
    from batchsched.forecasts.models import History, Model
    from batchsched.forecasts.models.history import Floats, Integers
    from batchsched.forecasts.port import IntensityForecast

BEFORE_H = BACK_H + HORIZON_H  # so many rows before the first one that is learnt are looked at
_LEAST_G = 1.0  # below it logarithms say nothing
# A provider is left out of an issue while it is so many of its usual deviations further from our members than usual; for less
# than so small a deviation nobody is left out, and none is judged by fewer hours than these.
_FAR, _LEAST_USUAL, _LEAST_H = 6.0, 0.05, 2 * DAY_H


@dataclass
class Blended:
    """One zone's blend. `until`: outcomes of hours before it (counted from the epoch) are learnt. `members`: of which models."""

    until: int
    members: tuple[str, ...] = ()
    blend: Blend = field(default_factory=Blend)
    version: str = VERSION
    left_out: bool = False
    """Was the provider left out of the last issue?"""

    def issue(self, model: Model, history: History, delay_h: int, receipts: Sequence[Receipt], place: int) -> Floats:
        """The 96 means from `place` of the history on, after learning what is known `delay_h` before it.

        Each place once, in order. `receipts`: the provider's forecasts, in order of issue; one counts from its receipt on. One
        that suddenly says something else (a new unit, a lost digit) is left out, though learning sees it.
        """
        known, origin = place - delay_h, history.first_hour
        since = max(self.until - origin, BEFORE_H)
        first = max(min(since, known) - BEFORE_H, 0)
        rows = _rows(model, history, np.arange(first, place + 1), known, receipts)
        names = tuple(rows.members)
        if names != self.members:
            self.members, self.blend = names, Blend()
        if since < known:
            self.blend.learn(history.zone, rows, since - first, known - first)
            self.blend.weigh()
            self.until = origin + known
        last = place - first
        far = strange(rows)
        self.left_out = bool(far[last])
        if rows.provider is not None and far.any():
            rows = replace(rows, provider=np.where(far[:, None], np.nan, rows.provider).astype(np.float32))
        return np.asarray(np.exp(self.blend.logs(history.zone, rows, last, last + 1)[0]))


def strange(rows: Rows) -> NDArray[np.bool_]:
    """By row: is the provider's next day, in the mean, further from our members' than it is wont to be over these rows?"""
    if rows.provider is None:
        return np.zeros(len(rows.outcome), bool)
    apart = rows.provider[:, :DAY_H] - mean_log(dict(rows.members))[:, :DAY_H]
    hours = np.isfinite(apart).sum(1)
    mean = np.nansum(apart, 1) / np.maximum(hours, 1)
    if np.count_nonzero(hours) < _LEAST_H:
        return np.zeros(len(hours), bool)
    middle = np.median(mean[hours > 0])
    usual = 1.48 * np.median(np.abs(mean[hours > 0] - middle))
    return np.asarray((hours > 0) & (np.abs(mean - middle) > _FAR * max(usual, _LEAST_USUAL)))


def _rows(model: Model, history: History, places: Integers, known: int, receipts: Sequence[Receipt]) -> Rows:
    outcome = np.full(len(places), np.nan, np.float32)
    outcome[: known - places[0]] = np.log(np.maximum(history.intensity[places[0] : known], _LEAST_G))
    members = model.members(history, places, delay_h=int(places[-1]) - known)
    if not receipts:
        return Rows(members, outcome)
    return Rows(members, outcome, *in_force(places + history.first_hour, receipts))


def in_force(hours: Integers, receipts: Sequence[Receipt]) -> tuple[Floats, Floats]:
    """By hour: the logarithms of the newest forecast that was there when it began, and its age in days."""
    logs = np.full((len(hours), HORIZON_H), np.nan, np.float32)
    age = np.zeros(len(hours), np.float32)
    since = instant_of(int(hours[0]) - HORIZON_H)
    coming = sorted((one for one in receipts if one.forecast.issued_at >= since), key=lambda one: one.received_at)
    newest: IntensityForecast | None = None
    told: Floats | None = None
    first, beyond = int(hours[0]), int(hours[-1]) + HORIZON_H
    at = 0
    for row, hour in enumerate(hours.tolist()):
        begun = instant_of(hour)
        while at < len(coming) and coming[at].received_at <= begun:
            if newest is None or coming[at].forecast.issued_at >= newest.issued_at:
                newest = coming[at].forecast
                told = None
            at += 1
        if newest is not None:
            told = _logs_of(newest, first, beyond) if told is None else told
            logs[row] = told[hour - first : hour - first + HORIZON_H]
            age[row] = (hour - hour_of(newest.issued_at)) / 24
    return logs, age


def _logs_of(forecast: IntensityForecast, first: int, beyond: int) -> Floats:
    """The logarithms of a forecast's means from the hour `first` to before the hour `beyond`; NaN where it tells none."""
    logs = np.full(beyond - first, np.nan, np.float32)
    means = {hour - first: mean for hour, mean in hours_of(forecast).items() if first <= hour < beyond}
    logs[list(means)] = np.log(np.maximum(np.array(list(means.values()), np.float32), _LEAST_G))
    return logs
