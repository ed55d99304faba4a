"""Priors are of the right order, and measurements take over."""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchsched.fleet import GPU_TYPES
from batchsched.profiles import Lengths, Observation, Profile, estimate, prior, refine, update
from batchsched.profiles.measured import SIGMA_FLOOR

AT = datetime(2026, 1, 1, tzinfo=UTC)


def seen(profile: Profile, factor: float, count: int = 1, pool: str | None = None, busy_s: float = 120.0) -> list[Observation]:
    """Observations of a machine that takes `factor` times what the profile says."""
    tokens = int(busy_s / factor / profile.seconds(1, 1))
    return [
        Observation(profile.model, pool or profile.pool, AT + timedelta(minutes=i), busy_s, tokens, tokens) for i in range(count)
    ]


@pytest.mark.parametrize("gpu", [*GPU_TYPES, "cpu"])
def test_prior_slows_with_size_and_draws_no_more_than_its_limit(gpu: str) -> None:
    small, large = (prior("m", "p", gpu, size, vcpus=16) for size in (1.0, 7.0))
    assert small.seconds(1000, 1000) < large.seconds(1000, 1000)
    assert 0 < large.idle_w < large.power_w
    assert large.sigma >= 0.7


def test_prior_spans_gpus_when_weights_do_not_fit() -> None:
    one, many = prior("m", "p", "A100-80", 30), prior("m", "p", "A100-80", 70)
    assert many.power_w == pytest.approx(3 * one.power_w)


def test_configured_power_wins() -> None:
    assert prior("m", "p", "H100", 8, power_w=555).power_w == 555


def test_unknown_size_is_less_sure() -> None:
    assert prior("m", "p", "T4", None).sigma > prior("m", "p", "T4", 8).sigma


@given(st.floats(0.05, 1.0), st.floats(0.51, 0.999))
def test_quantile_is_the_lognormals(sigma: float, confidence: float) -> None:
    profile = Profile("m", "p", 100, 10, 100, 10, sigma, 0)
    draw = random.Random(7)
    mean = profile.seconds(50, 100)
    times = [draw.lognormvariate(math.log(mean) - sigma**2 / 2, sigma) for _ in range(4000)]
    within = sum(t <= profile.seconds_at(confidence, 50, 100) for t in times) / len(times)
    assert within == pytest.approx(confidence, abs=0.03)


@given(st.floats(0.2, 5.0), st.integers(1, 30))
def test_measurements_pull_towards_themselves(factor: float, count: int) -> None:
    before = prior("m", "p", "A100-80", 8)
    after = update(before, seen(before, factor, count))
    moved = after.seconds(100, 100) / before.seconds(100, 100)
    assert min(1, factor) * 0.98 <= moved <= max(1, factor) * 1.02
    assert SIGMA_FLOOR <= after.sigma <= before.sigma
    assert after.observations == count
    assert after.source == "measured"


@given(st.floats(0.2, 5.0))
def test_more_evidence_is_closer_and_surer(factor: float) -> None:
    before = prior("m", "p", "A100-80", 8)
    few, many = update(before, seen(before, factor, 1)), update(before, seen(before, factor, 40))
    goal = math.log(factor)

    def off(profile: Profile) -> float:
        return abs(math.log(profile.seconds(1, 1) / before.seconds(1, 1)) - goal)

    assert off(many) <= off(few) + 1e-4  # token counts are whole numbers
    assert many.sigma <= few.sigma
    assert many.sigma == SIGMA_FLOOR
    assert off(many) < 0.02


def test_recent_observations_count_more() -> None:
    before = prior("m", "p", "A100-80", 8)
    old, new = seen(before, 4.0, 3), seen(before, 1.0, 3)
    late = [Observation(o.model, o.pool, o.at + timedelta(days=60), o.busy_s, o.input_tokens, o.output_tokens) for o in new]
    assert update(before, [*old, *late]).seconds(1, 1) < 1.2 * before.seconds(1, 1)


def test_another_pool_moves_the_prior_part_of_the_way() -> None:
    here, there = prior("m", "a", "A100-80", 8), prior("m", "b", "T4", 8)
    moved = update(here, seen(there, 3.0, 20), {"b": there})
    factor = moved.seconds(1, 1) / here.seconds(1, 1)
    assert 1.5 < factor < 3.0
    assert SIGMA_FLOOR < moved.sigma < here.sigma
    assert moved.source == "prior"
    assert update(here, seen(there, 3.0, 20)).seconds(1, 1) == here.seconds(1, 1)  # nothing to compare it with


def test_other_models_and_empty_observations_change_nothing() -> None:
    before = prior("m", "p", "A100-80", 8)
    other = prior("other", "p", "A100-80", 8)
    assert update(before, seen(other, 3.0, 5)) == before
    assert update(before, [Observation("m", "p", AT, 0.0, 0, 0)]) == before


def test_measured_energy_and_startup() -> None:
    before = prior("m", "p", "cpu", 1.0, vcpus=2)
    rows = [Observation("m", "p", AT + timedelta(hours=i), 100.0, 1000, 100, 900.0, 25.0 + i) for i in range(20)]
    after = update(before, rows)
    assert after.power_w == pytest.approx(9.0, rel=0.05)
    assert after.startup_s == 44.0
    assert after.energy_j(1000, 100) == pytest.approx(after.power_w * after.seconds(1000, 100))


@given(st.integers(1, 10**6), st.integers(0, 2000), st.integers(1, 500))
def test_estimates_grow_with_the_file(lines: int, text: int, limit: int) -> None:
    blind, limited = estimate(lines * (200 + text), lines), estimate(lines * (200 + text), lines, lines * limit)
    assert blind.input_tokens == limited.input_tokens > 0
    assert limited.output_tokens <= lines * limit
    assert limited.sigma < blind.sigma


@given(st.integers(2, 10**6), st.floats(0.01, 0.99), st.integers(1, 400))
def test_answers_replace_the_estimate(lines: int, share: float, mean: int) -> None:
    before = Lengths(100.0 * lines, 200.0 * lines, 0.5)
    done = max(1, int(share * lines))
    after = refine(before, lines, done, 10 * done, mean * done)
    left = lines - done
    assert min(200, mean) * left * 0.999 <= after.output_tokens <= max(200, mean) * left * 1.001
    assert after.sigma <= 0.51
    if done >= 1000 and left:
        assert after.output_tokens == pytest.approx(mean * left, rel=0.05, abs=1)


def test_nothing_done_and_all_done() -> None:
    before = Lengths(100.0, 200.0, 0.5)
    assert refine(before, 10, 0, 0, 0) == before
    assert refine(before, 10, 10, 5, 5) == Lengths(0.0, 0.0, 0.0)
