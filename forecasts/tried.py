"""A model that has not seen the last weeks, tried on them: how good it is, and what a calibrator and a blend learn from that."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np

from batchsched.forecasts.blended import Blended
from batchsched.forecasts.calibration import Calibrator, walk
from batchsched.forecasts.evaluation import score
from batchsched.forecasts.models import History, Model
from batchsched.forecasts.models.model import HORIZON_H

if TYPE_CHECKING:
    from batchsched.forecasts.archive import Receipt

HELD_OUT_H = 28 * 24
ISSUES_EVERY_H = 23  # held-out issues wander round the clock
LATEST_REPORT_H = 24


def delay_of(history: History, now: datetime) -> int:
    """How many of the last hours before that of `now` are not known yet."""
    return history.index(now) - int(np.flatnonzero(np.isfinite(history.intensity)).max()) - 1


def tried(
    history: History, now: datetime, receipts: Sequence[Receipt]
) -> tuple[Calibrator, Blended | None, tuple[datetime | None, float | None, float | None]]:
    """How one does that has not seen the last weeks: a calibrator and a blend that learnt from it; since when, error, skill."""
    calibrator, hours = Calibrator(), len(history.intensity)
    begin = hours - min(HELD_OUT_H, hours // 2)
    issues = np.arange(begin, hours - 24, ISSUES_EVERY_H)
    if begin < 48 or not len(issues):
        return calibrator, None, (None, None, None)
    delay_h = min(delay_of(history, now), LATEST_REPORT_H)
    trial = Model.fit(history, history.at(begin))
    blended = Blended(history.first_hour + begin)
    means = np.stack([blended.issue(trial, history, delay_h, receipts, place) for place in issues.tolist()])
    lead = np.arange(HORIZON_H)
    ahead = np.concatenate([history.intensity, np.full(HORIZON_H, np.nan, np.float32)])
    actual = ahead[issues[:, None] + lead]
    naive = history.intensity[issues[:, None] - delay_h + (lead + delay_h) % 24 - 24]
    walk(calibrator, means, history.intensity, begin, every_h=ISSUES_EVERY_H, delay_h=delay_h, origin=history.first_hour)
    found = score(actual, means, reference=naive, bin_h=HORIZON_H)[0]
    if not found.count:
        return calibrator, blended, (None, None, None)
    return (
        calibrator,
        blended,
        (history.at(begin), round(found.mape, 4), round(found.skill, 4) if found.skill == found.skill else None),
    )
