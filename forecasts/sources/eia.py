"""The United States' hourly grid monitor (EIA-930): generation by fuel of each balancing area, no forecast; the key is free.

Wire format: www.eia.gov/opendata (version 2, route electricity/rto/fuel-type-data). Its hours are named by their end. Numbers may
come as text, `total` too; 5000 rows a page. A zone is called by the area's code, such as CISO. Intensity is of what the area
generates: average direct, or average lifecycle (see mix.py). New hours come about an hour late and are revised for days.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

from batchsched.forecasts.port import Realised, Signal
from batchsched.forecasts.sources.mix import CONTEXT, STORAGE, by_fuel, intensities
from batchsched.forecasts.sources.port import Base, Measured, Point, about_the_key, instant, number

URL = "https://api.eia.gov"
PATH = "/v2/electricity/rto/fuel-type-data/data/"
PAGE = 5000
MOST_PAGES = 200
_HOUR = timedelta(hours=1)
# Newer codes tell stores and hybrids apart; one that is not here counts as other.
FUELS: Final = {
    "COL": "coal",
    "NG": "gas",
    "NUC": "nuclear",
    "OIL": "oil",
    "SUN": "solar",
    "SNB": "solar",
    "WAT": "hydro",
    "WND": "wind",
    "WNB": "wind",
    "GEO": "geothermal",
    "BAT": STORAGE,
    "PS": STORAGE,
    "OES": STORAGE,
    "UES": STORAGE,
}


class Eia930(Base):
    """See the module."""

    has_forecast = False
    licence = "public domain (U.S. Energy Information Administration, EIA-930)"
    signals = (Signal("average", "direct"), Signal("average", "lifecycle"))

    def fetch_realised(self, zone: str, start: datetime, end: datetime, now: datetime) -> list[Realised]:
        """Hours by their fuels."""
        return self.fetch_generation(zone, start, end, now).realised

    def fetch_generation(self, zone: str, start: datetime, end: datetime, now: datetime) -> Measured:
        """The same, and the power of each fuel."""
        theirs = self._theirs(zone)
        until = min(end, now)
        if start >= until:
            return Measured([], [])
        rows: list[Any] = []
        for _ in range(MOST_PAGES):
            page, total = self._page(theirs, min(start, until - CONTEXT), until, len(rows))
            rows += page
            if not page or len(rows) >= total:
                break
        mix: dict[datetime, dict[str, float]] = {}
        with self._reading():
            for row in rows:
                mw = number(row["value"])
                by_code = mix.setdefault(instant(f"{row['period']}:00+00:00") - _HOUR, {})
                if mw is not None:
                    by_code[row["fueltype"]] = mw
        points = [Point(at, at + _HOUR, value) for at, value in intensities(mix, FUELS, self._signal).items()]
        generation = self._generation(zone, by_fuel(mix, FUELS), _HOUR, start, until)
        return Measured(self._realised(zone, points, start, end, now), generation)

    def _page(self, theirs: str, start: datetime, end: datetime, offset: int) -> tuple[list[Any], int]:
        with about_the_key():
            body = self._fetcher.json(
                URL,
                PATH,
                {
                    "api_key": self._fetcher.secret,
                    "frequency": "hourly",
                    "data[0]": "value",
                    "facets[respondent][]": theirs,
                    "start": f"{start + _HOUR:%Y-%m-%dT%H}",
                    "end": f"{end + _HOUR:%Y-%m-%dT%H}",
                    "sort[0][column]": "period",
                    "sort[0][direction]": "asc",
                    # A second key: rows of one hour must not change places between two pages.
                    "sort[1][column]": "fueltype",
                    "sort[1][direction]": "asc",
                    "offset": str(offset),
                    "length": str(PAGE),
                },
            )
        with self._reading():
            response = body["response"]
            return list(response["data"]), int(response["total"])
