"""How good forecasts were: error, quantiles, and the share of the possible saving that planning on them captures.

Arrays are g/kWh, NaN where unknown, one zone each. `issued` is [hours, leads]: row t is the newest forecast that was out at
hour t, its first value for hour t itself. What is not known, or is zero or less, is left out and never counted as right.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from batchsched.forecasts.port import QUANTILES

Array = NDArray[np.floating[Any]]

DAY_H = 24


class Score(msgspec.Struct, frozen=True):
    """Means over the leads [from_h, to_h). What needs quantiles, or something to compare with, is NaN without it.

    `mape` is a fraction. `pinball_g` is the mean pinball loss over `QUANTILES`, g/kWh. `coverage90` is the share within the
    outer quantiles, `width90` their mean distance over the mean value. `skill` is 1 - mape / the reference's mape, NaN where that
    is zero.
    """

    from_h: int
    to_h: int
    count: int
    mape: float
    pinball_g: float = float("nan")
    coverage90: float = float("nan")
    width90: float = float("nan")
    skill: float = float("nan")


def score(
    actual: Array, mean: Array, quantiles: Array | None = None, reference: Array | None = None, *, bin_h: int = DAY_H
) -> list[Score]:
    """The scores of each `bin_h` hours of lead. `actual`, `mean`, `reference`: [issues, leads]; `quantiles`: one axis more.

    Only hours that forecast and reference both know are compared.
    """
    usable = np.isfinite(actual) & (actual > 0) & np.isfinite(mean)
    if reference is not None:
        usable &= np.isfinite(reference)
    return [
        _score(start, min(start + bin_h, actual.shape[1]), usable, actual, mean, quantiles, reference)
        for start in range(0, actual.shape[1], bin_h)
    ]


def _score(
    start: int, end: int, usable: NDArray[np.bool_], actual: Array, mean: Array, quantiles: Array | None, reference: Array | None
) -> Score:
    keep = usable[:, start:end]
    truth = actual[:, start:end][keep]
    if not truth.size:
        return Score(start, end, 0, float("nan"))
    mape = _mape(truth, mean[:, start:end][keep])
    theirs = _mape(truth, reference[:, start:end][keep]) if reference is not None else 0.0
    skill = 1 - mape / theirs if theirs else float("nan")  # what is never wrong cannot be bettered
    if quantiles is None:
        return Score(start, end, truth.size, mape, skill=skill)
    band = quantiles[:, start:end][keep]
    return Score(start, end, truth.size, mape, pinball(band, truth), *band_of(band, truth), skill)


def _mape(truth: Array, mean: Array) -> float:
    return float(np.mean(np.abs(mean - truth) / truth))


def pinball(quantiles: Array, truth: Array) -> float:
    """The mean pinball loss over `QUANTILES` (last axis) and all values that are known, g/kWh; NaN where none is."""
    below = truth[..., None] - quantiles
    if not np.isfinite(below).any():
        return float("nan")
    return float(np.nanmean(np.maximum(below * QUANTILES, below * (np.array(QUANTILES) - 1))))


def band_of(quantiles: Array, truth: Array) -> tuple[float, float]:
    """Coverage of the outer quantiles, and their mean distance over the mean value."""
    low, high = quantiles[..., 0], quantiles[..., -1]
    known = np.isfinite(low) & np.isfinite(high) & np.isfinite(truth)
    if not known.any():
        return float("nan"), float("nan")
    inside = (truth >= low) & (truth <= high)
    return float(inside[known].mean()), float((high - low)[known].mean() / truth[known].mean())


def newest(daily: Array, hours: int, *, every_h: int = DAY_H) -> Array:
    """Forecasts issued every `every_h` hours, [issues, leads], as they lie before the planner at each hour: [hours, leads].

    Past a forecast's end its last day is repeated.
    """
    leads = daily.shape[1]
    at = np.arange(hours)
    lead = (at % every_h)[:, None] + np.arange(leads)[None, :]
    over = np.maximum(lead - leads + DAY_H, 0) // DAY_H
    rows: Array = daily[np.minimum(at // every_h, len(daily) - 1)[:, None], lead - DAY_H * over]
    return rows


class Grams(msgspec.Struct, frozen=True):
    """Intensities summed over the hours that jobs ran: at once, by the policy, and by perfect foresight."""

    at_once: float = 0.0
    policy: float = 0.0
    perfect: float = 0.0

    def __add__(self, other: Grams) -> Grams:
        return Grams(self.at_once + other.at_once, self.policy + other.policy, self.perfect + other.perfect)

    @property
    def captured(self) -> float:
        """The share of the saving of perfect foresight over running at once; NaN where there is none to have."""
        possible = self.at_once - self.perfect
        return (self.at_once - self.policy) / possible if possible > 0 else float("nan")


def total(parts: Sequence[Grams]) -> Grams:
    """The sum over zones."""
    return sum(parts, Grams())


def replanned(issued: Array, actual: Array, window_h: int, *, work_h: int = 6, every_h: int = 3) -> Grams:
    """Divisible jobs of `work_h` hours, one every `every_h` hours, each planned anew at every hour on the newest forecast.

    A job runs now if this hour is among the cleanest that the rest of it needs, and when no hour is left to spare.
    """
    starts = _starts(actual, window_h, every_h, len(issued) - window_h + 1)
    left = np.full(len(starts), work_h)
    paid = np.zeros(len(starts))
    for step in range(window_h):
        now = starts + step
        ahead = _known_first(issued[now, : window_h - step])
        cleaner = (ahead[:, 1:] < ahead[:, :1]).sum(axis=1)
        runs = (left > 0) & ((cleaner < left) | (left >= window_h - step))
        paid += np.where(runs, actual[now], 0.0)
        left -= runs
    return _grams(paid, starts, actual, window_h, work_h)


def planned_once(
    issued: Array, actual: Array, window_h: int, *, work_h: int = 6, every_h: int = 3, contiguous: bool = False
) -> Grams:
    """The same jobs, planned when they arrive and never again: the cleanest hours, or the cleanest run of hours.

    Perfect foresight stays that of divisible jobs.
    """
    starts = _starts(actual, window_h, every_h, len(issued))
    ahead = _known_first(issued[starts, :window_h])
    came = actual[starts[:, None] + np.arange(window_h)]
    if contiguous:
        begin = _runs(ahead, work_h).argmin(axis=1)
        paid = _runs(came, work_h)[np.arange(len(starts)), begin]
    else:
        chosen = np.argsort(ahead, axis=1, kind="stable")[:, :work_h]
        paid = np.take_along_axis(came, chosen, axis=1).sum(axis=1)
    return _grams(paid, starts, actual, window_h, work_h)


def _known_first(issued: Array) -> Array:
    """What is unknown is never preferred."""
    return np.where(np.isfinite(issued), issued, np.inf)


def _runs(values: Array, length: int) -> Array:
    sums: Array = np.lib.stride_tricks.sliding_window_view(values, length, axis=1).sum(axis=2)
    return sums


def _starts(actual: Array, window_h: int, every_h: int, limit: int) -> NDArray[np.int64]:
    """Jobs whose window lies within what is known; a window with an unknown hour is left out."""
    starts = np.arange(0, min(limit, len(actual) - window_h + 1), every_h)
    unknown = np.concatenate([[0], np.cumsum(~np.isfinite(actual))])
    sound: NDArray[np.int64] = starts[unknown[starts + window_h] == unknown[starts]]
    return sound


def _grams(paid: Array, starts: NDArray[np.int64], actual: Array, window_h: int, work_h: int) -> Grams:
    came = actual[starts[:, None] + np.arange(window_h)]
    perfect = np.partition(came, work_h - 1, axis=1)[:, :work_h].sum() if came.size else 0.0
    return Grams(float(came[:, :work_h].sum()), float(paid.sum()), float(perfect))
