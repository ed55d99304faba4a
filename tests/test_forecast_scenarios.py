"""Scenarios hang together over hours and zones as what came true does, and independent draws would be found out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache

import numpy as np
import pytest

from batchsched.forecasts.calibration import LEADS_H, Calibrator, Knobs
from batchsched.forecasts.evaluation import Array
from batchsched.forecasts.port import ForecastSlot, IntensityForecast, Signal
from batchsched.forecasts.scenarios import LEAST, at_ranks, past_errors, scenarios, shuffled

DAYS, WARM, COUNT = 170, 60, 100
KNOBS = Knobs(window=60, neighbours=2)
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def noise(rng: np.random.Generator) -> Array:
    shocks = rng.normal(0, 0.05, DAYS * 24 + LEADS_H)
    for hour in range(1, len(shocks)):
        shocks[hour] += 0.9 * shocks[hour - 1]
    return shocks


@cache
def played(kind: str) -> tuple[Array, Array]:
    """Two neighbours that share most of their weather: scenarios [issues, zones, count, leads], and what came true."""
    rng = np.random.default_rng(1)
    weather = noise(rng)
    values = [300 * np.exp(weather + 0.3 * noise(rng)), 200 * np.exp(weather + 0.3 * noise(rng))]
    calibrators = {"A": Calibrator(KNOBS), "B": Calibrator(KNOBS)}
    drawn, truth = [], []
    for hour in range(0, DAYS * 24, 24):
        bands = []
        for calibrator, own, level in zip(calibrators.values(), values, (300.0, 200.0), strict=True):
            calibrator.learn(hour - 24, own[hour - 24 : hour])
            bands.append(calibrator.issue(hour, np.full(LEADS_H, level)))
        if hour >= WARM * 24:
            ranks = (
                shuffled(past_errors(calibrators), COUNT, rng)
                if kind == "joint"
                else {z: rng.random((COUNT, LEADS_H)) for z in "AB"}
            )
            drawn.append([at_ranks(band, ranks[zone]) for band, zone in zip(bands, "AB", strict=True)])
            truth.append([own[hour : hour + LEADS_H] for own in values])
    return np.array(drawn), np.array(truth)


def unevenness(drawn: Array, truth: Array) -> float:
    """Chi-square of the ranks of what came true among the scenarios ([issues, count]), in five bins."""
    counts = np.bincount(((drawn < truth[:, None]).mean(axis=1) * 4.999).astype(int), minlength=5)
    return float(((counts - len(truth) / 5) ** 2 / (len(truth) / 5)).sum())


def coverage(drawn: Array, truth: Array) -> float:
    low, high = np.quantile(drawn, [0.05, 0.95], axis=1)
    return float(((truth >= low) & (truth <= high)).mean())


CHANCE = 13.3  # four degrees of freedom pass this once in a hundred


class TestTogether:
    def test_the_ranks_of_single_hours_are_even(self) -> None:
        for kind in ("joint", "independent"):
            drawn, truth = played(kind)
            assert unevenness(drawn[:, 0, :, 5], truth[:, 0, 5]) < CHANCE
            assert unevenness(drawn[:, 1, :, 20], truth[:, 1, 20]) < CHANCE

    def test_the_ranks_of_a_days_sum_are_even_and_independent_hours_would_be_found_out(self) -> None:
        drawn, truth = (part[..., :24].sum(axis=-1) for part in played("joint"))
        assert unevenness(drawn[:, 0], truth[:, 0]) < CHANCE
        assert coverage(drawn[:, 0], truth[:, 0]) == pytest.approx(0.9, abs=0.06)
        drawn, truth = (part[..., :24].sum(axis=-1) for part in played("independent"))
        assert unevenness(drawn[:, 0], truth[:, 0]) > 3 * CHANCE
        assert coverage(drawn[:, 0], truth[:, 0]) < 0.7

    def test_so_are_those_of_both_zones_and_the_difference_of_the_two(self) -> None:
        drawn, truth = (part[..., :24].sum(axis=-1) for part in played("joint"))
        for sign in (1, -1.5):
            assert coverage(drawn[:, 0] + sign * drawn[:, 1], truth[:, 0] + sign * truth[:, 1]) == pytest.approx(0.9, abs=0.07)
        rng = np.random.default_rng(2)
        apart = rng.permuted(drawn[:, 1], axis=1)  # each zone right by itself, but not together
        difference = drawn[:, 0] - 1.5 * apart, truth[:, 0] - 1.5 * truth[:, 1]
        assert coverage(*difference) > 0.98

    def test_correlations_are_kept(self) -> None:
        drawn, truth = (np.log(part) for part in played("joint"))
        for pick in ((0, 10), (0, 12)), ((0, 30), (1, 30)), ((0, 5), (1, 60)):
            (zone, lead), (other, at) = pick
            real = np.corrcoef(truth[:, zone, lead], truth[:, other, at])[0, 1]
            mine = np.mean([np.corrcoef(one[zone, :, lead], one[other, :, at])[0, 1] for one in drawn])
            assert mine == pytest.approx(real, abs=0.2)


class TestRanks:
    def test_every_zone_and_lead_has_them_evenly(self) -> None:
        errors = {zone: np.random.default_rng(seed).normal(size=(20, LEADS_H)) for seed, zone in enumerate("AB")}
        for ranks in shuffled(errors, 40, np.random.default_rng(3)).values():
            assert np.all(np.bincount((ranks[:, 7] * 10).astype(int)) == 4)

    def test_with_too_little_past_all_rise_and_fall_as_one(self) -> None:
        ranks = shuffled({"A": np.zeros((LEAST - 1, LEADS_H)), "B": np.zeros((30, LEADS_H))}, 8, np.random.default_rng(4))
        assert np.array_equal(ranks["A"], ranks["B"])
        assert np.ptp(ranks["A"], axis=1).max() == 0
        assert np.sort(ranks["A"][:, 0] * 8).astype(int).tolist() == list(range(8))

    def test_values_at_the_quantiles_are_the_quantiles(self) -> None:
        band = np.array([[80.0, 95.0, 100.0, 110.0, 150.0]])
        assert at_ranks(band, np.array([[0.05], [0.25], [0.5], [0.75], [0.95]]))[:, 0] == pytest.approx(band[0])
        outer = at_ranks(band, np.array([[0.01], [0.6], [0.99]]))[:, 0]
        assert outer[0] < 80 < 100 < outer[1] < 110 < 150 < outer[2]


class TestOnForecasts:
    def test_same_seed_same_futures_in_the_slots_given(self) -> None:
        calibrators = {"A": Calibrator(), "B": Calibrator()}
        band = (80.0, 95.0, 100.0, 110.0, 150.0)
        slots = (ForecastSlot(NOW, NOW + HOUR / 2, 100, band), ForecastSlot(NOW + HOUR, NOW + 2 * HOUR, 100))
        forecasts = {zone: IntensityForecast(zone, NOW, "test", Signal(), slots) for zone in "AB"}
        one, same, other = (scenarios(forecasts, calibrators, 50, seed) for seed in (1, 1, 2))
        assert one["A"].shape == (50, 2)
        assert np.array_equal(one["A"], same["A"], equal_nan=True)
        assert not np.array_equal(one["A"], other["A"], equal_nan=True)
        assert np.isnan(one["A"][:, 1]).all()
        assert (one["A"][:, 0] < 80).sum() == pytest.approx(2.5, abs=1)

    def test_only_issues_that_both_zones_have_count(self) -> None:
        calibrators = {"A": Calibrator(KNOBS), "B": Calibrator(KNOBS)}
        for day in range(20):
            for zone, late in (("A", 0), ("B", 3)):
                if zone == "A" or day % 2:
                    calibrators[zone].issue(day * 24 + late, np.full(LEADS_H, 100.0))
                calibrators[zone].learn(day * 24, np.full(24, 100.0 + day))
        found = past_errors(calibrators)
        assert [len(rows) for rows in found.values()] == [8, 8]
        assert found["A"][0, 3:40] == pytest.approx(found["B"][0, :37])
