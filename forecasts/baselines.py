"""The forecasts that any other must better: the last known day again, and the typical day moved to the level of late.

Arrays are hourly, g/kWh, NaN where unknown. Row t of an answer is made with hours before `first + t` only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from batchsched.forecasts.evaluation import Array

LEADS_H = 96
DAY_H, WEEK_H = 24, 168
LEVEL_H = 72


def naive(values: Array, first: int, count: int, leads: int = LEADS_H) -> Array:
    """For each hour from `values[first]` on, the same hour of the last known day, again and again: [count, leads]."""
    start = first + np.arange(count)[:, None]
    rows: Array = values[start - DAY_H + np.arange(leads)[None, :] % DAY_H]
    return rows


def levelled(values: Array, typical: Array, first: int, count: int, leads: int = LEADS_H) -> Array:
    """The typical value of each hour, moved by what the last 72 h lay above it. `typical` reaches `leads` past the last row."""
    start = first + np.arange(count)[:, None]
    lately = start - LEVEL_H + np.arange(LEVEL_H)[None, :]
    above = (values - typical[: len(values)])[lately]
    known = np.isfinite(above)
    with np.errstate(invalid="ignore"):
        moved = np.where(known, above, 0.0).sum(axis=1) / known.sum(axis=1)
    rows: Array = np.maximum(typical[start + np.arange(leads)[None, :]] + moved[:, None], 0.0)
    return rows


def typical_day(values: Array, month: NDArray[Any], hour: NDArray[Any], until: int) -> Array:
    """The mean of each month and hour of the day over `values[:until]`, laid out over all of `month` and `hour`."""
    key = month.astype(int) * DAY_H + hour.astype(int)
    known = np.isfinite(values[:until])
    sums = np.bincount(key[:until][known], values[:until][known], minlength=13 * DAY_H)
    counts = np.bincount(key[:until][known], minlength=13 * DAY_H)
    with np.errstate(invalid="ignore"):
        means: Array = (sums / counts)[key]
    return means
