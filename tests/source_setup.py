"""A source of carbon intensity and the provider that it asks, on a clock that is moved by hand; and their fixtures."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from batchsched.clock import ManualClock
from batchsched.feeds import FeedSource
from batchsched.forecasts.sources import Source, open_source
from tests.fake_providers import HOUR, SPEAK, USER, FakeProvider

NOW = datetime(2026, 5, 10, 12, 0, tzinfo=UTC)
SECRET = "k3y-0f-n0b0dy"
ZONES = {"gb": "national", "entsoe": "10Y1001A1001A83F", "watttime": "CAISO_NORTH"}
SIGNALS = {"watttime": "marginal direct", "electricity_maps": "average lifecycle", "carbon_aware_sdk": "average direct"}
STEPS = {"gb": HOUR / 2, "entsoe": HOUR / 4, "watttime": HOUR / 12}


class Setup:
    """A source, the provider that it asks, and the time."""

    def __init__(self, kind: str, **changes: Any) -> None:
        self.kind, self.step = kind, STEPS.get(kind, HOUR)
        self.clock = ManualClock(NOW)
        self.slept: list[float] = []
        self.secret = changes.pop("secret", SECRET)
        self.fake = FakeProvider(kind, self.secret, NOW)
        signal = SIGNALS[kind] if kind == "carbon_aware_sdk" else ""
        told: dict[str, Any] = {
            "kind": kind,
            "zones": {"Z": ZONES.get(kind, "DE")},
            "base_url": self.fake.url,
            "signal": signal,
            "secret_env": "KEY",
        }
        declared = msgspec.convert({**told, "user": USER, **changes}, FeedSource)
        self.source: Source = open_source("mine", declared, Path(), self.clock, env={"KEY": self.secret}, sleep=self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.clock.advance(seconds)

    def ask(self) -> Any:
        """Whatever the source gives: its forecast, or else what came true."""
        if self.source.has_forecast:
            return self.source.fetch_forecast("Z", NOW)
        return self.source.fetch_realised("Z", NOW - 5 * HOUR, NOW, NOW)

    def ask_long_ago(self) -> Any:
        """What came true last month."""
        return self.source.fetch_realised("Z", NOW - timedelta(days=31), NOW - timedelta(days=30), NOW)


@pytest.fixture(params=sorted(SPEAK))
def setup(request: pytest.FixtureRequest) -> Iterator[Setup]:
    made = Setup(request.param)
    yield made
    made.fake.close()


class FileWorld:
    """What FakeProvider is for the others: a file that is written anew when the world changes."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "world.csv"
        self.ahead, self.page = timedelta(0), 0
        self.value = lambda at: 200 + at.hour

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)
        if name == "value":
            lines = ["# licence: CC0", "zone,start,end,issued_at,mean,realised,mw_coal,mw_wind"]
            for n in range(-24 * 230, 96):
                at, told = NOW + n * HOUR, value(NOW + n * HOUR)
                shown = "" if told is None else str(told)
                ahead, behind = (NOW.isoformat(), shown) if n >= 0 else ("", ""), shown if n < 0 else ""
                mix = f"{100 * told},{76000 - 100 * told}" if told is not None and n < 0 else ",56000"
                lines.append(f"Z,{at.isoformat()},{(at + HOUR).isoformat()},{ahead[0]},{ahead[1]},{behind},{mix}")
            self.path.write_text("\n".join(lines))
            self.times = getattr(self, "times", 0) + 1
            os.utime(self.path, ns=(self.times, self.times))

    def close(self) -> None:
        """Nothing is open."""


class FileSetup(Setup):
    """The same for a file."""

    def __init__(self, folder: Path) -> None:
        self.kind, self.step, self.clock = "file", HOUR, ManualClock(NOW)
        self.fake = FileWorld(folder)  # type: ignore[assignment]
        self.source = open_source("mine", FeedSource("file", {"Z": "Z"}, path="world.csv"), folder, self.clock)


@pytest.fixture(params=[*sorted(SPEAK), "file"])
def every(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Setup]:
    one = FileSetup(tmp_path) if request.param == "file" else Setup(request.param)
    yield one
    one.fake.close()


@pytest.fixture
def made(request: pytest.FixtureRequest) -> Iterator[Setup]:
    """One that the test names: a kind, or a kind and changes."""
    kind, changes = request.param if isinstance(request.param, tuple) else (request.param, {})
    one = Setup(kind, **changes)
    yield one
    one.fake.close()


def only(*cases: Any) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("made", cases, indirect=True)
