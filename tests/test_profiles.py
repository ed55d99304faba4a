"""Priors are of the right order, and measurements take over."""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchsched.fleet import GPU_TYPES, GpuType
from batchsched.profiles import Lengths, Observation, Profile, Shape, estimate, prior, refine, shape, update
from batchsched.profiles.drift import drifted
from batchsched.profiles.fitted import DEVICES
from batchsched.profiles.measured import OWN_SPREAD, SIGMA_FLOOR
from batchsched.profiles.prior import device
from batchsched.profiles.shape import configured

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
    assert large.sigma >= 0.6


def test_prior_spans_gpus_when_weights_do_not_fit() -> None:
    one, many = prior("m", "p", "A100-80", 30), prior("m", "p", "A100-80", 70)
    assert many.power_w == pytest.approx(3 * one.power_w, rel=0.05)
    assert prior("m", "p", "A100-80", 70, gpus=8).seconds(100, 100) < many.seconds(100, 100)


def test_configured_power_wins() -> None:
    assert prior("m", "p", "H100", 8, power_w=555).power_w == 555


def test_what_the_shape_changes() -> None:
    """Fewer active parameters, smaller weights and fewer keys and values are faster; GPUs of one die compute alike."""
    dense = shape(47)
    mixture = shape(47, active_b=13)
    packed = shape(47, bytes_per_parameter=0.5)
    roomy = shape(47, kv_bytes_per_token=dense.kv_bytes_per_token / 8)
    shapes = {"dense": dense, "mixture": mixture, "packed": packed, "roomy": roomy}
    rates = {name: prior("m", "p", "A100-80", size, gpus=2) for name, size in shapes.items()}
    assert rates["mixture"].input_tokens_per_s > 3 * rates["dense"].input_tokens_per_s
    assert min(rates[name].output_tokens_per_s for name in ("mixture", "packed", "roomy")) > rates["dense"].output_tokens_per_s
    assert prior("m", "p", "H200", 8).input_tokens_per_s == prior("m", "p", "H100", 8).input_tokens_per_s
    assert prior("m", "p", "H200", 8).output_tokens_per_s > prior("m", "p", "H100", 8).output_tokens_per_s
    assert dense.touched_bytes(1) == dense.weight_bytes
    assert mixture.touched_bytes(1) == pytest.approx(26e9)
    assert mixture.touched_bytes(200) == pytest.approx(mixture.weight_bytes)


def test_memory_bounds_the_batch() -> None:
    """Where keys and values fill the memory, more requests in flight bring nothing; before that they do."""
    few, more, most = (prior("m", "p", "L4", 8, in_flight=n, context_tokens=1000).output_tokens_per_s for n in (8, 32, 256))
    assert few < more < most
    assert prior("m", "p", "L4", 8, in_flight=4096, context_tokens=1000).output_tokens_per_s == most


def test_reads_a_model_s_own_configuration() -> None:
    llama = {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096}
    assert configured(llama, 8.03) == Shape(8.03, 8.03, 32, 131072)
    mixtral = {**llama, "num_local_experts": 8, "num_experts_per_tok": 2, "intermediate_size": 14336}
    assert configured(mixtral, 46.7).active_b == pytest.approx(12.9, rel=0.01)
    assert configured({"quantization_config": {"quant_method": "awq", "bits": 4}}, 8).bytes_per_parameter == 0.5
    assert configured({"quantization_config": {"quant_method": "fp8"}}, 8).weight_bytes == 8e9
    assert configured({"text_config": llama}, 8.03).layers == 32
    assert configured({"num_hidden_layers": "many"}, 8) == shape(8)


def test_a_gpu_that_nobody_measured_is_like_its_neighbour() -> None:
    """In proportion to its bandwidth; one without tensor cores computes far less."""
    turing = GpuType("none such", 16, 640, 150, 20, 7.5)
    assert device(turing).tflops == pytest.approx(2 * DEVICES["T4"].tflops)
    old = GpuType("older", 16, 898, 250, 36, 6.0)
    assert device(old).tflops == pytest.approx(DEVICES["V100"].tflops / 4)


def test_reading_draws_more_than_writing() -> None:
    profile = prior("m", "p", "H100", 8)
    assert profile.power_for(1000, 1) > 1.3 * profile.power_for(1, 1000)
    assert profile.energy_j(50, 60) == pytest.approx(profile.power_for(50, 60) * profile.seconds(50, 60))


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


