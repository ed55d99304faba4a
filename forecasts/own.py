"""Our own forecasts as one more source: of each zone, from what its sources have measured, learnt anew every week.

Everything is read from the archive as it was known at the instant that is asked for. What was learnt lies in files beside it, so
that a restart, or another server of the same archive, goes on from there.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import msgspec

from batchsched.clock import Clock
from batchsched.errors import ForecastUnavailable, SignalMismatch
from batchsched.feeds import OWN
from batchsched.forecasts.figures import Trained
from batchsched.forecasts.persistence import hour_of, instant_of, truth_of
from batchsched.forecasts.port import ForecastSlot, IntensityForecast, Realised, Signal

if TYPE_CHECKING:
    from batchsched.forecasts.archive import Archive
    from batchsched.forecasts.calibration import Calibrator
    from batchsched.forecasts.models import History, Model

log = logging.getLogger(__name__)

REFRESH_S = 300.0
FRESH_S = 6 * 3600.0
LEARNT_ANEW = timedelta(days=7)
LOOK_BACK = timedelta(weeks=10)  # what a model looks at when it forecasts
LEARN_FROM = timedelta(days=3 * 366)  # what it learns from
HELD_OUT_H = 28 * 24
ISSUES_EVERY_H = 23  # held-out issues wander round the clock
HORIZON_H = 96
LATEST_REPORT_H = 24


class Own:
    """The source `own`. `signals`: its zones, and the figure of each. `folder`: where what was learnt is kept."""

    name = OWN
    has_forecast = True
    has_history = False

    def __init__(self, archive: Archive, signals: Mapping[str, Signal], folder: Path, clock: Clock) -> None:
        self._archive = archive
        self._signals = signals
        self._folder = folder
        self._clock = clock
        self._training = threading.Lock()

    def zones(self) -> list[str]:
        """Those of which something was measured."""
        archived = {feed.zone for feed in self._archive.feeds() if feed.provider != OWN}
        return sorted(self._signals.keys() & archived)

    def signal_of(self, zone: str) -> Signal:
        """The zone's. Raises ForecastUnavailable for an unknown one."""
        if zone not in self._signals:
            raise ForecastUnavailable(f"No source measures '{zone}', so nothing can be learnt of it.")
        return self._signals[zone]

    def fetch_forecast(self, zone: str, now: datetime) -> IntensityForecast:
        """The one of this hour, made if it is not there yet. The first one, and one a week, takes the time to train.

        Raises ForecastUnavailable where less than a day of the zone is known.
        """
        signal, hour = self.signal_of(zone), instant_of(hour_of(now))
        made = self._archive.newest(zone, as_of=now, provider=OWN, signal=signal) if self._has_made(zone, signal) else None
        if made and made.issued_at >= hour:
            return made
        model = self._model(zone, now) or self.train(zone, now)[1]
        values = self._measured(zone, now - LOOK_BACK, now)
        means = model.predict(_history(zone, values, now), now)
        slots = (ForecastSlot(instant_of(at), instant_of(at + 1), float(mean)) for at, mean in enumerate(means, hour_of(now)))
        forecast = IntensityForecast(
            zone, now, OWN, signal, tuple(slots), licence=f"from what its sources measured: {model.name}"
        )
        return self._calibrated(forecast, values, now)

    def fetch_realised(self, zone: str, start: datetime, end: datetime, now: datetime) -> list[Realised]:  # noqa: ARG002
        """Nothing: it measures nothing."""
        return []

    def train(self, zone: str, now: datetime) -> tuple[Trained, Model]:
        """Learn a zone anew from what was known at `now`: seconds to a minute. Raises ForecastUnavailable where nothing was."""
        from batchsched.forecasts.models import Model

        with self._training:
            began_s = self._clock.monotonic()
            history = _history(zone, self._measured(zone, now - LEARN_FROM, now), now)
            log.info("Learning '%s' from %d hours.", zone, len(history.intensity))
            calibrator, held_out = _tried(history, now)
            model = Model.fit(history, now)
            self._store(zone, ".model", model)
            if not self._path(zone, ".errors").exists():
                self._keep(zone, calibrator)
            seconds = self._clock.monotonic() - began_s
            log.info("Learnt '%s' in %.0f s: %s.", zone, seconds, model.name)
        known_h = int((history.intensity == history.intensity).sum())
        signal = str(self.signal_of(zone))
        done = Trained(zone, signal, model.name, model.trained_from, model.trained_until, known_h, seconds, *held_out)
        return done, model

    def _has_made(self, zone: str, signal: Signal) -> bool:
        return any(feed.provider == OWN and feed.signal == str(signal) for feed in self._archive.feeds(zone))

    def _measured(self, zone: str, start: datetime, now: datetime) -> list[Realised]:
        try:
            return self._archive.realised(zone, start, now, as_of=now, signal=self.signal_of(zone))
        except SignalMismatch:  # so far it was gathered by another signal
            return []

    def _model(self, zone: str, now: datetime) -> Model | None:
        """The stored one, where it is of this version, not from the future and not too old to use."""
        from batchsched.forecasts.models import Model
        from batchsched.forecasts.models.model import VERSION
        from batchsched.forecasts.stored import load

        found = load(self._path(zone, ".model"), Model)
        if found is None or found.version != VERSION or found.trained_until > now:
            return None
        # one that had too little to learn from looks again every day
        lasts = LEARNT_ANEW if found.linear else timedelta(days=1)
        return found if now - found.trained_until < lasts else None

    def _calibrated(self, forecast: IntensityForecast, values: list[Realised], now: datetime) -> IntensityForecast:
        from batchsched.forecasts.calibrated import learn, with_quantiles
        from batchsched.forecasts.calibration import Calibrator

        try:
            calibrator = Calibrator.from_bytes(self._path(forecast.zone, ".errors").read_bytes())
        except (OSError, ValueError, msgspec.DecodeError):
            calibrator = Calibrator()
        learn(calibrator, values, now)
        found = with_quantiles(forecast, calibrator)
        self._keep(forecast.zone, calibrator)
        return found

    def _keep(self, zone: str, calibrator: Calibrator) -> None:
        from batchsched.forecasts.stored import store

        store(self._path(zone, ".errors"), calibrator.to_bytes())

    def _store(self, zone: str, suffix: str, content: object) -> None:
        from batchsched.forecasts.stored import packed, store

        store(self._path(zone, suffix), packed(content))

    def _path(self, zone: str, suffix: str) -> Path:
        signal = self.signal_of(zone)
        return self._folder / f"{quote(zone, safe='')}.{signal.kind}-{signal.scope}{suffix}"


