"""One contract for every source of carbon intensity, over real sockets: what it gives, and what it asks of the settings."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchsched.clock import ManualClock
from batchsched.errors import (
    ForecastUnavailable,
    InvalidConfiguration,
)
from batchsched.feeds import FeedSource
from batchsched.forecasts.port import Signal
from batchsched.forecasts.sources import open_source
from batchsched.forecasts.sources.port import Generating, Point, cleaned
from tests.fake_providers import HOUR
from tests.source_setup import NOW, SIGNALS, Setup
from tests.source_setup import every as every


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
