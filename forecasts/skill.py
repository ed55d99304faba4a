"""How good the archive's forecasts were, by lead, against naive: each as it first came, by what has come true since."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from batchsched.errors import ForecastUnavailable, InvalidValue, SignalMismatch
from batchsched.forecasts.archive.records import Feed
from batchsched.forecasts.blended import in_force
from batchsched.forecasts.evaluation import DAY_H, Array, Score, replanned, score
from batchsched.forecasts.figures import Skill
from batchsched.forecasts.persistence import hour_of, hourly, hours_of, instant_of, truth_of
from batchsched.forecasts.port import QUANTILES, IntensityForecast, Realised, Signal

if TYPE_CHECKING:
    from batchsched.forecasts.archive import Archive
    from batchsched.forecasts.chain import Chain

LEADS_H = 96
LONGEST = timedelta(days=366)
MOST_ISSUES = 400
MOST_SERVED = 28  # what was served is worked out again for each, which takes up to half a second where its day is played through
AS_SERVED = "as served"
CAPTURED = timedelta(days=92)  # what was captured is looked at hour by hour, so not over longer spans than this


def skill_of(
    archive: Archive, zone: str, start: datetime, end: datetime, now: datetime, *, bin_h: int = DAY_H, chain: Chain | None = None
) -> list[Skill]:
    """Everyone who issued forecasts of a zone in [start, end), by their leads. Of more than one issue an hour the first counts.

    Over more than two weeks it is the first of more hours, so that some hundred remain. Last comes what the zone's chain served
    at 28 instants at most, which takes 15 s at most. Raises InvalidValue for more than a year.
    """
    if end - start > LONGEST:
        raise InvalidValue(f"At most {LONGEST.days} days are looked at at once.", param="start")
    found: list[Skill] = []
    for feed in archive.feeds(zone):
        issues = _issues(archive, feed, start, end, now)
        if issues:
            truth = _truth(archive, feed, issues, now)
            judged = _judged(feed, issues, truth, bin_h)
            captured = _captured(archive, feed, max(start, end - CAPTURED), end, now, truth) if bin_h == DAY_H else {}
            found += [msgspec.structs.replace(one, captured=captured.get(one.to_h)) for one in judged]
    return found + (_served(archive, chain.afresh(), zone, start, min(end, now), now, bin_h) if chain else [])


def _served(archive: Archive, chain: Chain, zone: str, start: datetime, end: datetime, now: datetime, bin_h: int) -> list[Skill]:
    """What plans read at some hours of [start, end), corrected and with the spread that the source's past gave it."""
    if zone not in chain.chained():
        return []
    each_h = max(math.ceil((end - start) / timedelta(hours=MOST_SERVED)), 1) | 1  # odd, to wander round the clock
    issues: list[IntensityForecast] = []
    for hour in range(math.ceil(start.timestamp() / 3600), math.ceil(end.timestamp() / 3600), each_h):
        at = instant_of(hour)
        with suppress(ForecastUnavailable):
            given = chain.forecast(zone, at, at + timedelta(hours=LEADS_H))
            issues.append(msgspec.structs.replace(given, issued_at=at))
    if not issues:
        return []
    feed = Feed(zone, AS_SERVED, str(chain.signal_of(zone)))
    by = ", ".join(f"{name} {count}" for name, count in Counter(issue.provider for issue in issues).most_common())
    return _judged(feed, issues, _truth(archive, feed, issues, now), bin_h, by)


def _issues(archive: Archive, feed: Feed, start: datetime, end: datetime, now: datetime) -> list[IntensityForecast]:
    each_h = max(math.ceil((end - start) / timedelta(hours=MOST_ISSUES)), 1)
    signal = Signal.parse(feed.signal)
    found = archive.first_of_each(each_h, feed.zone, start, end, as_of=now, provider=feed.provider, signal=signal)
    return [receipt.forecast for receipt in found]


def _truth(archive: Archive, feed: Feed, issues: list[IntensityForecast], now: datetime) -> dict[int, float]:
    since = issues[0].issued_at - timedelta(hours=2 * DAY_H)
    until = issues[-1].issued_at + timedelta(hours=LEADS_H + 1)
    try:
        values: list[Realised] = archive.realised(feed.zone, since, until, as_of=now, signal=Signal.parse(feed.signal))
    except SignalMismatch:  # only another signal was ever measured
        return {}
    return truth_of(values, now)


def _judged(feed: Feed, issues: list[IntensityForecast], truth: Mapping[int, float], bin_h: int, by: str = "") -> list[Skill]:
    known_to = np.array([hour_of(issue.issued_at) for issue in issues])[:, None]
    begun = np.array([hour_of(issue.issued_at) * 3600 < issue.issued_at.timestamp() for issue in issues])[:, None]
    target = known_to + begun + np.arange(LEADS_H)
    actual = _looked_up(truth, target)
    naive = _looked_up(truth, known_to + (target - known_to) % DAY_H - DAY_H)
    mean = np.stack([_looked_up(hours_of(issue), hours) for issue, hours in zip(issues, target, strict=True)])
    bands = np.stack([_band(issue, hours) for issue, hours in zip(issues, target, strict=True)])
    spread = bands if np.isfinite(bands).any() else None
    scores = score(actual, mean, spread, naive, bin_h=bin_h)
    return [_skill(feed, len(issues), one, by) for one in scores if one.count]


def _captured(
    archive: Archive, feed: Feed, start: datetime, end: datetime, now: datetime, truth: Mapping[int, float]
) -> dict[int, float | None]:
    """What planning on a feed would have captured, by hours of window; past a forecast's end its last day is repeated."""
    hours = np.arange(hour_of(start), hour_of(end))
    if not hours.size:
        return {}
    since, signal = start - timedelta(hours=LEADS_H), Signal.parse(feed.signal)
    receipts = archive.each_hour(feed.zone, since, end, as_of=now, provider=feed.provider, signal=signal)
    rows = in_force(hours, list(receipts))[0]
    for lead in range(DAY_H, LEADS_H):
        rows[:, lead] = np.where(np.isnan(rows[:, lead]), rows[:, lead - DAY_H], rows[:, lead])
    actual = _looked_up(truth, hours)
    windows = range(DAY_H, LEADS_H + 1, DAY_H)
    return {window: _rounded(replanned(rows, actual, window).captured) for window in windows}


def _band(issue: IntensityForecast, hours: NDArray[np.int64]) -> Array:
    levels = [
        hourly((slot.start, slot.end, slot.quantiles[n] if slot.quantiles else None) for slot in issue.slots)
        for n in range(len(QUANTILES))
    ]
    return np.stack([_looked_up(level, hours) for level in levels], axis=-1)


def _looked_up(values: Mapping[int, float], hours: NDArray[np.int64]) -> Array:
    return np.array([values.get(hour, math.nan) for hour in hours.ravel().tolist()]).reshape(hours.shape)


def _skill(feed: Feed, issues: int, one: Score, by: str) -> Skill:
    naive = one.mape / (1 - one.skill) if one.skill < 1 else math.nan
    return Skill(
        *feed,
        issues,
        one.from_h,
        one.to_h,
        one.count,
        _rounded(one.mape),
        _rounded(naive),
        _rounded(one.skill),
        _rounded(one.pinball_g),
        _rounded(one.coverage90),
        _rounded(one.width90),
        served_by=by,
    )


def _rounded(figure: float) -> float | None:
    return round(figure, 4) if math.isfinite(figure) else None
