"""Great Britain's Carbon Intensity API (National Energy System Operator): the nation and its 17 regions, half-hours, no key.

Wire format: carbon-intensity.github.io/api-definitions. The figures count emissions at power stations, imports and losses in the
grid: average direct. A zone is called `national` or by the number of a region (1 to 17). What came true is published for
the nation only, as an estimate.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from batchsched.errors import InvalidConfiguration
from batchsched.feeds import FeedSource
from batchsched.forecasts.port import IntensityForecast, Realised
from batchsched.forecasts.sources.fetcher import Fetcher
from batchsched.forecasts.sources.port import Base, Point, instant, number, spans

URL = "https://api.carbonintensity.org.uk"
NATIONAL = "national"
LONGEST = timedelta(days=14)
_MINUTES = "%Y-%m-%dT%H:%MZ"


class GreatBritain(Base):
    """See the module."""

    licence = "CC-BY-4.0 (National Energy System Operator)"

    def __init__(self, name: str, declared: FeedSource, fetcher: Fetcher) -> None:
        super().__init__(name, declared, fetcher)
        for theirs in declared.zones.values():
            if theirs != NATIONAL and theirs not in map(str, range(1, 18)):
                raise InvalidConfiguration(
                    f"forecast.sources.{name}.zones: '{theirs}' is no region of Great Britain (allowed: {NATIONAL}, 1 to 17)."
                )

    def fetch_forecast(self, zone: str, now: datetime) -> IntensityForecast:
        """48 h of half-hours. The API names no time of issue: it is the time of asking."""
        theirs = self._theirs(zone)
        since = f"{now:{_MINUTES}}/fw48h"
        path = f"/intensity/{since}" if theirs == NATIONAL else f"/regional/intensity/{since}/regionid/{theirs}"
        return self._forecast(zone, now, now, self._points(self._fetcher.json(URL, path), "forecast"))

    def fetch_realised(self, zone: str, start: datetime, end: datetime, now: datetime) -> list[Realised]:
        """The nation's estimates of what was; nothing for a region."""
        if self._theirs(zone) != NATIONAL:
            return []
        points: list[Point] = []
        for since, to in spans(start, min(end, now), LONGEST):
            points += self._points(self._fetcher.json(URL, f"/intensity/{since:{_MINUTES}}/{to:{_MINUTES}}"), "actual")
        return self._realised(zone, points, start, end, now)

    def _points(self, body: Any, column: str) -> list[Point]:
        with self._reading():
            data = body["data"]
            rows = data["data"] if isinstance(data, dict) else data  # a region wraps its slots
            return [Point(instant(row["from"]), instant(row["to"]), number(row["intensity"].get(column))) for row in rows]