def _history(zone: str, values: list[Realised], now: datetime) -> History:
    """The hours from the first known one to `now`. Raises ForecastUnavailable where there is none."""
    import numpy as np

    from batchsched.forecasts.models import History

    truth = truth_of(values, now)
    if not truth:
        raise ForecastUnavailable(f"Nothing that came true in '{zone}' is known yet.", hint="Import it, or ask for a backfill.")
    first = min(truth)
    hours = range(first, hour_of(now))
    return History(zone, instant_of(first), np.array([truth.get(hour, np.nan) for hour in hours], np.float32))


def _tried(history: History, now: datetime) -> tuple[Calibrator, tuple[datetime | None, float | None, float | None]]:
    """How a model does that has not seen the last weeks: a calibrator of its errors, since when, and its error and skill."""
    import numpy as np

    from batchsched.forecasts.calibration import Calibrator, walk
    from batchsched.forecasts.evaluation import score
    from batchsched.forecasts.models import Model
    from batchsched.forecasts.models.model import mean_log

    calibrator, hours = Calibrator(), len(history.intensity)
    begin = hours - min(HELD_OUT_H, hours // 2)
    issues = np.arange(begin, hours - 24, ISSUES_EVERY_H)
    if begin < 48 or not len(issues):
        return calibrator, (None, None, None)
    known = int(np.flatnonzero(np.isfinite(history.intensity)).max()) + 1
    delay_h = min(history.index(now) - known, LATEST_REPORT_H)
    trial = Model.fit(history, history.at(begin))
    means = np.exp(mean_log(trial.members(history, issues, delay_h=delay_h)))
    lead = np.arange(HORIZON_H)
    ahead = np.concatenate([history.intensity, np.full(HORIZON_H, np.nan, np.float32)])
    actual = ahead[issues[:, None] + lead]
    naive = history.intensity[issues[:, None] - delay_h + (lead + delay_h) % 24 - 24]
    walk(calibrator, means, history.intensity, begin, every_h=ISSUES_EVERY_H, delay_h=delay_h, origin=history.first_hour)
    found = score(actual, means, reference=naive, bin_h=HORIZON_H)[0]
    if not found.count:
        return calibrator, (None, None, None)
    return calibrator, (history.at(begin), round(found.mape, 4), round(found.skill, 4))
