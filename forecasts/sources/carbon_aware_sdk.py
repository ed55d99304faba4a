"""The Carbon Aware SDK (Green Software Foundation), as the web API that a site runs itself: forecast and history, g/kWh, no key.

Wire format: the project's own documentation of its web API. What the figures are (marginal or average, direct or lifecycle)
depends on the provider behind it and is in no answer, so it must be declared. `duration` is minutes in a forecast; in
history it is a time span (hours:minutes:seconds) where it is given at all, else the distance to the next value.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from batchsched.forecasts.port import IntensityForecast, Realised, Signal
from batchsched.forecasts.sources.port import Base, Point, instant, number, spans
from batchsched.units import iso

LONGEST = timedelta(days=7)


class CarbonAwareSdk(Base):
    """See the module."""

    licence = "as of the provider behind the Carbon Aware SDK"
    signals = tuple(Signal(kind, scope) for kind in ("average", "marginal") for scope in ("direct", "lifecycle"))

    def fetch_forecast(self, zone: str, now: datetime) -> IntensityForecast:
        """The newest one of the provider behind it, as long as it is."""
        body = self._fetcher.json("", "/emissions/forecasts/current", {"location": self._theirs(zone)})
        with self._reading():
            given = (body or [{}])[0]
            points = [
                Point(at := instant(row["timestamp"]), at + timedelta(minutes=row["duration"]), number(row["value"]))
                for row in given.get("forecastData") or []
            ]
            issued_at = instant(given["generatedAt"]) if given.get("generatedAt") else now
        return self._forecast(zone, issued_at, now, points)

    def fetch_realised(self, zone: str, start: datetime, end: datetime, now: datetime) -> list[Realised]:
        """What the provider behind it measured."""
        theirs = self._theirs(zone)
        points: list[Point] = []
        for since, to in spans(start, min(end, now), LONGEST):
            params = {"location": theirs, "time": iso(since), "toTime": iso(to)}
            body = self._fetcher.json("", "/emissions/bylocation", params)
            with self._reading():
                points += _measured(body or [])
        return self._realised(zone, points, start, end, now)


def _measured(rows: list[Any]) -> list[Point]:
    starts = sorted(instant(row["time"]) for row in rows)
    step = min((after - before for before, after in pairwise(starts) if after > before), default=timedelta(hours=1))
    return [
        Point(at := instant(row["time"]), at + (_span(row["duration"]) if row.get("duration") else step), number(row["rating"]))
        for row in rows
    ]


def _span(text: str) -> timedelta:
    hours, minutes, seconds = text.split(":")
    return timedelta(hours=int(hours), minutes=int(minutes), seconds=float(seconds))
