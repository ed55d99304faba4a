"""The forecaster of one zone: naive and linear members, learnt from its history up to a moment and nothing after it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np

from batchsched.errors import ForecastUnavailable
from batchsched.forecasts.models.features import VERSION as FEATURES
from batchsched.forecasts.models.features import Features, Profile
from batchsched.forecasts.models.history import DAY_H, WEEK_H, Floats, History, Integers
from batchsched.forecasts.models.linear import Linear

VERSION = f"1.{FEATURES}"
HORIZON_H = 96
_LEADS_H = HORIZON_H + DAY_H  # from the last known hour on, so that reports may come a day late
LEAST_H = 12 * WEEK_H  # of known hours; with less there is only the seasonal naive forecast
WARM_UP_H = 4 * WEEK_H
_YEAR_H = 8766.0
NAIVE, LINEAR, BESIDE = "naive", "linear", "beside"


@dataclass(frozen=True)
class Model:
    """What was learnt of a zone until `trained_until`. Without `linear` the past was too short, and it answers naively."""

    zone: str
    trained_from: datetime
    trained_until: datetime
    profile: Profile
    linear: tuple[Linear, ...] = ()
    version: str = VERSION

    @classmethod
    def fit(cls, history: History, known_until: datetime) -> Model:
        """Learn from what was known then: whatever the history holds after it changes nothing. A few seconds."""
        history = history.until(known_until)
        profile = Profile.of(history)
        plain = cls(history.zone, history.begins_at, known_until, profile)
        if np.isfinite(history.intensity).sum() < LEAST_H:
            return plain
        features = Features(history, profile)
        issues = np.arange(WARM_UP_H, len(history.intensity))
        ways = (False, True) if profile.beside else (False,)
        linear = tuple(Linear.fit(features, issues, _LEADS_H, 2 * _YEAR_H, beside=beside) for beside in ways)
        return replace(plain, linear=linear)

    @property
    def name(self) -> str:
        """What it is, in words for people."""
        return "linear" if self.linear else "seasonal naive (too little history to learn from)"

    def predict(self, history: History, issued_at: datetime, *, delay_h: int = 0) -> Floats:
        """Means of the 96 hours from the one that holds `issued_at`, g/kWh, by what was known `delay_h` before it.

        Raises ForecastUnavailable where not even a day of history was known.
        """
        issue = history.index(issued_at)
        history = history.until(history.at(issue - delay_h))
        known = int(np.flatnonzero(np.isfinite(history.intensity)).max(initial=-1)) + 1
        if known < DAY_H:
            raise ForecastUnavailable(f"Of '{history.zone}' less than a day was known by {issued_at:%Y-%m-%d %H:%M} UTC.")
        return np.asarray(np.exp(mean_log(self.members(history, np.array([issue]), delay_h=issue - known))[0]))

    def members(self, history: History, issues: Integers, *, delay_h: int = 0) -> dict[str, Floats]:
        """What each member expects, logarithms, [issues, 96] from the place of each issue on.

        An issue knows what lies `delay_h` before it. Delays above a day leave only the naive member.
        """
        features, known = Features(history, self.profile), issues - delay_h
        leads = delay_h + np.arange(HORIZON_H)
        found = {NAIVE: features.base(known[:, None], known[:, None] + leads)}
        models = [model for model in self.linear if not model.beside or features.beside is not None]
        if not models or leads[-1] >= _LEADS_H:
            return found
        found |= {BESIDE if model.beside else LINEAR: model.logs(features, known)[:, leads] for model in models}
        return found


def mean_log(members: dict[str, Floats]) -> Floats:
    """The members' plain mean; the naive one counts only where it stands alone."""
    chosen = [values for name, values in members.items() if name != NAIVE] or list(members.values())
    return np.asarray(np.mean(chosen, axis=0), np.float32)
