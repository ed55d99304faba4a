"""The benchmark of the profiles holds its goals on the shared data, and would notice if it did not."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest

from batchsched.profiles.prior import SIGMA_UNSEEN_GPU
from benchmarks import carbon_model_profiles as bench
from benchmarks.fit_prior import Constants, Errors, Judged, fitted, median_pct
from benchmarks.prior_rows import DATA, ENERGY, HELIX, MLPERF, measured

needs_data = pytest.mark.skipif(
    not all(path.is_file() for path in (ENERGY, HELIX, MLPERF, DATA / bench.REQUESTS)),
    reason=f"the shared data is not in {DATA} (BATCHSCHED_DATA)",
)


@needs_data
def test_what_is_measured_is_read_as_it_stands() -> None:
    rows = measured()
    assert len(rows) == 1284
    assert sum(row.power_w is not None for row in rows) == 655
    assert {row.kind for row in rows} == {"run", "prefill", "decode"}
    assert all(row.tokens_per_s > 0 for row in rows)


@needs_data
def test_the_fit_finds_what_made_the_rows() -> None:
    """Rows that the model itself made: their constants come out again, and a family left out is foretold."""
    rows = [row for row in measured() if row.software in {"vllm-served-2024", "vllm"}]
    constants = Constants(rows)
    speed, power = constants.speed + 0.2, constants.power - 0.1
    errors = Errors(rows, constants, speed, power)
    made = [
        row._replace(tokens_per_s=row.tokens_per_s * math.exp(rate), power_w=row.power_w and row.power_w * math.exp(watts))
        for row, rate, watts in zip(rows, errors.rate, errors.watts, strict=True)
    ]
    some = [row for row in made if row.family != "Gemma 2"]
    again = fitted(some, constants, None, 30)
    left = Errors([row for row in made if row.family == "Gemma 2"], constants, *again)
    assert median_pct(left.rate) < 2
    assert median_pct(left.watts) < 2


@needs_data
@pytest.mark.long
def test_the_prior_holds_its_goals_on_families_it_did_not_see() -> None:
    judged = Judged(measured())
    assert median_pct(judged.rate) <= 20
    assert median_pct(judged.energy) <= 25
    assert 0.3 < judged.sigma() < SIGMA_UNSEEN_GPU


@needs_data
@pytest.mark.slow
def test_gaps_are_filled_better_than_by_means() -> None:
    found = bench.filling()
    assert len(found) >= 10
    assert statistics.geometric_mean(table.ours / table.means for table in found) <= 0.6
    assert all(table.ours < table.means for table in found)


@needs_data
def test_answers_stay_within_what_was_foretold() -> None:
    found = bench.coverage(DATA)
    total = sum(each.answers for each in found)
    assert 0.88 <= sum(each.p90 * each.answers for each in found) / total <= 0.92


def test_hiding_leaves_something_to_go_by() -> None:
    cells = np.arange(1.0, 41.0).reshape(10, 4)
    shown, gone = bench._hide(cells, np.random.default_rng(1))
    assert len(gone) == 12
    assert np.isnan(shown).sum() == 12
    assert np.isfinite(shown).any(axis=1).all()
    assert (np.isfinite(shown).sum(axis=0) >= 2).all()
