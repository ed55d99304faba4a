"""The odd cases of each documented wire format of a provider of carbon intensity."""

from __future__ import annotations

from typing import Any

import pytest

from batchsched.errors import (
    ForecastUnavailable,
    SignalMismatch,
    SourceRefused,
)
from batchsched.forecasts.port import Signal
from batchsched.forecasts.sources.mix import STORAGE, intensities
from tests.fake_providers import HOUR
from tests.source_setup import NOW, Setup, only
from tests.source_setup import made as made


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