def mixed(before: Profile, reading: float, writing: float, count: int, seed: int = 0) -> list[Observation]:
    """Chunks of every mix on a pool that reads and writes by these factors slower than the prior says, with noise."""
    draw = random.Random(seed)
    rows: list[Observation] = []
    for i in range(count):
        share = draw.random()
        read, written = int(share * 100 * before.input_tokens_per_s), int((1 - share) * 100 * before.output_tokens_per_s)
        busy_s = reading * read / before.input_tokens_per_s + writing * written / before.output_tokens_per_s
        rows.append(Observation("m", "p", AT + timedelta(minutes=i), busy_s * math.exp(draw.gauss(0, 0.05)), read, written))
    return rows


def test_reading_and_writing_are_told_apart_by_mixes() -> None:
    before = prior("m", "p", "A100-80", 8)
    after = update(before, mixed(before, 0.5, 2.0, 60))
    assert after.input_tokens_per_s == pytest.approx(2 * before.input_tokens_per_s, rel=0.15)
    assert after.output_tokens_per_s == pytest.approx(before.output_tokens_per_s / 2, rel=0.15)
    assert after.apart is not None
    assert after.sigma_for(100, 0) < 0.5 * before.sigma
    assert after.sigma_for(0, 100) < 0.5 * before.sigma


def test_chunks_that_are_alike_say_less_of_other_mixes() -> None:
    before = prior("m", "p", "A100-80", 8)
    only_writing = [
        Observation("m", "p", AT + timedelta(minutes=i), 200.0, 0, int(100 * before.output_tokens_per_s)) for i in range(9)
    ]
    after = update(before, only_writing)
    assert before.output_tokens_per_s / after.output_tokens_per_s == pytest.approx(2.0, rel=0.03)
    assert 1.3 < before.input_tokens_per_s / after.input_tokens_per_s < 1.9
    assert after.sigma_for(0, 100) < 0.2
    assert after.sigma_for(100, 0) > 0.3


def test_what_is_known_covers_what_is_true() -> None:
    """Over many pools drawn as the prior expects them, the truth lies within two sigmas about as often as it should."""
    draw, before, within = random.Random(3), prior("m", "p", "A100-80", 8), 0
    for _ in range(200):
        common = draw.gauss(0, before.sigma)
        rows = [
            Observation(o.model, o.pool, o.at, o.busy_s * math.exp(draw.gauss(0, OWN_SPREAD)), o.input_tokens, o.output_tokens)
            for o in seen(before, math.exp(common), 4)
        ]
        after = update(before, rows)
        off = math.log(after.seconds(1, 1) / before.seconds(1, 1)) - common
        within += abs(off) < 2 * after.sigma_for(1, 1)
    assert 0.92 <= within / 200 <= 0.99


def test_drift_is_noticed_and_dated() -> None:
    """An engine that takes 1.5 times as long from one hour on: the profile follows it, and says since when."""
    before, draw = prior("m", "p", "A100-80", 8), random.Random(5)
    rows = [
        Observation(o.model, o.pool, o.at, o.busy_s * math.exp(draw.gauss(0, 0.15)), o.input_tokens, o.output_tokens)
        for o in [*seen(before, 1.0, 30), *seen(before, 1.5, 60)[30:]]
    ]
    after = update(before, rows)
    assert after.drift is not None
    assert abs(after.drift.since - (AT + timedelta(minutes=30))) <= timedelta(minutes=4)
    assert after.drift.factor == pytest.approx(1.5, rel=0.15)
    assert after.seconds(1, 1) == pytest.approx(1.5 * before.seconds(1, 1), rel=0.1)
    assert update(before, rows[:30]).drift is None


def test_a_batch_of_another_mix_is_no_drift() -> None:
    """Where the prior is wrong about reading and writing in opposite ways, other requests take other times."""
    before, draw = prior("m", "p", "A100-80", 8), random.Random(6)
    rows: list[Observation] = []
    for i in range(60):
        share = draw.uniform(0.7, 0.95) if i < 30 else draw.uniform(0.05, 0.3)
        read, written = int(share * 100 * before.input_tokens_per_s), int((1 - share) * 100 * before.output_tokens_per_s)
        busy_s = 0.5 * read / before.input_tokens_per_s + 2.0 * written / before.output_tokens_per_s
        rows.append(Observation("m", "p", AT + timedelta(minutes=i), busy_s * math.exp(draw.gauss(0, 0.1)), read, written))
    assert update(before, rows).drift is None


def test_what_is_steady_seldom_looks_like_drift() -> None:
    draw = random.Random(11)
    alarms = sum(drifted([(AT + timedelta(minutes=i), draw.gauss(0, 0.25)) for i in range(100)]) is not None for _ in range(200))
    assert alarms <= 6


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
