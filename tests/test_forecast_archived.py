"""What the server reads: each zone by its sources in order, as it was known at any instant."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchsched.errors import ForecastUnavailable, SignalMismatch
from batchsched.forecasts import ForecastSlot, Signal
from batchsched.forecasts.archive import Archive
from batchsched.forecasts.archived import Archived
from batchsched.forecasts.truth import best_known
from tests.doomed_archive import HOUR, NOW, forecast, measured

MARGINAL = Signal("marginal", "direct")
ORDER = {"DE": ["first", "second"]}


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path)


def test_the_first_source_that_says_something_answers(archive: Archive) -> None:
    archive.add_forecast(forecast(0, provider="second", mean=200), NOW)
    archive.add_forecast(forecast(-3, provider="first", mean=100), NOW - 3 * HOUR)
    provider = Archived(archive, ORDER)
    means = [provider.forecast("DE", NOW + hours * HOUR, NOW + 9 * HOUR).mean_over(NOW, NOW + HOUR) for hours in (0, 0.5)]
    assert means == [103, 103]
    assert provider.forecast("DE", NOW + HOUR, NOW + 9 * HOUR).provider == "second"
    assert provider.forecast("DE", NOW - 2 * HOUR, NOW).provider == "first"
    assert Archived(archive).forecast("DE", NOW, NOW + 9 * HOUR).provider == "second"
    with pytest.raises(ForecastUnavailable, match="2026-05-31 08:00:00"):
        provider.forecast("DE", NOW - 4 * HOUR, NOW)


def test_a_forecast_that_will_not_do_is_passed_over(archive: Archive) -> None:
    unknown = tuple(ForecastSlot(NOW + n * HOUR, NOW + (n + 1) * HOUR, None) for n in range(4))
    archive.add_forecast(forecast(0, provider="first", slots=unknown), NOW)
    archive.add_forecast(forecast(-1, provider="second"), NOW - HOUR)
    assert Archived(archive, ORDER).forecast("DE", NOW, NOW + HOUR).provider == "second"
    old = Archived(archive, ORDER, usable=lambda found, now: found.issued_at > now - HOUR)
    with pytest.raises(ForecastUnavailable):
        old.forecast("DE", NOW, NOW + HOUR)


def test_only_what_is_asked_for(archive: Archive) -> None:
    archive.add_forecast(forecast(0), NOW)
    found = Archived(archive).forecast("DE", NOW + 1.5 * HOUR, NOW + 2.5 * HOUR)
    assert [slot.start for slot in found.slots] == [NOW + HOUR, NOW + 2 * HOUR]
    assert [slot.start for slot in Archived(archive).forecast("DE", NOW, NOW).slots] == [NOW]


def test_signals_never_mix(archive: Archive) -> None:
    archive.add_forecast(forecast(provider="first"), NOW)
    assert Archived(archive).signal_of("DE") == Signal()
    archive.add_forecast(forecast(provider="second", signal=MARGINAL), NOW)
    with pytest.raises(SignalMismatch, match="average direct by first and marginal direct by second"):
        Archived(archive).forecast("DE", NOW, NOW + HOUR)
    with pytest.raises(SignalMismatch, match="average direct by first; marginal direct was asked for"):
        Archived(archive, ORDER, {"DE": MARGINAL}).forecast("DE", NOW, NOW + HOUR)
    assert Archived(archive, {"DE": ["second"]}).signal_of("DE") == MARGINAL
    with pytest.raises(ForecastUnavailable, match=r"FR.*DE"):
        Archived(archive).signal_of("FR")


def test_what_came_true_is_the_better_source_s_where_both_measured(archive: Archive) -> None:
    archive.add_realised([measured(-3, 50, provider="second"), measured(-2, 60, provider="second")], NOW + HOUR)
    archive.add_realised([measured(-2, 55, provider="first"), measured(-1, 70, provider="first")], NOW)
    provider = Archived(archive, ORDER)
    found = provider.realised("DE", NOW - 9 * HOUR, NOW, NOW + HOUR)
    assert [value.intensity_g_per_kwh for value in found] == [50, 55, 70]
    assert [value.provider for value in provider.realised("DE", NOW - 9 * HOUR, NOW, NOW)] == ["first", "first"]
    known = best_known(provider, "DE", NOW - 3 * HOUR, NOW, NOW + HOUR)
    assert known.source == "realised, first and second"
