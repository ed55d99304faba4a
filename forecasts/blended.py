"""Our members and the forecast of a zone's provider made one, hour by hour, by what has come true of both by then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from batchsched.forecasts.models import Blend, Rows
from batchsched.forecasts.models.blend import BACK_H, VERSION
from batchsched.forecasts.models.model import HORIZON_H
from batchsched.forecasts.persistence import hour_of, hours_of, instant_of

if TYPE_CHECKING:
    from batchsched.forecasts.archive import Receipt
    from batchsched.forecasts.models import History, Model
    from batchsched.forecasts.models.history import Floats, Integers
    from batchsched.forecasts.port import IntensityForecast

BEFORE_H = BACK_H + HORIZON_H  # so many rows before the first one that is learnt are looked at
_LEAST_G = 1.0  # below it logarithms say nothing


@dataclass
class Blended:
    """One zone's blend. `until`: outcomes of hours before it (counted from the epoch) are learnt. `members`: of which models."""

    until: int
    members: tuple[str, ...] = ()
    blend: Blend = field(default_factory=Blend)
    version: str = VERSION

    def issue(self, model: Model, history: History, delay_h: int, receipts: Sequence[Receipt], place: int) -> Floats:
        """The 96 means from `place` of the history on, after learning what is known `delay_h` before it.

        Each place once, in order. `receipts`: the provider's forecasts, in order of issue; one counts from its receipt on.
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
        return np.asarray(np.exp(self.blend.logs(history.zone, rows, last, last + 1)[0]))


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
    means: dict[int, float] = {}
    at = 0
    for row, hour in enumerate(hours.tolist()):
        begun = instant_of(hour)
        while at < len(coming) and coming[at].received_at <= begun:
            if newest is None or coming[at].forecast.issued_at >= newest.issued_at:
                newest = coming[at].forecast
                means = {}
            at += 1
        if newest is not None:
            means = means or hours_of(newest)
            values = np.array([means.get(target, np.nan) for target in range(hour, hour + HORIZON_H)], np.float32)
            logs[row] = np.log(np.maximum(values, _LEAST_G))
            age[row] = (hour - hour_of(newest.issued_at)) / 24
    return logs, age
