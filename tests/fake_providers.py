"""Servers on 127.0.0.1 that speak the documented wire formats of the providers of carbon intensity, also in a bad mood."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
from collections import deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

HOUR = timedelta(hours=1)
LB_PER_KG = 1 / 0.45359237
USER = "somebody"
Reply = tuple[int, str, str]


def iso(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def slots(start: datetime, end: datetime, step: timedelta) -> Iterator[datetime]:
    at = datetime.fromtimestamp(start.timestamp() // step.total_seconds() * step.total_seconds(), UTC)
    while at < end:
        yield at
        at += step


class FakeProvider:
    """One provider: what its world looks like, what it was asked, and its moods.

    `moods` is used up one a request; an empty one means: a proper answer. `value` gives grams per kWh for the start of a slot,
    and may give None or nonsense. `ahead` is how far its clock is ahead of the world's.
    """

    def __init__(self, kind: str, secret: str, now: datetime) -> None:
        self.kind, self.secret, self.now = kind, secret, now
        self.ahead = timedelta(0)
        self.moods: deque[str] = deque()
        self.asked: list[tuple[str, dict[str, str], dict[str, str]]] = []
        self.value: Callable[[datetime], Any] = lambda at: 200 + at.hour
        self.signal_type = "co2_moer"
        self.unit = "lbs_co2_per_mwh"
        self.page = 60
        self.history_only = False
        self.logins = 0
        self.closed = threading.Event()
        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.fake = self
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self.closed.set()
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str, params: dict[str, str], headers: dict[str, str]) -> Reply:
        """What the provider answers in a good mood."""
        status, kind, body = SPEAK[self.kind](self, path, params, headers)
        return status, kind, body

    def json(self, body: Any) -> Reply:
        return 200, "application/json; charset=utf-8", json.dumps(body)

    def refused(self) -> Reply:
        """Some echo what they were given."""
        return 401, "application/json", json.dumps({"error": f"wrong key {self.asked[-1]}"})


class Server(ThreadingHTTPServer):
    """The socket of one provider."""

    daemon_threads = True
    fake: FakeProvider


class Handler(BaseHTTPRequestHandler):
    """One request: the provider's answer, spoiled by its mood."""

    @property
    def fake(self) -> FakeProvider:
        """Whose socket it is."""
        if not isinstance(self.server, Server):
            raise TypeError
        return self.server.fake

    def do_GET(self) -> None:
        fake, parts = self.fake, urlsplit(self.path)
        params = dict(parse_qsl(parts.query))
        headers = {name.lower(): value for name, value in self.headers.items()}
        fake.asked.append((parts.path, params, headers))
        mood = fake.moods.popleft() if fake.moods else ""
        status, kind, body = fake.answer(parts.path, params, headers)
        self.act(mood, status, kind, body.encode())

    def act(self, mood: str, status: int, kind: str, body: bytes) -> None:
        fake = self.fake
        first, _, rest = mood.partition(" ")
        more: dict[str, str] = {}
        if first == "html":
            kind, body = "text/html", f"<html>{fake.asked[-1]}</html>".encode()
        elif first == "broken":
            body = body[: len(body) // 2]
        elif first == "huge":
            body = b" " * int(rest) + body
        elif first == "redirect":
            status, more = 302, {"location": f"{fake.url}/elsewhere?{fake.secret}"}
        elif first.isdigit():
            status, kind, body = int(first), "text/plain", f"{first} for {fake.asked[-1]}".encode()
            more = {"retry-after": rest} if rest else {}
        self.send_response_only(status)
        length = len(body) + (9 if first == "cut" else 0)
        date = format_datetime(fake.now + fake.ahead, usegmt=True)
        for name, value in {"date": date, "content-type": kind, "content-length": str(length), **more}.items():
            self.send_header(name, value)
        self.end_headers()
        self.send(body, slowly=first == "slow")

    def send(self, body: bytes, *, slowly: bool) -> None:
        with contextlib.suppress(OSError):  # the reader may have gone
            if not slowly:
                self.wfile.write(body)
            for index in range(len(body) if slowly else 0):
                self.wfile.write(body[index : index + 1])
                self.wfile.flush()
                self.fake.closed.wait(0.02)

    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        """Say nothing."""


def gb(fake: FakeProvider, path: str, params: dict[str, str], headers: dict[str, str]) -> Reply:
    """carbonintensity.org.uk: half-hours in minutes with Z; a region's slots are wrapped and have no `actual`."""
    del params, headers
    parts = path.strip("/").split("/")
    regional = parts[0] == "regional"
    start = datetime.fromisoformat(parts[2] if regional else parts[1])
    last = parts[3] if regional else parts[2]
    end = start + 48 * HOUR if last == "fw48h" else datetime.fromisoformat(last)
    rows = []
    for at in slots(start, end, HOUR / 2):
        intensity = {"forecast": fake.value(at), "index": "moderate"}
        if not regional:
            intensity["actual"] = fake.value(at) if at + HOUR / 2 <= fake.now else None
        rows.append({"from": f"{at:%Y-%m-%dT%H:%MZ}", "to": f"{at + HOUR / 2:%Y-%m-%dT%H:%MZ}", "intensity": intensity})
    return fake.json({"data": {"regionid": 13, "shortname": "London", "data": rows} if regional else rows})


def eia(fake: FakeProvider, path: str, params: dict[str, str], headers: dict[str, str]) -> Reply:
    """api.eia.gov: hours named by their end, numbers as text, paging; coal and wind make the intensity."""
    del path, headers
    if params.get("api_key") != fake.secret:
        return fake.refused()
    start, end = (datetime.strptime(f"{params[edge]}+0000", "%Y-%m-%dT%H%z") for edge in ("start", "end"))
    rows = []
    for ends in slots(start, min(end, fake.now) + timedelta(seconds=1), HOUR):
        for code, mw in mix(fake.value(ends - HOUR)):
            rows.append({"period": f"{ends:%Y-%m-%dT%H}", "respondent": "CISO", "fueltype": code, "value": mw})
    offset = int(params["offset"])
    page = rows[offset : offset + min(int(params["length"]), fake.page)]
    return fake.json({"response": {"total": str(len(rows)), "dateFormat": 'YYYY-MM-DD"T"HH24', "data": page}})


def mix(value: Any) -> list[tuple[str, str | None]]:
    """Coal, wind and a battery, in gigawatts; without a value the coal is missing."""
    coal = None if value is None else f"{100 * value}"
    wind = "56000" if value is None else f"{100 * (760 - value)}" if value == value and value >= 0 else "0"
    return [("BAT", "-50"), ("COL", coal), ("WND", wind)]


def entsoe(fake: FakeProvider, path: str, params: dict[str, str], headers: dict[str, str]) -> Reply:
    """The Transparency Platform: quarter-hours of wind in full, hours of coal in a curve that leaves out repeated values."""
    del path, headers
    if params.get("securityToken") != fake.secret:
        return 401, "text/xml", f"<Unauthorized>{params}</Unauthorized>"
    start, end = (datetime.strptime(f"{params[edge]}+0000", "%Y%m%d%H%M%z") for edge in ("periodStart", "periodEnd"))
    hours = list(slots(start, min(end, fake.now), HOUR))
    if not hours:
        reason = "<Reason><code>999</code><text>No matching data found</text></Reason>"
        return (
            200,
            "application/xml",
            f"<Acknowledgement_MarketDocument xmlns='urn:a:7'>{reason}</Acknowledgement_MarketDocument>",
        )
    values = [None if (value := fake.value(at)) is None else 100 * value for at in hours]
    coal = [
        (index + 1, value)
        for index, value in enumerate(values)
        if value is not None and (index == 0 or value != values[index - 1])
    ]
    wind = [
        (4 * index + part, 56000 if value is None else 76000 - value)
        for index, value in enumerate(values)
        for part in (1, 2, 3, 4)
    ]
    pumps = [(index + 1, 9999) for index in range(len(hours))]
    holes = any(value is None for value in values)
    if holes:  # then nothing may be left out
        coal = [(index + 1, value) for index, value in enumerate(values) if value is not None]
    body = series("B05", "PT60M", "A01" if holes else "A03", hours, coal)
    body += series("B19", "PT15M", "A01", hours, wind) + series("B10", "PT60M", "A01", hours, pumps, "out")
    return (
        200,
        "text/xml",
        f"<?xml version='1.0' encoding='UTF-8'?><GL_MarketDocument xmlns='urn:x:3:0'>{body}</GL_MarketDocument>",
    )


def series(kind: str, resolution: str, curve: str, hours: list[datetime], points: list[tuple[int, Any]], side: str = "in") -> str:
    inside = "".join(f"<Point><position>{n}</position><quantity>{value}</quantity></Point>" for n, value in points)
    start, end = f"{hours[0]:%Y-%m-%dT%H:%MZ}", f"{hours[-1] + HOUR:%Y-%m-%dT%H:%MZ}"
    return (
        f"<TimeSeries><{side}BiddingZone_Domain.mRID>10Y</{side}BiddingZone_Domain.mRID><curveType>{curve}</curveType>"
        f"<MktPSRType><psrType>{kind}</psrType></MktPSRType><Period><timeInterval><start>{start}</start><end>{end}</end>"
        f"</timeInterval><resolution>{resolution}</resolution>{inside}</Period></TimeSeries>"
    )


def carbon_aware_sdk(fake: FakeProvider, path: str, params: dict[str, str], headers: dict[str, str]) -> Reply:
    """The web API: forecasts with minutes, history with a time span or nothing, 204 where there is nothing."""
    del headers
    now = fake.now + fake.ahead
    if path == "/emissions/forecasts/current":
        points = [
            {"location": "IE", "timestamp": iso(at), "duration": 60, "value": fake.value(at)}
            for at in slots(now, now + 24 * HOUR, HOUR)
        ]
        given = {"generatedAt": iso(now), "requestedAt": iso(now), "location": params["location"], "forecastData": points}
        return fake.json([given])
    start, end = (datetime.fromisoformat(params[name]) for name in ("time", "toTime"))
    rows = [{"location": "IE", "time": iso(at), "rating": fake.value(at)} for at in slots(start, min(end, fake.now), HOUR)]
    for row in rows[::2]:
        row["duration"] = "01:00:00"
    return fake.json(rows) if rows else (204, "application/json", "")


def electricity_maps(fake: FakeProvider, path: str, params: dict[str, str], headers: dict[str, str]) -> Reply:
    """Version 3: key in a header, milliseconds with Z, the kind of factor and the estimate named."""
    if headers.get("auth-token") != fake.secret:
        return fake.refused()
    now = fake.now + fake.ahead

    def row(at: datetime) -> dict[str, Any]:
        estimated = fake.now - at < 3 * HOUR
        more = {"emissionFactorType": params["emissionFactorType"], "isEstimated": estimated, "estimationMethod": None}
        return {"zone": params["zone"], "datetime": f"{at:%Y-%m-%dT%H:%M:%S}.000Z", "carbonIntensity": fake.value(at), **more}

    if path.endswith("/forecast"):
        ahead = slots(fake.now, fake.now + (int(params["horizonHours"]) + 1) * HOUR, HOUR)
        rows = [{"datetime": f"{at:%Y-%m-%dT%H:%M:%S}.000Z", "carbonIntensity": fake.value(at)} for at in ahead]
        return fake.json({"zone": params["zone"], "forecast": rows, "updatedAt": f"{now:%Y-%m-%dT%H:%M:%S}.123Z"})
    if path.endswith("/history"):
        rows = [row(at) for at in slots(fake.now - 24 * HOUR, fake.now, HOUR)]
        return fake.json({"zone": params["zone"], "history": rows})
    if fake.history_only:
        return fake.refused()
    start, end = (datetime.fromisoformat(params[edge]) for edge in ("start", "end"))
    if end - start > timedelta(days=10):
        return 400, "application/json", "{}"
    return fake.json({"zone": params["zone"], "data": [row(at) for at in slots(start, min(end, fake.now), HOUR)]})


def watttime(fake: FakeProvider, path: str, params: dict[str, str], headers: dict[str, str]) -> Reply:
    """Version 3: a login whose token ends, five minutes a slot, pounds per MWh."""
    if path == "/login":
        expected = "Basic " + base64.b64encode(f"{USER}:{fake.secret}".encode()).decode()
        fake.logins += 1
        return fake.json({"token": f"token-{fake.logins}"}) if headers.get("authorization") == expected else fake.refused()
    if headers.get("authorization") != f"Bearer token-{fake.logins}":
        return fake.refused()
    step, now = HOUR / 12, fake.now + fake.ahead
    meta: dict[str, Any] = {"data_point_period_seconds": 300, "region": params["region"], "warnings": [], "units": fake.unit}
    meta |= {"signal_type": fake.signal_type, "model": {"date": "2023-03-01"}}
    if path.endswith("/forecast"):
        start, end = now, now + int(params["horizon_hours"]) * HOUR
        meta |= {"generated_at": now.isoformat(), "generated_at_period_seconds": 300}
    else:
        start, end = (datetime.fromisoformat(params[edge]) for edge in ("start", "end"))
        if end - start > timedelta(days=32):
            return 400, "application/json", "{}"
        end = min(end, fake.now)
    values = ((at, fake.value(at)) for at in slots(start, end, step))
    data = [{"point_time": at.isoformat(), "value": None if value is None else value * LB_PER_KG} for at, value in values]
    return fake.json({"data": data, "meta": meta})


SPEAK: dict[str, Callable[[FakeProvider, str, dict[str, str], dict[str, str]], Reply]] = {
    "carbon_aware_sdk": carbon_aware_sdk,
    "eia": eia,
    "electricity_maps": electricity_maps,
    "entsoe": entsoe,
    "gb": gb,
    "watttime": watttime,
}
