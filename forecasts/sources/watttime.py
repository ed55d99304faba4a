"""WattTime (version 3): what one more kWh causes, in slots of five minutes; a user and a password.

Wire format: its OpenAPI document and its own Python client. A login gives a token for 30 minutes. Values are pounds of CO2 per
MWh; the unit and the kind of signal stand in each answer and are checked. co2_moer is marginal direct; co2_aoer average direct,
history only. History comes in pieces of at most 32 days.
"""

from __future__ import annotations

import base64
import math
from datetime import datetime, timedelta
from typing import Any, Final

from batchsched.errors import ForecastUnavailable, SourceRefused
from batchsched.feeds import FeedSource
from batchsched.forecasts.port import IntensityForecast, Realised, Signal
from batchsched.forecasts.sources.fetcher import Fetcher
from batchsched.forecasts.sources.port import Base, Point, about_the_key, instant, number, spans
from batchsched.units import iso

URL = "https://api.watttime.org"
LONGEST = timedelta(days=30)
TOKEN_S = 25 * 60.0  # it lasts 30 minutes
G_PER_KWH: Final = {"lbs_co2_per_mwh": 0.45359237, "lb/MWh": 0.45359237, "kg_co2_per_mwh": 1.0, "g/kWh": 1.0}
TYPES: Final = {"co2_moer": Signal("marginal", "direct"), "co2_aoer": Signal("average", "direct")}


class WattTime(Base):
    """See the module."""

    licence = "WattTime, as your contract with them says"
    signals = tuple(TYPES.values())

    def __init__(self, name: str, declared: FeedSource, fetcher: Fetcher) -> None:
        super().__init__(name, declared, fetcher)
        self._user = declared.user
        self._horizon_h = min(declared.horizon_h, 72)
        self._type = next(kind for kind, signal in TYPES.items() if signal == self._signal)
        self.has_forecast = self._type == "co2_moer" and declared.horizon_h > 0
        self._token, self._token_until = "", -math.inf

    def fetch_forecast(self, zone: str, now: datetime) -> IntensityForecast:
        """The newest one."""
        if not self.has_forecast:
            raise ForecastUnavailable(f"The source '{self.name}' has no forecast of {self._signal}.")
        body = self._ask("forecast", zone, {"horizon_hours": str(self._horizon_h)})
        points = self._points(body)
        with self._reading():
            issued_at = instant(body["meta"]["generated_at"])
        return self._forecast(zone, issued_at, now, points)

    def fetch_realised(self, zone: str, start: datetime, end: datetime, now: datetime) -> list[Realised]:
        """What its model made of the measurements."""
        points: list[Point] = []
        for since, to in spans(start, min(end, now), LONGEST):
            points += self._points(self._ask("historical", zone, {"start": iso(since), "end": iso(to)}))
        return self._realised(zone, points, start, end, now)

    def _ask(self, what: str, zone: str, params: dict[str, str]) -> Any:
        asked = {"region": self._theirs(zone), "signal_type": self._type, **params}
        fresh = self._fetcher.clock.monotonic() >= self._token_until
        if fresh:
            self._log_in()
        try:
            return self._fetcher.json(URL, f"/v3/{what}", asked, {"authorization": f"Bearer {self._token}"})
        except SourceRefused:
            if fresh:
                raise
        self._log_in()  # the token ended early
        return self._fetcher.json(URL, f"/v3/{what}", asked, {"authorization": f"Bearer {self._token}"})

    def _log_in(self) -> None:
        basic = base64.b64encode(f"{self._user}:{self._fetcher.secret}".encode()).decode()
        with about_the_key():
            body = self._fetcher.json(URL, "/login", {}, {"authorization": f"Basic {basic}"})
        with self._reading():
            self._token = str(body["token"])
        self._token_until = self._fetcher.clock.monotonic() + TOKEN_S

    def _points(self, body: Any) -> list[Point]:
        with self._reading():
            meta = body["meta"]
            unit, kind = str(meta["units"]), str(meta["signal_type"])
            step = timedelta(seconds=float(meta.get("data_point_period_seconds") or 300))
        self._must_be(TYPES.get(kind), str(TYPES.get(kind, "something that is no carbon intensity")))
        if unit not in G_PER_KWH:
            raise ForecastUnavailable(f"The source '{self.name}' answered in a unit that is not known here.")
        with self._reading():
            return [
                Point(
                    at := instant(row["point_time"]),
                    at + step,
                    None if (given := number(row["value"])) is None else given * G_PER_KWH[unit],
                )
                for row in body["data"]
            ]
