"""Who serves a zone: the first source that is fresh and trusted, then the zone's own history, then the typical day."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from batchsched.errors import ForecastUnavailable, InvalidConfiguration
from batchsched.forecasts import ForecastSlot, IntensityForecast, Provider, Realised, Signal
from batchsched.forecasts.archive import Archive
from batchsched.forecasts.chain import Chain, Links
from batchsched.forecasts.climatology import Climatology
from batchsched.forecasts.continued import Continued
from batchsched.forecasts.opened import one_signal_of
from batchsched.forecasts.persistence import hour_of
from batchsched.forecasts.switches import Switches

NOW = datetime(2026, 5, 20, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
DIRECT, MARGINAL = Signal(), Signal("marginal", "direct")


def grid(at: datetime) -> float:
    hour = hour_of(at)
    return 300 + 80 * math.sin(hour / 24 * 2 * math.pi) + 20 * math.sin(hour / 7.3)


def issue(
    provider: str,
    at: datetime = NOW - HOUR,
    values: Callable[[datetime], float | None] = grid,
    zone: str = "DE",
    signal: Signal = DIRECT,
) -> IntensityForecast:
    slots = tuple(ForecastSlot(at + n * HOUR, at + (n + 1) * HOUR, values(at + n * HOUR)) for n in range(48))
    return IntensityForecast(zone, at, provider, signal, slots)


def came_true(archive: Archive, until: datetime = NOW, days: int = 10, zone: str = "DE") -> None:
    for n in range(days):
        starts = [until - n * DAY - h * HOUR for h in range(24, 0, -1)]
        archive.add_realised([Realised(zone, s, s + HOUR, grid(s), "grid", DIRECT) for s in starts], until - n * DAY)


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path / "archive")


def chain(archive: Archive, *sources: str, zone: str = "DE", signal: Signal = DIRECT) -> Chain:
    return Chain(archive, {zone: Links(sources or ("first", "second"), signal)}, Climatology())


def served(chain: Chain, now: datetime = NOW, zone: str = "DE") -> str:
    choice = chain.choose(zone, now, now + DAY)
    assert chain.forecast(zone, now, now + DAY).provider == choice.forecast.provider == choice.source
    return choice.source


def test_the_first_that_is_fresh_and_trusted_serves(archive: Archive) -> None:
    both = chain(archive)
    archive.add_forecast(issue("second"), NOW - HOUR)
    assert served(both) == "second"
    assert both.choose("DE", NOW, NOW + DAY).why == "first: nothing was received yet"
    archive.add_forecast(issue("first"), NOW - 0.5 * HOUR)
    assert served(both) == "first"
    assert served(both, NOW - 0.7 * HOUR) == "second"  # as it was known then


def test_a_stale_a_stuck_and_a_wrong_source_are_passed_over(archive: Archive) -> None:
    for n in range(9, 0, -1):
        archive.add_forecast(issue("wrong", NOW - n * DAY, lambda at: 1.5 * grid(at)), NOW - n * DAY)
    archive.add_forecast(issue("wrong", values=lambda at: 1.5 * grid(at)), NOW - HOUR)
    archive.add_forecast(issue("stale", NOW - 40 * HOUR), NOW - 40 * HOUR)
    archive.add_forecast(issue("stuck", values=lambda _: 250.0), NOW - HOUR)
    archive.add_forecast(issue("sound"), NOW - HOUR)
    came_true(archive)
    choice = chain(archive, "wrong", "stale", "stuck", "sound").choose("DE", NOW, NOW + DAY)
    assert (choice.source, choice.trust, choice.faults) == ("sound", 1.0, "sound")
    assert [(name, why.partition(":")[0]) for name, why in choice.passed_over] == [
        ("wrong", "biased"),
        ("stale", "stale"),
        ("stuck", "stuck"),
    ]


def test_freshness_is_each_source_s_own(archive: Archive) -> None:
    archive.add_forecast(issue("first", NOW - 4 * HOUR), NOW - 4 * HOUR)
    archive.add_forecast(issue("second", NOW - 4 * HOUR), NOW - 4 * HOUR)
    links = Links(("first", "second"), DIRECT, {"first": 3 * 3600.0})
    assert served(Chain(archive, {"DE": links}, Climatology())) == "second"


def test_then_the_own_history_and_last_the_typical_day(archive: Archive) -> None:
    alone = chain(archive, "first")
    assert served(alone) == "climatology"
    came_true(archive, NOW - 30 * HOUR)
    assert served(alone) == "persistence"
    assert served(alone, NOW + 10 * HOUR) == "climatology"  # by then the history is too old
    archive.add_forecast(issue("first"), NOW)
    assert served(alone) == "first"


def test_what_is_passed_on_has_no_implausible_value(archive: Archive) -> None:
    came_true(archive)
    archive.add_forecast(issue("first", values=lambda at: 0.0 if at.hour == 15 else grid(at)), NOW)
    forecast = chain(archive, "first").forecast("DE", NOW, NOW + DAY)
    assert forecast.mean_over(NOW + 3 * HOUR, NOW + 4 * HOUR) is None
    assert forecast.mean_over(NOW, NOW + 3 * HOUR) is not None


def test_no_signal_stands_in_for_another(archive: Archive) -> None:
    marginal = chain(archive, "first", signal=MARGINAL)
    archive.add_forecast(issue("first"), NOW - HOUR)  # of another signal than the chain's
    came_true(archive)
    with pytest.raises(ForecastUnavailable, match="climatology: it gives average direct, which never stands in for marginal"):
        marginal.forecast("DE", NOW, NOW + DAY)
    assert marginal.realised("DE", NOW - DAY, NOW, NOW) == []
    assert marginal.signal_of("DE") == MARGINAL
    assert marginal.signal_of("CISO") == DIRECT


def test_a_mixed_chain_is_a_mistake_that_names_both() -> None:
    signals = {"one": DIRECT, "other": MARGINAL}
    with pytest.raises(InvalidConfiguration, match=r"forecast.order: for 'DE', 'one' gives average direct and 'other' marginal"):
        one_signal_of("DE", "forecast.order", signals)
    with pytest.raises(InvalidConfiguration, match="'DE' is to be marginal direct, and 'one' gives average direct"):
        one_signal_of("DE", "forecast.zones.DE", {"one": DIRECT}, MARGINAL)
    assert one_signal_of("DE", "forecast.order", {"other": MARGINAL}, MARGINAL) == MARGINAL


def test_a_zone_that_nobody_knows_says_what_was_tried(archive: Archive) -> None:
    with pytest.raises(ForecastUnavailable, match=r"'XX'.*first: nothing was received yet; climatology: .*does not know"):
        chain(archive, "first", zone="XX").forecast("XX", NOW, NOW + DAY)


def test_zones_without_sources_are_the_typical_ones(archive: Archive) -> None:
    provider: Provider = Continued(chain(archive, "first", zone="XX"), Climatology())
    assert {"XX", "DE", "CISO"} <= set(provider.zones())
    assert provider.forecast("DE", NOW, NOW + DAY).provider == "climatology"
    archive.add_forecast(issue("first", zone="XX"), NOW)
    assert provider.forecast("XX", NOW, NOW + 90 * HOUR).slots[-1].end == NOW + 90 * HOUR


def test_what_came_true_is_as_it_was_known(archive: Archive) -> None:
    came_true(archive)
    alone = chain(archive, "first")
    assert len(alone.realised("DE", NOW - DAY, NOW + DAY, NOW)) == 24
    assert len(alone.realised("DE", NOW - 3 * DAY, NOW, NOW - DAY)) == 48


class TestSwitches:
    def test_each_change_is_kept_once(self, archive: Archive, tmp_path: Path) -> None:
        switches, alone = Switches(tmp_path / "kept" / "switches.jsonl"), chain(archive, "first")
        first = switches.record(alone.choose("DE", NOW - 2 * HOUR, NOW + DAY))
        assert first is not None
        assert (first.before, first.source) == (None, "climatology")
        archive.add_forecast(issue("first"), NOW - HOUR)
        switches = Switches(tmp_path / "kept" / "switches.jsonl")  # as after a restart
        second = switches.record(alone.choose("DE", NOW, NOW + DAY))
        assert second is not None
        assert (second.before, second.source, second.why) == ("climatology", "first", "the first of its sources")
        assert switches.record(alone.choose("DE", NOW, NOW + DAY)) is None
        assert switches.all() == [first, second]
        assert switches.newest() == {"DE": second}

    def test_a_line_cut_short_costs_no_other(self, archive: Archive, tmp_path: Path) -> None:
        path = tmp_path / "switches.jsonl"
        switches, alone = Switches(path), chain(archive, "first")
        switches.record(alone.choose("DE", NOW, NOW + DAY))
        path.write_bytes(path.read_bytes()[:-5])
        assert switches.all() == []
        again = Switches(path)
        assert again.record(alone.choose("DE", NOW, NOW + DAY)) is not None
        assert [switch.source for switch in again.all()] == ["climatology"]
