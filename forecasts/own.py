"""Our own forecasts as one more source: of each zone, from what its sources have measured, learnt anew every week.

Everything is read from the archive as it was known at the instant that is asked for. What was learnt lies in files beside it, so
that a restart, or another server of the same archive, goes on from there.
"""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import msgspec

from batchsched.clock import Clock
from batchsched.errors import ForecastUnavailable, SignalMismatch
from batchsched.feeds import OWN
from batchsched.forecasts.figures import Trained
from batchsched.forecasts.finer import in_steps, step_of
from batchsched.forecasts.gathered import LOOK_BACK, Gathered
from batchsched.forecasts.persistence import hour_of, instant_of
from batchsched.forecasts.port import IntensityForecast, Realised, Signal, licences
from batchsched.forecasts.tried import LATEST_REPORT_H, delay_of, tried

if TYPE_CHECKING:
    from batchsched.forecasts.archive import Archive, Receipt
    from batchsched.forecasts.calibration import Calibrator
    from batchsched.forecasts.models import History, Model
    from batchsched.forecasts.models.history import Floats

log = logging.getLogger(__name__)

REFRESH_S = 300.0
FRESH_S = 6 * 3600.0
LEARNT_ANEW = timedelta(days=7)
TRIED = timedelta(days=50)  # the provider's forecasts over those weeks, and over those that their first day looks back on
BLENDED = timedelta(weeks=3)  # the same where only the last issues are new
RECENT = timedelta(weeks=4)  # what is plausible
WORTH_BLENDING = timedelta(weeks=6)


class Own:
    """The source `own`. `signals`: its zones, and the figure of each. `folder`: where what was learnt is kept."""

    name = OWN
    has_forecast = True
    has_history = False

    def __init__(
        self,
        archive: Archive,
        signals: Mapping[str, Signal],
        folder: Path,
        clock: Clock,
        others: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """`others`: who else forecasts a zone, the best one first."""
        self._archive = archive
        self._gathered = Gathered(archive)
        self._signals = signals
        self._others = others or {}
        self._folder = folder
        self._clock = clock

    def relink(self, signals: Mapping[str, Signal], others: Mapping[str, Sequence[str]]) -> None:
        """From now on these are the zones, and who else forecasts each."""
        self._signals, self._others = signals, others

    def zones(self) -> list[str]:
        """Those of which something was measured; where somebody else forecasts one too, not before six weeks of it are known."""
        archived = {feed.zone for feed in self._archive.feeds() if feed.provider != OWN}
        return [zone for zone in sorted(self._signals.keys() & archived) if not self._holds_back(zone, self._clock.now())]

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
        with self._alone(zone):
            return self._issue(model, zone, now)

    def _issue(self, model: Model, zone: str, now: datetime) -> IntensityForecast:
        signal = self.signal_of(zone)
        provided = self._provided(zone, now - BLENDED, now)
        means, with_whom = self._blended(model, self._gathered.to_forecast(model, signal, now), provided, now)
        values = self._measured(zone, now - LOOK_BACK, now)
        slots = in_steps(hour_of(now), means.tolist(), step_of(values))
        note = f"from what its sources measured: {model.name}{with_whom}"
        licence = licences(values, [one.forecast for one in provided])
        forecast = IntensityForecast(zone, now, OWN, signal, slots, licence, note=note)
        return self._calibrated(forecast, values, now)

    def fetch_realised(self, zone: str, start: datetime, end: datetime, now: datetime) -> list[Realised]:  # noqa: ARG002
        """Nothing: it measures nothing."""
        return []

    def train(self, zone: str, now: datetime) -> tuple[Trained, Model]:
        """Learn a zone anew from what was known at `now`: seconds to a minute, in any server that shares the archive.

        Raises ForecastUnavailable where nothing was known.
        """
        from batchsched.forecasts.models import Model

        with self._alone(zone):
            began_s = self._clock.monotonic()
            history = self._gathered.to_learn(zone, self.signal_of(zone), now)
            log.info("Learning '%s' from %d hours, with %d zones beside.", zone, len(history.intensity), len(history.beside))
            calibrator, blended, held_out = tried(history, now, self._provided(zone, now - TRIED, now))
            model = Model.fit(history, now)
            self._store(zone, ".model", model)
            if not self._path(zone, ".errors").exists():
                self._keep(zone, calibrator)
            if blended is not None:
                self._store(zone, ".blend", blended)
            seconds = self._clock.monotonic() - began_s
            log.info("Learnt '%s' in %.0f s: %s.", zone, seconds, model.name)
        known_h = int((history.intensity == history.intensity).sum())
        signal = str(self.signal_of(zone))
        done = Trained(zone, signal, model.name, model.trained_from, model.trained_until, known_h, seconds, *held_out)
        return done, model

    @contextmanager
    def _alone(self, zone: str) -> Generator[None]:
        """What was learnt of a zone is changed by one at a time, of all servers that share the folder."""
        path = self._path(zone, ".lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def _holds_back(self, zone: str, now: datetime) -> bool:
        """A blend that has seen little might be worse than the forecast that it was made of."""
        known = sum((value.end - value.start for value in self._measured(zone, now - LOOK_BACK, now)), timedelta())
        return known < WORTH_BLENDING and bool(self._other(zone, now - TRIED, now))

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

    def _blended(self, model: Model, history: History, provided: Sequence[Receipt], now: datetime) -> tuple[Floats, str]:
        """The 96 means: the model's, moved by its late errors, and with the zone's provider by how both have done; and which."""
        from batchsched.forecasts.blended import Blended
        from batchsched.forecasts.models.blend import VERSION
        from batchsched.forecasts.stored import load

        place = history.index(now)
        delay_h = delay_of(history, now)
        if delay_h > LATEST_REPORT_H or place - delay_h < 2 * 24:
            return model.predict(history, now), ""
        blended = load(self._path(history.zone, ".blend"), Blended)
        if blended is None or blended.version != VERSION or blended.until > hour_of(now):
            blended = Blended(hour_of(now) - delay_h)
        means = blended.issue(model, history, delay_h, provided, place)
        self._store(history.zone, ".blend", blended)
        name = provided[-1].forecast.provider if provided else ""
        if blended.left_out:
            return means, f", without {name}, which suddenly says something else"
        return means, f", blended with {name}" if name else ""

    def _provided(self, zone: str, start: datetime, now: datetime) -> list[Receipt]:
        """The forecasts of the first of the zone's other sources that has any."""
        from batchsched.forecasts.provided import provided

        name = self._other(zone, start, now)
        if not name:
            return []
        return provided(self._archive, zone, self.signal_of(zone), name, start, now, self._measured(zone, now - RECENT, now))

    def _other(self, zone: str, since: datetime, now: datetime) -> str:
        from batchsched.forecasts.provided import first_that_forecasts

        return first_that_forecasts(self._archive, zone, self.signal_of(zone), self._others.get(zone, ()), since, now)

    def learnt(self, zone: str) -> Calibrator | None:
        """How its forecasts of a zone have erred, which says what goes together; None where nothing is kept of that."""
        from batchsched.forecasts.calibration import Calibrator

        try:
            return Calibrator.from_bytes(self._path(zone, ".errors").read_bytes())
        except (ForecastUnavailable, OSError, ValueError, msgspec.DecodeError):
            return None

    def _calibrated(self, forecast: IntensityForecast, values: list[Realised], now: datetime) -> IntensityForecast:
        from batchsched.forecasts.calibrated import learn, with_quantiles
        from batchsched.forecasts.calibration import Calibrator

        calibrator = self.learnt(forecast.zone) or Calibrator()
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
