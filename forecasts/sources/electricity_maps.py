"""Electricity Maps (version 3): flow-traced intensity of what is consumed in a zone; hourly; a key.

Wire format: its API reference. Average lifecycle by itself, or average direct, which the answers confirm. `history` covers the
last 24 hours and is in every plan; `past-range` (10 days a request) and `forecast` are in some, and without them a request is
refused like one with a wrong key. `latest` is the hour that has not ended yet, so it is no measurement and is not asked for.
Hours are named by their start; `isEstimated` is kept.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from batchsched.errors import SourceRefused
from batchsched.feeds import FeedSource
from batchsched.forecasts.port import IntensityForecast, Realised, Signal
from batchsched.forecasts.sources.fetcher import Fetcher
from batchsched.forecasts.sources.port import Base, Point, instant, number, spans
from batchsched.units import iso

URL = "https://api.electricitymaps.com"
LONGEST = timedelta(days=10)
HISTORY = timedelta(hours=24)
HORIZONS_H = (6, 24, 48, 72)
_HOUR = timedelta(hours=1)


class ElectricityMaps(Base):
    """See the module."""

    licence = "Electricity Maps, as your contract with them says"
    signals = (Signal("average", "lifecycle"), Signal("average", "direct"))

    def __init__(self, name: str, declared: FeedSource, fetcher: Fetcher) -> None:
        super().__init__(name, declared, fetcher)
        self._history_only = False
        self.has_forecast = declared.horizon_h > 0
        # One of the horizons that it offers: the shortest that reaches, else the longest.
        self._horizon_h = next((h for h in HORIZONS_H if h >= declared.horizon_h), HORIZONS_H[-1])

    def fetch_forecast(self, zone: str, now: datetime) -> IntensityForecast:
        """The newest one."""
        body = self._ask("forecast", zone, {"horizonHours": str(self._horizon_h)})
        with self._reading():
            points = [self._point(row) for row in body["forecast"]]
            issued_at = instant(body["updatedAt"])
        return self._forecast(zone, issued_at, now, points)

    def fetch_realised(self, zone: str, start: datetime, end: datetime, now: datetime) -> list[Realised]:
        """From `past-range`; from `history` where that reaches back far enough, or where the plan has nothing else."""
        recent, refused = end > now - HISTORY, False
        if start < now - HISTORY and not (self._history_only and recent):
            try:
                return self._realised(zone, self._past(zone, start, min(end, now)), start, end, now)
            except SourceRefused:
                refused = True
                if not recent:
                    raise
        points = self._rows(self._ask("history", zone, {}), "history")
        self._history_only |= refused  # it was the plan, not the key
        return self._realised(zone, points, start, end, now)

    def _past(self, zone: str, start: datetime, end: datetime) -> list[Point]:
        points: list[Point] = []
        for since, to in spans(start, end, LONGEST):
            points += self._rows(self._ask("past-range", zone, {"start": iso(since), "end": iso(to)}), "data")
        return points

    def _ask(self, what: str, zone: str, params: dict[str, str]) -> Any:
        asked = {"zone": self._theirs(zone), "emissionFactorType": self._signal.scope, **params}
        return self._fetcher.json(URL, f"/v3/carbon-intensity/{what}", asked, {"auth-token": self._fetcher.secret})

    def _rows(self, body: Any, key: str) -> list[Point]:
        with self._reading():
            return [self._point(row) for row in body[key]]

    def _point(self, row: Any) -> Point:
        if scope := row.get("emissionFactorType"):
            self._must_be(next((s for s in self.signals if s.scope == scope), None), f"average {str(scope)[:20]}")
        at = instant(row["datetime"])
        return Point(at, at + _HOUR, number(row["carbonIntensity"]), bool(row.get("isEstimated")))
