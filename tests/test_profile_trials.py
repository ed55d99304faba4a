"""The mathematics of profile runs: spreads, noise, phases told apart, and the grid of probes."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from batchsched.profiles.grid import DECODE, RATES, grid
from batchsched.profiles.phases import phases
from batchsched.profiles.schedule import of_trials, schedule
from batchsched.profiles.slo import WORKLOADS, Load, Slo
from batchsched.profiles.trials import MOST, enough, figure, summarise, t95
from batchsched.wire import Probe, Trial

AT = datetime(2026, 5, 1, tzinfo=UTC)
FULL = Probe("sharegpt p50", 160, 140)
RATED = Probe("sharegpt p50", 160, 140, 2.0)


def trial(probe: Probe = FULL, seconds: float = 10.0, energy_j: float = 1000.0, requests: int = 50, **values: Any) -> Trial:
    known: dict[str, Any] = {"unanswered": 0, "energy_source": "rapl", "rest_w": 20.0, "tpot_s": 0.02, "ttft_s": 0.1}
    tokens = {"input_tokens": probe.input_tokens * requests, "output_tokens": probe.output_tokens * requests}
    return Trial(
        "t", "p", "m", "s", probe, AT, seconds=seconds, requests=requests, energy_j=energy_j, **{**known, **tokens, **values}
    )


def test_a_spread_is_half_the_confidence_interval_as_a_share_of_the_mean() -> None:
    found = figure([9.0, 10.0, 11.0])
    assert found is not None
    assert found.mean == 10.0
    assert found.spread == pytest.approx(4.303 * 1.0 / 3**0.5 / 10)
    assert figure([5.0]) is not None
    assert figure([5.0, None]) is None  # one that is not known is not left out
    assert t95(30) == pytest.approx(2.042, rel=0.01)
    assert t95(11) == pytest.approx(2.201, rel=0.01)


def test_trials_are_repeated_until_they_agree_or_a_limit_is_reached() -> None:
    calm = [trial(seconds=10 + noise) for noise in (0.0, 0.1, -0.1)]
    wild = [trial(seconds=seconds) for seconds in (6.0, 10.0, 15.0)]
    assert not enough(calm[:2])
    assert enough(calm)
    assert not enough(wild)
    assert enough((wild * MOST)[:MOST])
    assert "throughput" in summarise(wild).noise[0]
    assert summarise(calm).noise == []


def test_energy_counts_as_noise_only_where_it_is_known() -> None:
    seconds = (10.0, 10.1, 9.9)
    wild = [trial(seconds=s, energy_j=e) for s, e in zip(seconds, (500.0, 1000.0, 1500.0), strict=True)]
    assert "energy a token" in summarise(wild).noise[0]
    silent = [trial(seconds=s, energy_j=0.0, energy_source="unmeasured") for s in seconds]
    assert enough(silent)
    summary = summarise(silent)
    assert (summary.power_w, summary.energy_j_per_token, summary.noise) == (None, None, [])


def test_power_that_cannot_be_told_from_an_idle_engines_is_refused() -> None:
    assert summarise([trial(energy_j=1000 + e) for e in (0, 5, -5)]).noise == []
    like_idle = summarise([trial(energy_j=204 + e) for e in (0, 3, -3)])
    assert len(like_idle.noise) == 1
    assert "cannot be told from that of an idle engine" in like_idle.noise[0]
    constant = summarise([trial(energy_j=200.0)] * 3)  # a model that knows nothing of load
    assert any("idle engine" in why for why in constant.noise)


def test_what_disturbed_a_trial_is_said() -> None:
    assert "others used the GPU meanwhile" in summarise([trial(mark="shared")] * 3).noise
    assert "6 requests were not answered" in summarise([trial(unanswered=2)] * 3).noise


def test_at_a_rate_latencies_are_judged_and_the_unanswered_kept_none() -> None:
    seen = [(0.1, 0.02), (0.1, 0.02), (0.3, 0.02)]
    trials = [trial(RATED, requests=3, unanswered=1, latencies=seen, seconds=seconds) for seconds in (10.0, 30.0, 50.0)]
    summary = summarise(trials, slo=Slo(0.2, 0.08))
    assert summary.attainment == pytest.approx(2 / 4)
    assert not any("throughput" in why for why in summary.noise)
    assert summarise(trials).attainment is None


def test_reading_and_writing_are_told_apart() -> None:
    random.seed(7)
    probes = [FULL, Probe("prefill", 160, 1), DECODE]

    def one(probe: Probe) -> Trial:
        noise, requests = random.gauss(1, 0.02), 40
        input_tokens, output_tokens = probe.input_tokens * requests, probe.output_tokens * requests
        seconds = (2e-4 * input_tokens + 3e-3 * output_tokens) * noise
        return trial(probe, seconds, (0.05 * input_tokens + 0.4 * output_tokens) * random.gauss(1, 0.02), requests)

    found = phases([one(probe) for probe in probes for _ in range(4)])
    for figure_, true in ((found.prefill_s, 2e-4), (found.decode_s, 3e-3), (found.prefill_j, 0.05), (found.decode_j, 0.4)):
        assert figure_ is not None
        assert figure_.spread is not None
        assert figure_.mean == pytest.approx(true, rel=0.05)
        assert abs(figure_.mean / true - 1) < figure_.spread < 0.1


def test_phases_that_cannot_be_told_are_not_invented() -> None:
    alike = [trial(seconds=10 + n / 10) for n in range(6)]
    assert phases(alike).prefill_s is None  # all of one mix
    rates = [trial(RATED), trial(Probe("x", 1, 200, 2.0))] * 3
    assert phases(rates).decode_s is None
    assert phases([]).prefill_j is None
    # Reading takes next to nothing, and the noise is larger than that.
    random.seed(1)
    prompts = [trial(Probe("a", 100, 100), 10 * random.gauss(1, 0.3)) for _ in range(5)]
    longer = [trial(Probe("b", 110, 100), 10 * random.gauss(1, 0.3)) for _ in range(5)]
    found = phases([*prompts, *longer])
    assert found.prefill_s is None
    unmeasured = phases([trial(energy_source="unmeasured"), trial(DECODE, energy_source="unmeasured")] * 3)
    assert unmeasured.prefill_j is None
    assert unmeasured.decode_s is not None


def test_the_grid_has_the_papers_sizes_at_full_load_and_at_rates() -> None:
    probes, left_out = grid(["sharegpt"], ["p25", "p50", "p75"])
    assert left_out == []
    assert [(p.input_tokens, p.output_tokens) for p in probes if p.qps is None and p.output_tokens > 1] == [
        *((size.input_tokens, size.output_tokens) for size in WORKLOADS["sharegpt"].sizes.values()),
        (DECODE.input_tokens, DECODE.output_tokens),
    ]
    assert [p.qps for p in probes if p.qps] == list(RATES["sharegpt"]) * 3
    assert [p.qps is None for p in probes] == sorted((p.qps is None for p in probes), reverse=True)
    assert all(p.qps is None for p in grid(["humaneval"], ["p50"], [])[0])


def test_what_the_context_cannot_hold_is_left_out_and_said() -> None:
    probes, left_out = grid(["sharegpt", "longbench"], ["p50"], context_tokens=512)
    assert {p.name for p in probes} == {"sharegpt p50", "sharegpt p50 prefill", "decode only"}
    assert all(p.input_tokens + p.output_tokens <= 512 for p in probes)
    assert [line.split(":")[0] for line in left_out] == ["longbench p50", "longbench p50 prefill"]


def test_trials_at_rates_become_the_matrices_that_configurations_are_chosen_by() -> None:
    load = Load("sharegpt", "p50", 2.0)

    def some(pool: str, energy_j: float, late: int = 0, count: int = 3, setting: str = "newest") -> list[Trial]:
        latencies = [(0.5 if number < late else 0.1, 0.01) for number in range(20)]
        made = trial(RATED, energy_j=energy_j, requests=20, latencies=latencies)
        at = AT.replace(hour=12 if setting == "newest" else 0)
        return [msgspec.structs.replace(made, pool=pool, started_at=at, setting=setting)] * count

    flags = some("old", 4000.0, 20, setting="older flags")
    found = of_trials([*some("old", 400.0), *some("new", 900.0, late=5), *flags, *[trial()] * 3])
    assert found.attainment == {load: {"m on old": 1.0, "m on new": 0.75}}
    assert found.energy_j[load]["m on old"] == pytest.approx(400 / (20 * 300))
    chosen = schedule(found.attainment, found.energy_j, {"m on old": 300.0, "m on new": 300.0})[load]
    assert chosen is not None
    assert (chosen.configuration, chosen.estimated) == ("m on old", False)
