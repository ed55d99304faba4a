"""One contract for every source of carbon intensity, over real sockets, with the odd cases of each documented wire format."""

from __future__ import annotations

import json
import logging
import os
import re
import traceback
from base64 import b64encode
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from batchsched.clock import ManualClock
from batchsched.errors import (
    BatchschedError,
    ForecastUnavailable,
    InvalidConfiguration,
    SignalMismatch,
    SourceLimited,
    SourceRefused,
)
from batchsched.feeds import FeedSource
from batchsched.forecasts.port import Signal
from batchsched.forecasts.sources import Source, open_source
from batchsched.forecasts.sources.fetcher import TRIES
from batchsched.forecasts.sources.mix import STORAGE, intensities
from batchsched.forecasts.sources.port import Generating, Point, cleaned
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


class TestContract:
    def test_forecast(self, every: Setup) -> None:
        if not every.source.has_forecast:
            with pytest.raises(ForecastUnavailable, match="does not forecast"):
                every.source.fetch_forecast("Z", NOW)
            return
        forecast = every.source.fetch_forecast("Z", NOW)
        assert (forecast.zone, forecast.provider, forecast.issued_at) == ("Z", "mine", NOW)
        assert str(forecast.signal) == SIGNALS.get(every.kind, "average direct")
        assert forecast.signal == every.source.signal_of("Z")
        assert forecast.licence
        assert forecast.slots[0].start <= NOW < forecast.slots[0].end
        assert forecast.slots[-1].end >= NOW + 24 * HOUR
        for slot, after in pairwise(forecast.slots):
            assert (slot.end, slot.end - slot.start) == (after.start, every.step)
        for slot in forecast.slots:
            assert slot.start.utcoffset() == timedelta(0)
            assert slot.mean_g_per_kwh == pytest.approx(200 + slot.start.hour)

    def test_realised(self, every: Setup) -> None:
        start = NOW - 6 * HOUR
        values = every.source.fetch_realised("Z", start, NOW + 5 * HOUR, NOW)
        assert values[0].start == start
        assert NOW - 2 * HOUR <= values[-1].end <= NOW
        assert all(value.end - value.start == every.step for value in values)
        assert all(value.end == after.start for value, after in pairwise(values))
        assert all(value.intensity_g_per_kwh == pytest.approx(200 + value.start.hour) for value in values)
        assert {(value.zone, value.provider, value.signal) for value in values} == {("Z", "mine", every.source.signal_of("Z"))}
        assert all(value.licence for value in values)

    def test_what_it_was_generated_from(self, every: Setup) -> None:
        assert isinstance(every.source, Generating) == (every.kind in {"eia", "entsoe", "file"})
        if not isinstance(every.source, Generating):
            return
        start, hole = NOW - 6 * HOUR, NOW - 4 * HOUR
        every.fake.value = lambda at: None if at == hole else 200 + at.hour
        found = every.source.fetch_generation("Z", start, NOW + 5 * HOUR, NOW)
        assert found.realised == every.source.fetch_realised("Z", start, NOW + 5 * HOUR, NOW)
        assert [one.start for one in found.generation] == [start + n * every.step for n in range(6 * HOUR // every.step)]
        assert {(one.zone, one.provider, one.end - one.start) for one in found.generation} == {("Z", "mine", every.step)}
        for one in found.generation:
            if one.start.replace(minute=0) == hole:
                assert "coal" not in one.mw
            else:
                coal = 100 * (200 + one.start.hour)
                expected = {"coal": coal, "wind": 76000 - coal} | ({"storage": -50} if every.kind == "eia" else {})
                assert one.mw == pytest.approx(expected)

    def test_a_long_history_comes_whole(self, every: Setup) -> None:
        start = NOW - timedelta(days=40)
        every.fake.page = 1000
        values = every.source.fetch_realised("Z", start, NOW, NOW)
        assert len(values) == timedelta(days=40) // every.step
        assert [value.start for value in values] == [start + n * every.step for n in range(len(values))]

    def test_nothing_is_known_yet(self, every: Setup) -> None:
        assert every.source.fetch_realised("Z", NOW, NOW + 3 * HOUR, NOW) == []
        assert every.source.fetch_realised("Z", NOW + HOUR, NOW + 3 * HOUR, NOW) == []

    @pytest.mark.parametrize("bad", [None, -5.0, float("nan")])
    def test_missing_and_negative_are_unknown_never_a_number(self, every: Setup, bad: float | None) -> None:
        hole = NOW - 3 * HOUR
        every.fake.value = lambda at: bad if hole <= at < hole + HOUR or NOW <= at < NOW + HOUR else 200 + at.hour
        known = every.source.fetch_realised("Z", NOW - 6 * HOUR, NOW, NOW)
        assert {value.start.replace(minute=0) for value in known} == {NOW - n * HOUR for n in (6, 5, 4, 2, 1)}
        if every.source.has_forecast:
            forecast = every.source.fetch_forecast("Z", NOW)
            assert forecast.mean_over(NOW, NOW + HOUR) is None
            assert forecast.mean_over(NOW + HOUR, NOW + 2 * HOUR) == pytest.approx(213)

    def test_a_zero_right_beside_a_high_value_is_unknown(self, every: Setup) -> None:
        every.fake.value = lambda at: 0 if at == NOW - 3 * HOUR else 300
        known = {value.start for value in every.source.fetch_realised("Z", NOW - 6 * HOUR, NOW, NOW)}
        # What one more kWh causes may be nothing for a while.
        assert (NOW - 3 * HOUR in known) == (every.kind == "watttime")

    @pytest.mark.parametrize("change", [datetime(2026, 3, 29, 1, tzinfo=UTC), datetime(2025, 10, 26, 1, tzinfo=UTC)])
    def test_days_of_23_and_25_hours(self, every: Setup, change: datetime) -> None:
        start, end = change - 5 * HOUR, change + 30 * HOUR
        values = every.source.fetch_realised("Z", start, end, NOW)
        assert [value.start for value in values] == [start + n * every.step for n in range((end - start) // every.step)]

    def test_zones(self, every: Setup) -> None:
        assert every.source.zones() == ["Z"]
        for call in (every.source.signal_of, lambda zone: every.source.fetch_realised(zone, NOW - HOUR, NOW, NOW)):
            with pytest.raises(ForecastUnavailable, match=r"no zone 'ATLANTIS' \(it has: Z\)"):
                call("ATLANTIS")

    def test_their_clock_is_ahead(self, every: Setup, caplog: pytest.LogCaptureFixture) -> None:
        every.fake.ahead = 20 * HOUR / 60
        got = every.ask()
        if every.source.has_forecast:
            assert got.issued_at == NOW
        assert all(value.end <= NOW for value in every.source.fetch_realised("Z", NOW - 3 * HOUR, NOW + HOUR, NOW))
        assert caplog.text.count("'mine' is +1200 s from ours") == (every.kind != "file")

    def test_their_clock_is_behind(self, every: Setup, caplog: pytest.LogCaptureFixture) -> None:
        """What they say is taken as it is: issued when they think, and what is past by our clock has come true."""
        behind = 20 * HOUR / 60
        every.fake.ahead = -behind
        got = every.ask()
        if every.source.has_forecast:
            assert NOW - behind <= got.issued_at <= NOW
            assert got.mean_over(NOW, NOW + 20 * HOUR) == pytest.approx(202 + 9.5, rel=0.1)
        known = every.source.fetch_realised("Z", NOW - 3 * HOUR, NOW + HOUR, NOW)
        assert known
        assert all(value.end <= NOW and value.intensity_g_per_kwh == 200 + value.start.hour for value in known)
        assert caplog.text.count("'mine' is -1200 s from ours") == (every.kind != "file")


class TestTrouble:
    @pytest.mark.parametrize("status", [401, 403])
    def test_a_refused_key_names_the_setting(self, setup: Setup, status: int) -> None:
        setup.fake.moods.extend([str(status)] * 3)
        with pytest.raises(SourceRefused, match=f"'mine' refused .*{status}") as raised:
            setup.ask()
        if setup.kind not in {"gb", "carbon_aware_sdk"}:
            assert "environment variable KEY" in str(raised.value.hint)
        # Where the key is all that can be refused, it is known to be the key.
        assert raised.value.status == (401 if setup.kind in {"eia", "watttime"} else status)

    @pytest.mark.parametrize(("text", "wait_s"), [("429 90", 90), ("503 90", 90), ("429", 60), ("429 soon", 60)])
    def test_retry_after_is_kept(self, setup: Setup, text: str, wait_s: float) -> None:
        setup.ask()
        before = len(setup.fake.asked)
        setup.fake.moods.append(text)
        with pytest.raises(SourceLimited, match=f"in {wait_s} s") as raised:
            setup.ask()
        assert raised.value.retry_after_s == wait_s
        setup.clock.advance(wait_s - 5)
        with pytest.raises(SourceLimited, match="in 5 s"):
            setup.ask()
        assert len(setup.fake.asked) == before + 1
        setup.clock.advance(5)
        setup.ask()

    def test_retry_after_as_a_date_counts_by_their_clock(self, setup: Setup) -> None:
        setup.fake.ahead = 3 * HOUR
        setup.fake.moods.append("429 " + format_datetime(NOW + 3 * HOUR + timedelta(seconds=30), usegmt=True))
        with pytest.raises(SourceLimited, match="in 30 s"):
            setup.ask()

    @pytest.mark.parametrize("mood", ["500", "502", "503", "cut", "html", "broken"])
    def test_what_may_pass_is_tried_again_with_growing_pauses(self, setup: Setup, mood: str) -> None:
        setup.fake.moods.extend([mood, mood])
        setup.ask()
        pauses = [pause for pause in setup.slept if pause >= 1]
        assert pauses[:2] == [1, 4]
        setup.fake.moods.extend([mood] * 9)
        asked = len(setup.fake.asked)
        with pytest.raises(ForecastUnavailable, match=f"'mine' gave no answer of use in {TRIES} tries"):
            setup.ask()
        assert len(setup.fake.asked) == asked + TRIES

    def test_requests_keep_their_distance(self, setup: Setup) -> None:
        for _ in range(3):
            setup.ask()
        assert len([pause for pause in setup.slept if pause == 1]) >= 2

    def test_a_redirect_is_not_followed(self, setup: Setup) -> None:
        setup.fake.moods.append("redirect")
        with pytest.raises(ForecastUnavailable, match="302"):
            setup.ask()
        assert len(setup.fake.asked) == 1

    def test_an_unknown_question_names_the_settings(self, setup: Setup) -> None:
        setup.fake.moods.append("404")
        with pytest.raises(ForecastUnavailable, match="404") as raised:
            setup.ask()
        assert "forecast.sources.mine: zones" in str(raised.value.hint)

    def test_nobody_there(self, setup: Setup) -> None:
        setup.fake.close()
        with pytest.raises(ForecastUnavailable, match="no connection"):
            setup.ask()

    @pytest.mark.parametrize(
        "body", ["{}", "[]", "null", '"x"', "[1]", '{"data": 3}', '{"data": [{"from": "noon"}], "meta": {}}']
    )
    def test_another_form_than_the_documented_one(self, setup: Setup, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
        kind = "application/xml" if setup.kind == "entsoe" else "application/json"
        monkeypatch.setattr(setup.fake, "answer", lambda *_: (200, kind, body))
        with pytest.raises(ForecastUnavailable):
            setup.ask()

    @only(*((kind, {"timeout_s": 0.2}) for kind in sorted(SPEAK)))
    def test_a_dripping_answer_ends_in_time(self, made: Setup) -> None:
        made.fake.moods.extend(["slow"] * TRIES)
        with pytest.raises(ForecastUnavailable, match=r"no whole answer within 0\.2 s"):
            made.ask()

    @only("gb")
    def test_an_endless_answer_ends_in_time(self, made: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(made.source._fetcher._getter, "_max_bytes", 50_000)  # type: ignore[attr-defined]
        made.ask()
        made.fake.moods.extend(["huge 60000"] * TRIES)
        with pytest.raises(ForecastUnavailable, match="longer than 50000 bytes"):
            made.ask()


MOODS = ["", "401", "403", "404", "429", "429 7", "500", "503", "cut", "html", "broken", "redirect"]


@pytest.mark.parametrize("kind", sorted(SPEAK))
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    secret=st.text("abcdefghijklmnopqrstuvwxyz0123456789-_=+/&?%", min_size=12, max_size=40),
    moods=st.lists(st.sampled_from(MOODS), max_size=4),
    right=st.booleans(),
)
@example(secret=SECRET, moods=["redirect"], right=True)
@example(secret=SECRET, moods=["html"] * 3, right=True)
@example(secret=SECRET + "&/?", moods=["401", "401"], right=True)
@example(secret=SECRET + "&/?", moods=[], right=False)
def test_a_key_never_gets_out(kind: str, secret: str, moods: list[str], right: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.clear()
    with caplog.at_level(logging.DEBUG):
        made = Setup(kind, secret=secret)
        made.fake.secret = secret if right else "another"
        made.fake.moods.extend(moods)
        told = ""
        try:
            made.ask()
        except BatchschedError as problem:
            told = "".join(traceback.format_exception(problem)) + f"{problem.args} {problem.hint} {vars(problem)}"
            told += repr(vars(problem.__context__)) if problem.__context__ else ""
        finally:
            made.fake.close()
    for text in (told, caplog.text, *(repr(record.args) for record in caplog.records)):
        assert secret not in text
        assert quote(secret, safe="") not in text
        assert b64encode(f"{USER}:{secret}".encode()).decode() not in text
    assert not made.fake.asked or kind not in {"eia", "entsoe"} or secret in made.fake.asked[0][1].values()


@pytest.mark.parametrize(("level", "shown"), [(logging.INFO, [404]), (logging.DEBUG, [200, 404])])
def test_what_went_well_is_not_told_for_each_request(level: int, shown: list[int], caplog: pytest.LogCaptureFixture) -> None:
    """A zone asked every quarter of an hour would fill the log; what was refused stands there."""
    made = Setup("gb")
    with caplog.at_level(level, logger="httpx"):
        made.ask()
        made.fake.moods.append("404")
        with pytest.raises(ForecastUnavailable):
            made.ask()
    made.fake.close()
    requests = [record for record in caplog.records if record.name == "httpx"]
    assert [record.args[3] for record in requests if isinstance(record.args, tuple)] == shown


ODD: list[Any] = [
    None,
    "",
    "x",
    [],
    {},
    [1],
    True,
    -1,
    10**400,
    "1e999",
    "9999-12-31T23:59:59Z",
    "0001-01-01T00:00:00+14:00",
    1e308,
]


def leaves(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value in a document."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from leaves(value, (*path, key))


def spoiled(status: int, kind: str, body: str, data: st.DataObject) -> tuple[int, str, str]:
    """The answer with one odd thing in it."""
    odd = data.draw(st.sampled_from(ODD))
    if "xml" in kind:
        texts = [match.span(1) for match in re.finditer(r">([^<]+)<", body)]
        start, end = data.draw(st.sampled_from(texts))
        return status, kind, body[:start] + str(odd).replace("<", "") + body[end:]
    tree = json.loads(body)
    way = data.draw(st.sampled_from(list(leaves(tree))))
    inner = tree
    for key in way[:-1]:
        inner = inner[key]
    inner[way[-1]] = odd
    return status, kind, json.dumps(tree)


@pytest.mark.parametrize("kind", sorted(SPEAK))
@settings(max_examples=20)
@given(data=st.data())
def test_one_odd_thing_in_an_answer_is_unknown_or_refused(kind: str, data: st.DataObject) -> None:
    made = Setup(kind)
    whole = made.fake.answer
    made.fake.answer = lambda *asked: spoiled(*whole(*asked), data)  # type: ignore[method-assign]
    try:
        got = made.ask()
        values = [slot.mean_g_per_kwh for slot in got.slots] if made.source.has_forecast else [v.intensity_g_per_kwh for v in got]
        assert all(value is None or 0 <= value <= 10_000 for value in values)
    except (ForecastUnavailable, SignalMismatch):
        pass
    finally:
        made.fake.close()


class TestParticular:
    @only(("gb", {"zones": {"Z": "13"}}))
    def test_a_region_of_great_britain_forecasts_and_does_not_measure(self, made: Setup) -> None:
        assert made.source.fetch_forecast("Z", NOW).mean_over(NOW, NOW + HOUR) == 212
        assert made.fake.asked[-1][0].endswith("/fw48h/regionid/13")
        assert made.source.fetch_realised("Z", NOW - 5 * HOUR, NOW, NOW) == []

    @only(("eia", {"signal": "average lifecycle"}), ("entsoe", {"signal": "average lifecycle"}))
    def test_a_mix_by_its_whole_life(self, made: Setup) -> None:
        made.fake.value = lambda _: 380
        for value in made.source.fetch_realised("Z", NOW - 3 * HOUR, NOW, NOW):
            assert value.intensity_g_per_kwh == pytest.approx((820 + 11) / 2)
            assert value.signal == Signal("average", "lifecycle")

    @only(("electricity_maps", {"signal": "average direct"}))
    def test_electricity_maps_direct_and_estimated(self, made: Setup) -> None:
        values = made.source.fetch_realised("Z", NOW - 6 * HOUR, NOW, NOW)
        assert made.fake.asked[-1][0].endswith("/history")
        assert [value.estimated for value in values] == [False] * 3 + [True] * 3 or sum(value.estimated for value in values) == 2
        assert {value.signal for value in values} == {Signal("average", "direct")}

    @only(("electricity_maps", {"horizon_h": 0}))
    def test_a_plan_of_electricity_maps_with_history_only(self, made: Setup) -> None:
        made.fake.history_only = True
        assert not made.source.has_forecast
        for _ in range(2):
            values = made.source.fetch_realised("Z", NOW - 48 * HOUR, NOW, NOW)
            assert [value.start for value in values] == [NOW - n * HOUR for n in range(24, 0, -1)]
        assert [path.rpartition("/")[2] for path, _, _ in made.fake.asked] == ["past-range", "history", "history"]
        with pytest.raises(SourceRefused):
            made.ask_long_ago()

    @only("electricity_maps", "watttime")
    def test_an_answer_of_another_signal_is_refused_and_both_are_named(
        self, made: Setup, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made.fake.signal_type = "co2_aoer"
        whole = made.fake.answer
        swap = ('"lifecycle"', '"direct"') if made.kind == "electricity_maps" else ("", "")

        def answer(*args: Any) -> tuple[int, str, str]:
            status, kind, body = whole(*args)
            return status, kind, body.replace(*swap) if swap[0] else body

        monkeypatch.setattr(made.fake, "answer", answer)
        with pytest.raises(
            SignalMismatch, match=r"asked for (average lifecycle|marginal direct) and answered with average direct"
        ):
            made.source.fetch_realised("Z", NOW - 3 * HOUR, NOW, NOW)

    @only("watttime")
    def test_a_token_is_used_until_it_ends(self, made: Setup) -> None:
        made.ask()
        made.ask()
        assert made.fake.logins == 1
        made.clock.advance(26 * 60)
        made.ask()
        assert made.fake.logins == 2
        made.fake.logins = 7  # the provider forgot the token early
        made.ask()
        assert made.fake.logins == 8

    @only("watttime")
    def test_an_unknown_unit_is_no_number(self, made: Setup) -> None:
        made.fake.unit = "usd_per_mwh"
        with pytest.raises(ForecastUnavailable, match="unit"):
            made.ask()
        made.fake.unit = "g/kWh"
        assert made.ask().slots[0].mean_g_per_kwh == pytest.approx(212 / 0.45359237)

    @only(("watttime", {"signal": "average direct"}))
    def test_watttime_averages_are_history_only(self, made: Setup) -> None:
        made.fake.signal_type = "co2_aoer"
        assert not made.source.has_forecast
        assert {v.signal for v in made.ask()} == {Signal("average", "direct")}
        with pytest.raises(ForecastUnavailable, match="no forecast of average direct"):
            made.source.fetch_forecast("Z", NOW)

    @only("entsoe")
    @pytest.mark.parametrize("status", [200, 400])
    def test_acknowledgements(self, made: Setup, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
        def answer(code: int) -> tuple[int, str, str]:
            return (
                status,
                "text/xml",
                f"<Acknowledgement_MarketDocument><Reason><code>{code}</code></Reason></Acknowledgement_MarketDocument>",
            )

        monkeypatch.setattr(made.fake, "answer", lambda *_: answer(999))
        assert made.ask() == []
        monkeypatch.setattr(made.fake, "answer", lambda *_: answer(1))
        with pytest.raises(ForecastUnavailable, match="did not accept the question"):
            made.ask()

    @only("entsoe")
    def test_entities_are_refused(self, made: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
        bomb = "<!DOCTYPE a [<!ENTITY b 'c'>]><GL_MarketDocument/>"
        monkeypatch.setattr(made.fake, "answer", lambda *_: (200, "text/xml", bomb))
        with pytest.raises(ForecastUnavailable, match="declares entities"):
            made.ask()

    @only("eia", "entsoe")
    def test_the_newest_hours_lack_a_fuel_as_seen_from_the_day_before(self, made: Setup) -> None:
        made.fake.value = lambda at: None if at >= NOW - 2 * HOUR else 200
        assert made.source.fetch_realised("Z", NOW - 2 * HOUR, NOW, NOW) == []
        known = made.source.fetch_realised("Z", NOW - 4 * HOUR, NOW, NOW)
        assert (known[0].start, known[-1].end) == (NOW - 4 * HOUR, NOW - 2 * HOUR)

    def test_a_missing_fuel_makes_unknown_unless_it_is_missing_every_day(self) -> None:
        hours = [NOW + n * HOUR for n in range(72)]
        night = {"COL": 50.0, "WND": 50.0, "OIL": 0.1, "X": -3.0, "BAT": 70.0}
        mix = {at: night | ({"SUN": 100.0} if 6 <= at.hour < 18 else {}) for at in hours}
        mix[hours[25]] = {"SUN": 50.0}
        mix[hours[31]] = {"COL": 0.0, "SUN": 0.0, "WND": 0.0}
        del mix[hours[32]]["OIL"], mix[hours[33]]["BAT"]
        found = intensities(mix, {"COL": "coal", "SUN": "solar", "OIL": "oil", "WND": "wind", "BAT": STORAGE}, Signal())
        assert {at for at, value in found.items() if value is None} == {hours[25], hours[31]}
        assert found[hours[0]] == pytest.approx(190, rel=0.01)  # 12 o'clock
        assert found[hours[33]] == found[hours[9]] == pytest.approx(380, rel=0.01)  # 21 o'clock


class TestSettings:
    @pytest.mark.parametrize("kind", ["eia", "electricity_maps", "entsoe", "watttime"])
    def test_a_missing_key_says_where_it_belongs(self, kind: Any) -> None:
        for declared in (FeedSource(kind, {"Z": "Z"}, secret_env="NOT_SET"), FeedSource(kind, {"Z": "Z"})):
            with pytest.raises(InvalidConfiguration, match=r"NOT_SET|asks for a key"):
                open_source("mine", declared, Path(), ManualClock(NOW), env={})

    def test_an_odd_key_is_not_shown(self) -> None:
        with pytest.raises(InvalidConfiguration) as raised:
            open_source("mine", FeedSource("eia", {"Z": "Z"}, secret="cl\u00e9\n-x"), Path(), ManualClock(NOW), env={})
        assert "cl" not in raised.value.message.replace("includes", "")

    def test_a_signal_that_it_does_not_give(self) -> None:
        with pytest.raises(InvalidConfiguration, match=r"gb gives no marginal direct \(allowed: average direct\)"):
            open_source("mine", FeedSource("gb", {"Z": "national"}, signal="marginal direct"), Path(), ManualClock(NOW), env={})
        with pytest.raises(InvalidConfiguration, match="'green' is not a signal"):
            open_source("mine", FeedSource("gb", {"Z": "national"}, signal="green"), Path(), ManualClock(NOW), env={})
        with pytest.raises(InvalidConfiguration, match="'99' is no region"):
            open_source("mine", FeedSource("gb", {"Z": "99"}), Path(), ManualClock(NOW), env={})


@given(
    st.lists(
        st.tuples(st.integers(0, 40), st.integers(1, 5), st.floats(-10, 900) | st.sampled_from([0.0, float("nan"), float("inf")]))
    )
)
def test_cleaned_points_are_in_order_without_overlap_and_possible(rows: list[tuple[int, int, float]]) -> None:
    points = [Point(NOW + start * HOUR, NOW + (start + length) * HOUR, value) for start, length, value in rows]
    for signal in (Signal(), Signal("average", "lifecycle"), Signal("marginal", "direct")):
        found = cleaned(points, signal)
        assert all(point.start < point.end for point in found)
        assert all(point.end <= after.start for point, after in pairwise(found))
        assert {point.start for point in found} == {point.start for point in points}
        assert all(point.value is None or 0 <= point.value < 1000 for point in found)
        if signal.scope == "lifecycle":
            assert all(point.value != 0 for point in found)
