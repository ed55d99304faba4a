"""What a model sees of a zone, gathered from the archive as it was known at an instant, and nothing that reached us later.

To learn: the zone's past, and beside it the other zones of the same signal that were measured over the same time. To forecast:
the last weeks of all that the model has learnt with; what has fallen silent since is unknown, which to a model means nothing
out of the ordinary.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from batchsched.errors import ForecastUnavailable, SignalMismatch
from batchsched.feeds import OWN
from batchsched.forecasts.archive.records import instant
from batchsched.forecasts.models import History
from batchsched.forecasts.models.history import DAY_H, WEEK_H, Floats, trailing_mean
from batchsched.forecasts.models.model import LEAST_H
from batchsched.forecasts.persistence import hour_of, instant_of
from batchsched.forecasts.weather import as_seen
from batchsched.forecasts.zones import utc_offset_h

if TYPE_CHECKING:
    from batchsched.forecasts.archive import Archive
    from batchsched.forecasts.models import Model, Weather
    from batchsched.forecasts.port import Signal

LOOK_BACK = timedelta(weeks=10)  # what a model looks at when it forecasts
LEARN_FROM = timedelta(days=3 * 366)  # what it learns from
MOST_BESIDE = 24
OLDEST_RUN = timedelta(days=3)
WIND, STORAGE = "wind", "storage"
_LATELY_H = 4 * WEEK_H


class Gathered:
    """The archive, as models see it."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive

    def to_learn(self, zone: str, signal: Signal, now: datetime) -> History:
        """The last three years at most. Raises ForecastUnavailable where nothing is known."""
        first, values = self._known(zone, signal, now - LEARN_FROM, now)
        seen = self._history(zone, now, first, values, self._beside(zone, signal, now, first, values))
        beside = {name: _alive(other) for name, other in seen.beside.items()}
        return replace(_alive(seen), weather=self._weather(zone, LEARN_FROM, now), beside=beside)

    def to_forecast(self, model: Model, signal: Signal, now: datetime) -> History:
        """The last weeks, with all that the model looks at. Raises ForecastUnavailable where nothing of the zone is known."""
        first, values = self._known(model.zone, signal, now - LOOK_BACK, now)
        others = {name: self._hours(name, signal, first, now) for name in model.profile.beside}
        seen = self._history(model.zone, now, first, values, others)
        beside = {name: replace(other, mix=_with(other.mix, [WIND], other)) for name, other in seen.beside.items()}
        weather = self._weather(model.zone, LOOK_BACK, now, model.profile.weather) if model.profile.weather else None
        return replace(seen, mix=_with(seen.mix, model.profile.sources, seen), weather=weather, beside=beside)

    def _known(self, zone: str, signal: Signal, since: datetime, now: datetime) -> tuple[int, Floats]:
        """The hours from the first known one to `now`, and when that was."""
        first = hour_of(since)
        values = self._hours(zone, signal, first, now)
        known = np.flatnonzero(np.isfinite(values))
        if not len(known):
            raise ForecastUnavailable(
                f"Nothing that came true in '{zone}' is known yet.", hint="Import it, or ask for a backfill."
            )
        return first + int(known[0]), values[known[0] :]

    def _hours(self, zone: str, signal: Signal, first: int, now: datetime) -> Floats:
        try:
            return self._archive.hours(zone, first, hour_of(now), as_of=now, signal=signal).astype(np.float32)
        except SignalMismatch:  # it was gathered by another signal
            return np.full(hour_of(now) - first, np.nan, np.float32)

    def _history(self, zone: str, now: datetime, first: int, values: Floats, beside: Mapping[str, Floats]) -> History:
        begins_at = instant_of(first)
        others = {name: History(name, begins_at, other, self._mix(name, first, now)) for name, other in beside.items()}
        return History(zone, begins_at, values, self._mix(zone, first, now), None, utc_offset_h(zone), others)

    def _mix(self, zone: str, first: int, now: datetime) -> dict[str, Floats]:
        found = self._archive.generation(zone, first, hour_of(now), as_of=now)
        return {fuel: np.maximum(mw, 0).astype(np.float32) for fuel, mw in found.items() if fuel != STORAGE}

    def _weather(self, zone: str, span: timedelta, now: datetime, names: Iterable[str] | None = None) -> Weather | None:
        """To learn: none where no run came of late."""
        runs = self._archive.weather(zone, now - span, now, as_of=now)
        if names is None and not any(instant(run.issued_at) >= now - OLDEST_RUN for run in runs):
            return None
        return as_seen(runs, names)

    def _beside(self, zone: str, signal: Signal, now: datetime, first: int, values: Floats) -> dict[str, Floats]:
        """The zones that were known half of the time, and lately: those whose days go most with this one's, if there are many."""
        feeds = self._archive.feeds()
        names = sorted({feed.zone for feed in feeds if feed.signal == str(signal) and feed.provider != OWN} - {zone})
        own, found, likeness = _unusual(values), dict[str, Floats](), dict[str, float]()
        for name in names:
            other = self._hours(name, signal, first, now)
            common = np.isfinite(values) & np.isfinite(other)
            if common.sum() >= max(LEAST_H, len(values) / 2) and _lately(common):
                found[name] = other
                likeness[name] = float(np.nan_to_num(abs(np.corrcoef(own, _unusual(other))[0, 1])))
        return {name: found[name] for name in sorted(sorted(found, key=lambda name: -likeness[name])[:MOST_BESIDE])}


def _alive(history: History) -> History:
    """Without the fuels that have not been heard of lately: a model must not count on them."""
    return replace(history, mix={fuel: mw for fuel, mw in history.mix.items() if _lately(np.isfinite(mw))})


def _lately(known: NDArray[np.bool_]) -> bool:
    return bool(known[-_LATELY_H:].sum() >= _LATELY_H / 2)


def _with(mix: Mapping[str, Floats], fuels: Iterable[str], history: History) -> dict[str, Floats]:
    """The mix, and nothing known of the fuels that it lacks."""
    unknown = np.full(len(history.intensity), np.nan, np.float32)
    return {**dict.fromkeys(fuels, unknown), **mix}


def _unusual(values: Floats) -> Floats:
    """How far each day's mean lies from that of its week, by hour."""
    return np.nan_to_num(trailing_mean(values, DAY_H) - trailing_mean(values, WEEK_H))
