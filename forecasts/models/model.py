"""The forecaster of one zone: naive, linear and boosted members, learnt from its history up to a moment and nothing after it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np

from batchsched.errors import ForecastUnavailable
from batchsched.forecasts.models.boosted import Boosted, Recipe
from batchsched.forecasts.models.features import VERSION as FEATURES
from batchsched.forecasts.models.features import Features, Profile
from batchsched.forecasts.models.history import DAY_H, WEEK_H, Floats, History, Integers
from batchsched.forecasts.models.linear import Linear, out_of_fold

VERSION = f"1.{FEATURES}"
HORIZON_H = 96
_LEADS_H = HORIZON_H + DAY_H  # from the last known hour on, so that reports may come a day late
LEAST_H = 12 * WEEK_H  # of known hours; with less there is only the seasonal naive forecast
WARM_UP_H = 4 * WEEK_H
LONG, SHORT = Recipe(_LEADS_H, 4), Recipe(36, 3)
_YEAR_H = 8766.0
NAIVE, LINEAR, BOOSTED = "naive", "linear", "boosted"


@dataclass(frozen=True)
class Model:
    """What was learnt of a zone until `trained_until`. Without `linear` the history was too short, and it answers naively."""

    zone: str
    trained_from: datetime
    trained_until: datetime
    profile: Profile
    linear: Linear | None = None
    boosters: tuple[Boosted, ...] = ()
    version: str = VERSION

    @classmethod
    def fit(cls, history: History, known_until: datetime, recipes: tuple[Recipe, ...] = (LONG, SHORT)) -> Model:
        """Learn from what was known then: whatever the history holds after it changes nothing. Seconds to half a minute."""
        history = history.until(known_until)
        profile = Profile.of(history)
        plain = cls(history.zone, history.begins_at, known_until, profile)
        if np.isfinite(history.intensity).sum() < LEAST_H:
            return plain
        features = Features(history, profile)
        issues = np.arange(WARM_UP_H, len(history.intensity))
        linear = Linear.fit(features, issues, _LEADS_H, 2 * _YEAR_H)
        honest = out_of_fold(features, issues, _LEADS_H, 2 * _YEAR_H) if recipes else linear.weights[0]
        boosters = tuple(Boosted.fit(features, issues, honest, recipe, _YEAR_H) for recipe in recipes)
        return cls(plain.zone, plain.trained_from, known_until, profile, linear, boosters)

    @property
    def name(self) -> str:
        """What it is, in words for people."""
        return "seasonal naive (too little history to learn from)" if self.linear is None else "linear and boosted trees"

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
        if self.linear is None or leads[-1] >= self.linear.leads_h:
            return found
        linear = self.linear.logs(features, known)
        found[LINEAR] = linear[:, leads]
        for number, booster in enumerate(self.boosters):
            found[f"{BOOSTED}_{number}"] = booster.logs(features, known, linear, leads)[:, leads]
        return found


def mean_log(members: dict[str, Floats]) -> Floats:
    """The members' plain mean; the naive one counts only where it stands alone."""
    chosen = [values for name, values in members.items() if name != NAIVE] or list(members.values())
    return np.asarray(np.mean(chosen, axis=0), np.float32)
