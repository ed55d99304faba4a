"""Calibrated quantiles: they cover what they promise, learn only from what is known, and go on after a restart."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
import pytest

from batchsched.forecasts.calibrated import learn, with_quantiles
from batchsched.forecasts.calibration import LEADS_H, Calibrator, Knobs, walk
from batchsched.forecasts.evaluation import Array, band_of
from batchsched.forecasts.port import ForecastSlot, IntensityForecast, Realised, Signal

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
QUICK = Knobs(window=30, neighbours=1)


def grid(days: int, seed: int, sigma: Array | float = 0.05) -> tuple[Array, Array]:
    """Hours of a zone, and daily forecasts that know its typical day but not its noise, which hangs together for hours."""
    shocks = np.random.default_rng(seed).normal(0, 1, days * 24 + LEADS_H) * sigma
    noise = np.zeros_like(shocks)
    for hour in range(1, len(shocks)):
        noise[hour] = 0.9 * noise[hour - 1] + shocks[hour]
    typical = 300 + 80 * np.sin(np.arange(len(shocks)) * np.pi / 12)
    return typical * np.exp(noise), np.stack([typical[day * 24 : day * 24 + LEADS_H] for day in range(days)])


def outcomes(values: Array, issues: int) -> Array:
    return np.stack([values[day * 24 : day * 24 + LEADS_H] for day in range(issues)])


class TestPromise:
    def test_nine_in_ten_fall_within_the_band_and_half_within_the_inner_one(self) -> None:
        values, issued = grid(160, 1)
        bands = walk(Calibrator(), issued, values, 0)
        assert np.all(np.diff(bands, axis=2) >= 0)
        coverage, width = band_of(bands[40:], outcomes(values, 160)[40:])
        assert coverage == pytest.approx(0.9, abs=0.03)
        assert width < 0.5  # the noise's own: 2 x 1.645 x 0.05 / sqrt(1 - 0.9^2) = 0.38
        inner, _ = band_of(bands[40:, :, 1:4], outcomes(values, 160)[40:])
        assert inner == pytest.approx(0.5, abs=0.06)

    def test_a_biased_forecast_gets_a_band_that_is_not(self) -> None:
        values, issued = grid(90, 2)
        bands = walk(Calibrator(QUICK), issued * 1.3, values, 0)[40:]
        middle = bands[..., 2] / outcomes(values, 90)[40:]
        assert np.median(middle) == pytest.approx(1, abs=0.03)
        assert np.median(bands[..., 4] < issued[40:] * 1.3) == 1

    def test_a_forecast_that_is_always_right_needs_no_band(self) -> None:
        bands = walk(Calibrator(QUICK), np.full((40, LEADS_H), 100.0), np.full(50 * 24, 100.0), 0)
        assert bands[35] == pytest.approx(np.full((LEADS_H, 5), 100))

    def test_with_nothing_learnt_a_wide_guess_stands_in(self) -> None:
        quantiles = Calibrator().issue(0, np.array([100.0, np.nan, 100.0]))
        assert quantiles.shape == (3, 5)
        assert quantiles[0, 0] < 90 < quantiles[0, 2] == pytest.approx(100)
        assert np.isnan(quantiles[1]).all()


class TestRegimeChange:
    def test_wild_days_widen_the_band_of_every_lead_within_days(self) -> None:
        """Errors grow threefold on day 60: with detection the band holds more of the month after."""
        wild = np.where(np.arange(90 * 24 + LEADS_H) < 60 * 24, 0.03, 0.09)
        values, issued = grid(90, 3, wild)
        after = slice(62, 75)
        found = {
            surge: band_of(walk(Calibrator(Knobs(surge=surge)), issued, values, 0)[after], outcomes(values, 90)[after])[0]
            for surge in (0.0, 0.5)
        }
        assert found[0.5] > found[0.0] + 0.05

    def test_calm_returns(self) -> None:
        wild = np.where(np.abs(np.arange(90 * 24 + LEADS_H) - 40 * 24) < 10 * 24, 0.09, 0.03)
        values, issued = grid(90, 4, wild)
        bands = walk(Calibrator(QUICK), issued, values, 0)
        width = (bands[..., -1] / bands[..., 0]).mean(axis=1)
        assert width[46] > 1.3 * width[28]
        assert width[80] < 1.3 * width[28]


def reads_ahead(delay_h: int, news_at: int = 60 * 24) -> int:
    """How many hours of its future an issue knew: outcomes from `news_at` on are made wild; the first changed band is sought."""
    values, issued = grid(75, 5)
    wild = values.copy()
    wild[news_at:] *= 9
    told, wildly = (walk(Calibrator(QUICK), issued, v, 0, delay_h=delay_h) for v in (values, wild))
    changed = np.flatnonzero(np.any(told != wildly, axis=(1, 2)))
    return int(news_at - 24 * changed[0])


class TestDelayedFeedback:
    def test_an_outcome_changes_nothing_before_it_is_known(self) -> None:
        assert reads_ahead(delay_h=0) == -24  # first the issue of the day after
        assert reads_ahead(delay_h=30) == -48

    def test_a_leak_would_be_caught(self) -> None:
        assert reads_ahead(delay_h=-24) == 0  # the issue of that very day knows

    def test_news_comes_in_any_order_and_counts_once(self) -> None:
        values, issued = grid(40, 6)
        once, twice = Calibrator(QUICK), Calibrator(QUICK)
        walk(once, issued[:30], values, 0)
        walk(twice, issued[:30], values, 0)
        once.learn(29 * 24, values[29 * 24 : 30 * 24])
        for since, to in ((12, 24), (0, 20), (0, 24)):
            twice.learn(29 * 24 + since, values[29 * 24 + since : 29 * 24 + to])
        assert np.array_equal(once.issue(720, issued[30]), twice.issue(720, issued[30]))
        twice.learn(720, np.full(5, np.nan))
        assert np.array_equal(once.issue(744, issued[31]), twice.issue(744, issued[31]))


class TestState:
    def test_goes_on_exactly_and_is_small(self) -> None:
        values, issued = grid(40, 7)
        calibrator = Calibrator(QUICK)
        walk(calibrator, issued[:35], values, 0)
        stored = calibrator.to_bytes()
        again = Calibrator.from_bytes(stored, QUICK)
        for one in (calibrator, again):
            one.learn(34 * 24, values[34 * 24 : 35 * 24])
        assert np.array_equal(calibrator.issue(840, issued[35]), again.issue(840, issued[35]))
        assert len(stored) < 40_000
        assert not Calibrator.from_bytes(stored, Knobs()).issues

    def test_hourly_issues_are_counted_as_they_wander_round_the_clock(self) -> None:
        calibrator = Calibrator(QUICK)
        for hour in range(100):
            calibrator.issue(hour, np.ones(4))
        assert [issue.hour for issue in calibrator.issues] == [0, 23, 46, 69, 92]
        late = Calibrator(QUICK)
        for hour in range(7, 100):
            late.issue(hour, np.ones(4))
        assert [issue.hour for issue in late.issues] == [7, 23, 46, 69, 92]  # in step with the other


def forecast(*slots: ForecastSlot, issued_at: datetime = NOW) -> IntensityForecast:
    return IntensityForecast("DE", issued_at, "test", Signal(), slots)


def measured(start: datetime, value: float, end: datetime | None = None) -> Realised:
    return Realised("DE", start, end or start + HOUR, value, "test", Signal())


class TestOnForecasts:
    def test_slots_of_any_length_get_quantiles(self) -> None:
        at = NOW + HOUR / 2
        slots = [
            ForecastSlot(at, NOW + HOUR, 100),
            ForecastSlot(NOW + HOUR, NOW + 2 * HOUR, None),
            ForecastSlot(NOW + 2 * HOUR, NOW + 4 * HOUR, 200),
            ForecastSlot(NOW + 97 * HOUR, NOW + 98 * HOUR, 200),
        ]
        first, unknown, long, late = with_quantiles(forecast(*slots, issued_at=at), Calibrator()).slots
        assert first.quantiles
        assert first.quantiles[2] == pytest.approx(100)
        assert (unknown.quantiles, late.quantiles) == (None, None)
        assert long.quantiles
        assert long.quantiles[0] < 180 < 220 < long.quantiles[4]

    def test_what_came_true_is_learnt_hour_by_hour_once_it_is_over(self) -> None:
        calibrator = Calibrator(QUICK)
        given = with_quantiles(forecast(ForecastSlot(NOW, NOW + 9 * HOUR, 100)), calibrator)
        halves = [measured(NOW + n * HOUR / 2, 110, NOW + (n + 1) * HOUR / 2) for n in (0, 1, 2)]
        learn(calibrator, [*halves, measured(NOW + 3 * HOUR, 50), measured(NOW + 4 * HOUR, 1)], NOW + 4 * HOUR)
        learn(calibrator, [], NOW)
        errors = calibrator.issues[0].errors
        assert errors[0] == pytest.approx(np.log(1.1))
        assert errors[3] == pytest.approx(np.log(0.5))
        assert np.isnan(errors[[1, 2, 4]]).all()  # half known, not known, not over
        assert msgspec.structs.replace(given, slots=()) == forecast()
