"""A source's forecast as plans read it: moved by what has come true since its issue, with a spread that its past errors give.

Everything is asked for as it was known at an instant, so the same instant always gives the same answer. Once a day, at midnight
UTC, the last 90 issues are played through again, one in 23 hours, each as it was then used: that gives the weights of the
correction and the calibrated quantiles of the day.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from batchsched.forecasts.calibration import Calibrator
from batchsched.forecasts.correction import LEADS_H, Weights, inputs
from batchsched.forecasts.evaluation import DAY_H, Array
from batchsched.forecasts.persistence import hour_of, hours_of, instant_of, truth_of
from batchsched.forecasts.port import ForecastSlot, IntensityForecast, Realised

ISSUES = 90
EVERY_H = 23  # so that the issues wander round the clock
BACK_H = 4 * DAY_H
BLOCK_H = 12  # errors of the last days are those of what was in force when each half day began
LATEST_REPORT_H = 24
LENT_H = 12  # so far a lead lends its spread to longer ones, which few issues reach
_LEAST_G = 1.0  # below it logarithms say nothing

Issued = Callable[[datetime], IntensityForecast | None]
"""The newest forecast of the source that was there at an instant, with the slots that lie before it."""
Came = Callable[[datetime, datetime, datetime], list[Realised]]
"""What came true in [start, end), as it was known at an instant."""


class Learnt(NamedTuple):
    """What the record of a source gives for a day. `shares`: quantiles over the mean, [96, 5], NaN before ten outcomes."""

    weights: Weights
    shares: Array


class Nowcast:
    """One source of one zone."""

    def __init__(self, issued: Issued, came: Came) -> None:
        self._issued = issued
        self._came = came
        self._said: dict[int, Array] = {}
        self._learnt: dict[int, Learnt] = {}

    def of(self, forecast: IntensityForecast, now: datetime, *, wider: float = 1.0) -> IntensityForecast:
        """The forecast as it is to be used at `now`; its note says what was done. Nothing where nothing has come true.

        `wider`: by which a spread of ours is widened, for a source that is not quite trusted.
        """
        hour = hour_of(now)
        truth = _logs(truth_of(self._came(instant_of(hour - BACK_H), instant_of(hour), now), now))
        if not truth:
            return forecast
        learnt = self._learnt_by(hour - hour % DAY_H)
        known = max(truth) + 1
        moved = learnt.weights.move(_seen(forecast, self._errors(truth, hour - BACK_H, known), hour - BACK_H, hour, known, truth))
        middle = learnt.shares[:, 2:3]
        shares = np.maximum(middle + wider * (learnt.shares - middle), 0.0)
        slots = tuple(_used(slot, hour, moved, shares) for slot in forecast.slots)
        if slots == forecast.slots:
            return forecast
        return msgspec.structs.replace(forecast, slots=slots, note=_note(moved, shares))

    def _learnt_by(self, day: int) -> Learnt:
        if (found := self._learnt.get(day)) is None:
            if len(self._learnt) >= 8:
                self._learnt.clear()
            found = self._learnt[day] = self._learn(day)
        return found

    def _learn(self, day: int) -> Learnt:
        """Play the issues before an hour through again."""
        weights, calibrator = Weights(), Calibrator()
        at = day // EVERY_H * EVERY_H - (ISSUES - 1) * EVERY_H
        origin = at - BACK_H
        truth = _logs(truth_of(self._came(instant_of(origin), instant_of(day), instant_of(day)), instant_of(day)))
        if not truth:
            return Learnt(weights, np.full((LEADS_H, 5), np.nan))
        known = max(truth) + 1
        delay_h = min(day - known, LATEST_REPORT_H)
        outcomes = _array(truth, origin, day)
        errors = self._errors(truth, origin, known)
        used: list[tuple[int, Array, Array]] = []
        learnt = origin
        for hour in (*range(at, day, EVERY_H), day):
            by = min(hour - delay_h, known)
            calibrator.learn(learnt, np.exp(outcomes[learnt - origin : by - origin]))
            for since, seen, said in used[-5:]:
                _add(weights, seen, said, outcomes[since - origin : by - origin], learnt - since)
            learnt = by
            issue = self._issued(instant_of(hour)) if hour < day else None
            if issue is None:
                continue
            seen = _seen(issue, errors[: by - origin], origin, hour, by, truth)
            said = _array(_logs(hours_of(issue)), hour, hour + LEADS_H)
            calibrator.issue(hour, np.exp(said + weights.move(seen)))
            used.append((hour, seen, said))
        known_leads = calibrator.known_leads()
        return Learnt(weights, _lent(calibrator.issue(day, np.ones(LEADS_H)), known_leads))

    def _errors(self, truth: Mapping[int, float], origin: int, known: int) -> Array:
        """Logarithms of what came true less what was in force, hour by hour from `origin` up to `known`."""
        blocks = range(origin // BLOCK_H, (known - 1) // BLOCK_H + 1)
        for block in reversed(blocks):
            if block not in self._said:
                issue = self._issued(instant_of(block * BLOCK_H))
                if issue is None:
                    break  # nor was there one before
                self._said[block] = _array(_logs(hours_of(issue)), block * BLOCK_H, (block + 1) * BLOCK_H)
        unknown = np.full(BLOCK_H, np.nan)
        said = np.concatenate([self._said.get(block, unknown) for block in blocks])
        shift = origin - blocks[0] * BLOCK_H
        errors: Array = _array(truth, origin, known) - said[shift : shift + known - origin]
        return errors


def _seen(issue: IntensityForecast, errors: Array, origin: int, hour: int, known: int, truth: Mapping[int, float]) -> Array:
    """What the correction of an issue that is used at `hour` looks at."""
    begin = max(math.ceil(issue.issued_at.timestamp() / 3600), known - DAY_H)
    said = _logs(hours_of(issue)) if begin < known else {}
    since = _array(truth, begin, known) - _array(said, begin, known)
    return inputs(errors, since, hour - origin, known - origin)


def _add(weights: Weights, seen: Array, said: Array, outcomes: Array, first: int) -> None:
    """Let the weights learn from the outcomes of one issue, which begin at its first lead, from lead `first` on."""
    lead = np.arange(max(first, 0), min(len(outcomes), LEADS_H))
    errors = outcomes[lead] - said[lead]
    known = np.isfinite(errors)
    weights.add(lead[known], seen[lead[known]], errors[known])


def _lent(shares: Array, known: NDArray[np.bool_]) -> Array:
    """With those of the nearest shorter lead that is known, and unknown where that is far."""
    last = -LENT_H
    for lead in range(LEADS_H):
        last = lead if known[lead] else last
        shares[lead] = shares[last] if lead - last < LENT_H else np.nan
    return shares


def _used(slot: ForecastSlot, hour: int, moved: Array, shares: Array) -> ForecastSlot:
    lead = hour_of(slot.start + (slot.end - slot.start) / 2) - hour
    if slot.mean_g_per_kwh is None or not 0 <= lead < LEADS_H:
        return slot
    factor = math.exp(moved[lead])
    mean = slot.mean_g_per_kwh * factor
    quantiles = tuple(level * factor for level in slot.quantiles) if slot.quantiles else None
    if np.isfinite(shares[lead]).all():
        quantiles = tuple(float(share) * mean for share in shares[lead])
    return ForecastSlot(slot.start, slot.end, mean, quantiles)


def _note(moved: Array, shares: Array) -> str:
    said: list[str] = []
    if moved.any():
        now, later = math.expm1(moved[0]), math.expm1(moved[DAY_H])
        said.append(f"corrected by what has come true since ({now:+.0%} now, {later:+.0%} in a day)")
    if np.isfinite(shares).any():
        said.append("spread by its past errors")
    return ", ".join(said)


def _logs(values: Mapping[int, float]) -> dict[int, float]:
    return {hour: math.log(max(value, _LEAST_G)) for hour, value in values.items()}


def _array(values: Mapping[int, float], start: int, end: int) -> Array:
    return np.array([values.get(hour, math.nan) for hour in range(start, end)])
