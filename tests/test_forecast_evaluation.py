"""The measures of a forecast, and the share of the possible saving that planning on it captures."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from batchsched.forecasts import baselines
from batchsched.forecasts.evaluation import Grams, newest, pinball, planned_once, replanned, score, total

grams = st.floats(1, 1000)


class TestScore:
    def test_by_hand(self) -> None:
        actual = np.array([[100.0, 200.0], [50.0, np.nan]])
        mean = np.array([[110.0, 100.0], [50.0, 1.0]])
        first, second = score(actual, mean, reference=np.array([[120.0, 150.0], [60.0, 1.0]]), bin_h=1)
        assert [first.count, first.mape, first.skill] == pytest.approx([2, 0.05, 1 - 0.05 / 0.2])
        assert (second.mape, second.count, second.skill) == (0.5, 1, -1.0)
        assert np.isnan(first.coverage90)

    def test_zero_and_unknown_are_left_out(self) -> None:
        (only,) = score(np.array([[0.0, np.nan, 10.0]]), np.array([[5.0, 5.0, 10.0]]))
        assert (only.count, only.mape) == (1, 0.0)
        assert score(np.array([[np.nan]]), np.array([[1.0]]))[0].count == 0

    def test_where_the_reference_never_errs_there_is_no_skill(self) -> None:
        (only,) = score(np.array([[10.0]]), np.array([[11.0]]), reference=np.array([[10.0]]))
        assert only.mape == pytest.approx(0.1)
        assert np.isnan(only.skill)

    def test_the_true_quantiles_have_the_least_loss_and_cover_nine_in_ten(self) -> None:
        truth = np.random.default_rng(1).normal(300, 20, (4000, 1))
        z = np.array([-1.645, -0.674, 0.0, 0.674, 1.645])
        band = np.broadcast_to(300 + 20 * z, (4000, 1, 5))
        (found,) = score(truth, np.full_like(truth, 300), band)
        assert found.coverage90 == pytest.approx(0.9, abs=0.02)
        assert found.width90 == pytest.approx(2 * 1.645 * 20 / 300, rel=0.01)
        for wrong in (300 + 10 * z, 300 + 40 * z, 310 + 20 * z):
            assert pinball(np.broadcast_to(wrong, band.shape), truth) > found.pinball_g


class TestNewest:
    def test_each_hour_has_the_issue_that_was_out_and_its_last_day_goes_on(self) -> None:
        daily = np.arange(2)[:, None] * 1000.0 + np.arange(48)
        rows = newest(daily, 30)
        assert rows[0].tolist() == daily[0].tolist()
        assert rows[23, :3].tolist() == [23, 24, 25]
        assert rows[23, 24:27].tolist() == [47, 24, 25]  # 48 is not there: a day earlier
        assert rows[24].tolist() == daily[1].tolist()


class TestCaptured:
    @given(arrays(float, 40, elements=grams), arrays(float, (40, 12), elements=grams), st.integers(1, 6), st.integers(1, 5))
    def test_perfect_foresight_is_never_bettered(self, actual: np.ndarray, issued: np.ndarray, work_h: int, every_h: int) -> None:
        for found in (
            replanned(issued, actual, 12, work_h=work_h, every_h=every_h),
            planned_once(issued, actual, 12, work_h=work_h, every_h=every_h),
            planned_once(issued, actual, 12, work_h=work_h, every_h=every_h, contiguous=True),
        ):
            assert found.policy >= found.perfect * (1 - 1e-12)
            assert not found.captured > 1 + 1e-9

    @given(arrays(float, 40, elements=grams), st.integers(1, 6))
    def test_the_truth_captures_all(self, actual: np.ndarray, work_h: int) -> None:
        issued = np.stack([actual[t : t + 12] for t in range(29)])
        for found in (replanned(issued, actual, 12, work_h=work_h), planned_once(issued, actual, 12, work_h=work_h)):
            assert found.policy == pytest.approx(found.perfect)

    def test_a_job_always_runs_all_its_hours(self) -> None:
        hopeful = np.tile([100.0] + [1.0] * 11, (40, 1))  # the next hour always looks better
        found = replanned(hopeful, np.ones(40), 12, work_h=5, every_h=1)
        assert found.policy == found.at_once == found.perfect == 5 * 29

    def test_a_window_with_an_unknown_hour_is_left_out(self) -> None:
        actual = np.ones(40)
        actual[20] = np.nan
        issued = np.ones((40, 12))
        assert replanned(issued, actual, 12, every_h=1, work_h=1).at_once == 29 - 12

    def test_an_hour_without_a_forecast_is_never_preferred(self) -> None:
        actual = np.tile([9.0, 9.0, 1.0, 2.0], 10)
        issued = np.stack([np.resize(actual, 50)[t : t + 4] for t in range(40)])
        issued[np.arange(40)[:, None] + np.arange(4) == 20] = np.nan  # which would have been 9
        for plan in (replanned, planned_once):
            assert plan(issued, actual, 4, work_h=1, every_h=1).captured == pytest.approx(1)
        assert planned_once(issued, actual, 4, work_h=1, every_h=1, contiguous=True).captured == pytest.approx(1)

    def test_sums_over_zones(self) -> None:
        assert total([Grams(10, 6, 2), Grams(100, 96, 92)]) == Grams(110, 102, 94)
        assert total([Grams(10, 6, 2)]).captured == 0.5
        assert np.isnan(Grams(1, 1, 1).captured)


class TestBaselines:
    def test_naive_repeats_the_last_known_day(self) -> None:
        values = np.arange(100.0)
        rows = baselines.naive(values, 50, 2, 48)
        assert rows[0].tolist() == [*range(26, 50), *range(26, 50)]
        assert rows[1, 0] == 27

    def test_typical_day_uses_the_past_only_and_is_moved_to_the_level(self) -> None:
        hour = np.arange(400) % 24
        values = 100.0 + hour
        values[200:] += 50
        typical = baselines.typical_day(values, np.ones(400), hour, 200)
        assert typical.tolist() == (100.0 + hour).tolist()
        assert baselines.levelled(values, typical, 300, 2, 24)[0].tolist() == (150.0 + hour[300:324]).tolist()

    def test_no_baseline_reads_ahead(self) -> None:
        values = np.random.default_rng(2).uniform(1, 9, 300)
        other = np.concatenate([values[:200], np.random.default_rng(3).uniform(1, 9, 100)])
        typical = np.ones(300)
        for make in (baselines.naive, lambda v, first, n, leads: baselines.levelled(v, typical, first, n, leads)):
            assert np.array_equal(make(values, 200, 1, 24), make(other, 200, 1, 24))
            assert not np.array_equal(make(values, 210, 1, 24), make(other, 210, 1, 24))
