"""Europe's Transparency Platform (ENTSO-E): generation by type of each bidding zone, no forecast of it; the token is free.

Wire format: the RESTful API's guide (document A75, process A16), XML. Times are UTC, whatever the local day: one of 23 or 25
hours is a period with so many positions fewer or more. Without data the answer is an acknowledgement with reason 999, of status
200 or 400. curveType A03 leaves out positions that repeat the value before; in any other a missing position is unknown. Series of
consumption (pumps) name an outBiddingZone. A zone is called by its EIC code, such as 10Y1001A1001A83F for Germany. Intensity is
of what the zone generates: average direct, or average lifecycle (see mix.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final
from xml.etree import ElementTree as ET

from batchsched.errors import ForecastUnavailable
from batchsched.forecasts.port import Realised, Signal
from batchsched.forecasts.sources.mix import CONTEXT, STORAGE, by_fuel, intensities
from batchsched.forecasts.sources.port import Base, Measured, Point, instant, number, spans

URL = "https://web-api.tp.entsoe.eu"
LONGEST = timedelta(days=31)  # a year is allowed; a month keeps answers small
NO_DATA = "999"
STEPS: Final = {"PT15M": timedelta(minutes=15), "PT30M": timedelta(minutes=30), "PT60M": timedelta(hours=1)}
FUELS: Final = {
    "B01": "biomass",
    "B02": "coal",
    "B03": "gas",
    "B04": "gas",
    "B05": "coal",
    "B06": "oil",
    "B07": "coal",
    "B08": "coal",
    "B09": "geothermal",
    "B10": STORAGE,
    "B11": "hydro",
    "B12": "hydro",
    "B13": "marine",
    "B14": "nuclear",
    "B15": "biomass",
    "B16": "solar",
    "B17": "other",
    "B18": "wind",
    "B19": "wind",
    "B20": "other",
    "B25": STORAGE,
}

_Piece = tuple[datetime, timedelta, str, float]


class EntsoE(Base):
    """See the module."""

    has_forecast = False
    licence = "ENTSO-E Transparency Platform; its terms of use name the data that are CC-BY-4.0"
    signals = (Signal("average", "direct"), Signal("average", "lifecycle"))

    def fetch_realised(self, zone: str, start: datetime, end: datetime, now: datetime) -> list[Realised]:
        """Slots as fine as the finest series."""
        return self.fetch_generation(zone, start, end, now).realised

    def fetch_generation(self, zone: str, start: datetime, end: datetime, now: datetime) -> Measured:
        """The same, and the power of each fuel."""
        theirs, until = self._theirs(zone), min(end, now)
        pieces: list[_Piece] = []
        for since, to in spans(min(start, until - CONTEXT), until, LONGEST) if start < until else ():
            params = {
                "securityToken": self._fetcher.secret,
                "documentType": "A75",
                "processType": "A16",
                "in_Domain": theirs,
                "periodStart": f"{since:%Y%m%d%H%M}",
                "periodEnd": f"{to:%Y%m%d%H%M}",
            }
            root = self._fetcher.xml(URL, "/api", params)
            with self._reading():
                pieces += self._pieces(root)
        step = min((length for _, length, _, _ in pieces), default=timedelta(hours=1))
        mix: dict[datetime, dict[str, float]] = {}
        for at, length, kind, mw in pieces:
            for part in range(length // step):
                mix.setdefault(at + part * step, {})[kind] = mw
        points = [Point(at, at + step, value) for at, value in intensities(mix, FUELS, self._signal).items()]
        generation = self._generation(zone, by_fuel(mix, FUELS), step, start, until)
        return Measured(self._realised(zone, points, start, end, now), generation)

    def _pieces(self, root: ET.Element) -> list[_Piece]:
        """Power by time and type. Raises ValueError and its like for what is no such document."""
        if root.tag == "Acknowledgement_MarketDocument":
            if root.findtext("Reason/code") == NO_DATA:
                return []
            raise ForecastUnavailable(
                f"The source '{self.name}' did not accept the question.", hint=f"Look at forecast.sources.{self.name}.zones."
            )
        if root.tag != "GL_MarketDocument":
            raise ValueError("another document")
        pieces: list[_Piece] = []
        for series in root.iterfind("TimeSeries"):
            if series.find("outBiddingZone_Domain.mRID") is None:
                kind = series.findtext("MktPSRType/psrType", "")
                repeats = series.findtext("curveType") == "A03"
                for period in series.iterfind("Period"):
                    pieces += ((at, length, kind, mw) for at, length, mw in _values(period, repeats=repeats))
        return pieces


def _values(period: ET.Element, *, repeats: bool) -> Iterator[tuple[datetime, timedelta, float]]:
    start, end = (instant(period.findtext(f"timeInterval/{edge}")) for edge in ("start", "end"))
    step = STEPS[period.findtext("resolution", "")]
    if end - start > 2 * LONGEST:
        raise ValueError("longer than was asked for")
    by_position: dict[int, float | None] = {
        int(point.findtext("position", "")): number(point.findtext("quantity")) for point in period.iterfind("Point")
    }
    mw: float | None = None
    for index in range((end - start) // step):
        if index + 1 in by_position:
            mw = by_position[index + 1]
        elif not repeats:
            mw = None
        if mw is not None:
            yield start + index * step, step, mw
