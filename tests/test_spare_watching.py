"""What a governor reads of a server: the metrics page, histograms between two readings, windows, the response of its steps."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchsched.executors.spare.counts import Counts, read_counts
from batchsched.executors.spare.histogram import Histogram
from batchsched.executors.spare.response import Step, StepModel
from batchsched.executors.spare.window import Ours, Windows

PAGE = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
vllm:num_requests_running{engine="0",model_name="tiny"} 3.0
vllm:num_requests_running{engine="1",model_name="tiny"} 2.0
vllm:num_requests_waiting{engine="0",model_name="tiny"} 1.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="tiny",reason="capacity"} 1.0
vllm:kv_cache_usage_perc{engine="0",model_name="tiny"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="tiny"} 0.75
vllm:num_preemptions_total{engine="0",model_name="tiny"} 4.0
vllm:prompt_tokens_total{engine="0",model_name="tiny"} 1.5e+03
vllm:prefix_cache_hits_total{engine="0",model_name="tiny"} 128.0
vllm:generation_tokens_total{engine="0",model_name="tiny"} 700.0
vllm:request_success_total{engine="0",finished_reason="stop",model_name="tiny"} 5.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="tiny"} 6.0
vllm:iteration_tokens_total_count{engine="0",model_name="tiny"} 90.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.01",model_name="tiny"} 4.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.1",model_name="tiny"} 10.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="+Inf",model_name="tiny"} 11.0
vllm:time_to_first_token_seconds_count{engine="0",model_name="tiny"} 11.0
vllm:time_to_first_token_seconds_sum{engine="0",model_name="tiny"} 0.5
vllm:inter_token_latency_seconds_bucket{engine="0",le="0.01",model_name="tiny"} 600.0
vllm:inter_token_latency_seconds_bucket{engine="0",le="+Inf",model_name="tiny"} 689.0
vllm:inter_token_latency_seconds_count{engine="0",model_name="tiny"} 689.0
vllm:inter_token_latency_seconds_sum{engine="0",model_name="tiny"} 6.89
"""
OLD = PAGE.replace("kv_cache_usage", "gpu_cache_usage").replace("inter_token_latency", "time_per_output_token")


@pytest.mark.parametrize("page", [PAGE, OLD])
def test_the_page_of_today_and_of_older_servers(page: str) -> None:
    counts = read_counts(page, 7.0)
    assert counts is not None
    assert (counts.at_s, counts.running, counts.waiting, counts.kv_used) == (7.0, 5.0, 1.0, 0.75)
    assert (counts.prompt_tokens, counts.cached_tokens, counts.written_tokens) == (1500.0, 128.0, 700.0)
    assert (counts.preemptions, counts.finished, counts.steps) == (4.0, 11.0, 90.0)
    assert counts.first_token == Histogram((0.01, 0.1), (4.0, 10.0), 11.0, 0.5)
    assert counts.each_token.mean == pytest.approx(0.01)


@given(st.integers(0, len(PAGE)))
def test_a_page_that_was_cut_off_is_no_trouble(length: int) -> None:
    counts = read_counts(PAGE[:length], 0.0)
    assert counts is None or counts.running in {3.0, 5.0}


@pytest.mark.parametrize("page", ["", "<html>Bad gateway</html>", "python_info 1.0\n"])
def test_a_page_that_is_no_servers_is_not_believed(page: str) -> None:
    assert read_counts(page, 0.0) is None


def test_counters_that_fall_are_those_of_a_new_life() -> None:
    before = Counts(0.0, written_tokens=10, finished=2)
    assert Counts(1.0, written_tokens=11, finished=2).follows(before)
    assert not Counts(1.0, written_tokens=3, finished=2).follows(before)


@given(st.lists(st.floats(0.001, 30), min_size=1, max_size=60), st.floats(0.0005, 40))
def test_what_is_above_a_limit_lies_between_the_bounds_around_it(values: list[float], limit: float) -> None:
    bounds = (0.001, 0.01, 0.1, 0.25, 1.0, 10.0)
    seen = Histogram(bounds, tuple(float(sum(v <= bound for v in values)) for bound in bounds), len(values), sum(values))
    low = max((bound for bound in bounds if bound < limit), default=0.0)
    high = min((bound for bound in bounds if bound >= limit), default=float("inf"))
    assert sum(v > high for v in values) <= seen.above(limit) + 1e-9
    assert seen.above(limit) <= sum(v > low for v in values) + 1e-9
    assert seen.since(seen).count == 0


def test_a_quantile_lies_in_the_bucket_that_holds_it() -> None:
    seen = Histogram((0.1, 0.2, 0.4), (50.0, 90.0, 100.0), 100.0, 12.0)
    assert seen.quantile(0.5) == pytest.approx(0.1)
    assert seen.quantile(0.95) == pytest.approx(0.3)
    assert Histogram().quantile(0.5) is None


def test_a_window_tells_ours_from_the_online_users() -> None:
    first = Histogram((0.1, 1.0), (0.0, 0.0))
    earlier = Counts(0.0, running=6, finished=10, steps=100, first_token=first)
    later = Counts(
        0.5,
        running=8,
        waiting=1,
        finished=14,
        steps=150,
        prompt_tokens=300,
        cached_tokens=50,
        written_tokens=400,
        first_token=Histogram((0.1, 1.0), (5.0, 7.0), 7.0, 1.5),
        each_token=Histogram((), (), 350.0, 3.5),
    )
    ours = Ours(4, sent=10, sent_tokens=1000), Ours(5, sent=13, sent_tokens=1150, slow_first=1)
    windows = Windows(slow_above_s=0.1)
    assert windows.add(earlier, ours[0]) is None
    window = windows.add(later, ours[1])
    assert window is not None
    assert window.online == 4  # nine there, five of them ours
    assert window.surely_online == 2  # four of ours were there, and three came: none of them may have ended
    assert window.arrived == 4  # seven came, three of them ours
    assert window.ours == 4.5
    assert window.step == Step(0.01, 7.0, 5.0)
    assert window.our_prompt_tokens == pytest.approx(2.5)
    assert window.first_token.count == 6
    assert window.first_token.above(0.1) == pytest.approx(1.0)


def test_a_server_that_never_decodes_is_seen_by_how_long_requests_stay() -> None:
    bounds = (0.1, 1.0)
    earlier = Counts(0.0, first_token=Histogram(bounds, (10.0, 10.0), 10.0, 0.5), finished=10)
    later = Counts(0.5, first_token=Histogram(bounds, (50.0, 60.0), 60.0, 4.5), finished=60)
    windows = Windows(slow_above_s=0.1)
    windows.add(earlier, Ours())
    window = windows.add(later, Ours())
    assert window is not None
    assert window.only_reads
    assert window.step == Step(0.08, 8.0, 0.0)  # fifty stayed four seconds together, in half a second
    assert not msgspec.structs.replace(later, written_tokens=900).only_reads, "it writes, and does not tell how fast"
    decoding = msgspec.structs.replace(later, at_s=1.0, each_token=Histogram((), (), 1.0, 0.01))
    window = windows.add(decoding, Ours())
    assert window is not None
    assert (window.only_reads, window.step) == (False, None)


def came(*readings: tuple[int, int, Ours]) -> list[float]:
    """Online requests that came, by readings half a second apart: requests there, finished ones, ours."""
    windows = Windows(1.0)
    seen = [windows.add(Counts(at / 2, running=there, finished=done), ours) for at, (there, done, ours) in enumerate(readings)]
    return [window.arrived for window in seen if window]


def test_ours_that_the_server_counts_late_are_no_online_users() -> None:
    # Sixteen are sent; the server counts them in the next two readings, and then three users come.
    sent = Ours(16, sent=16)
    assert came((0, 0, Ours()), (4, 0, sent), (9, 0, sent), (16, 0, sent), (19, 0, sent)) == [0, 0, 0, 3]


@pytest.mark.parametrize("there", [6, 16])
def test_ours_that_were_broken_off_are_no_online_users_however_soon_the_server_sees_it(there: int) -> None:
    before, after = Ours(16, sent=16), Ours(6, sent=16, gone=10)
    assert came((16, 0, before), (there, 0, after), (6, 0, after), (8, 0, after)) == [0, 0, 2]


def test_ours_that_the_server_refused_hide_no_online_users_for_long() -> None:
    refused = Ours(0, sent=10, gone=10)
    assert came((0, 0, Ours()), (0, 0, refused), (0, 0, refused), (4, 0, refused))[-1] == 4


def test_ours_that_the_server_never_counts_are_forgotten() -> None:
    lost = Ours(8, sent=8)
    assert came(*[(0, 0, Ours()), *[(0, 0, lost)] * 10, (5, 0, lost)])[-1] == 5


def test_the_response_is_learnt_from_cold() -> None:
    rng, model = random.Random(1), StepModel()
    for _ in range(200):
        decoding, read = rng.uniform(1, 40), rng.uniform(0, 100)
        true = 0.004 + 0.0003 * decoding + 0.00002 * read
        model.learn(Step(true * rng.lognormvariate(0, 0.05), decoding, read))
    assert model.known
    for decoding, read in ((1, 0), (20, 50), (60, 100)):
        assert model.seconds(decoding, read) == pytest.approx(0.004 + 0.0003 * decoding + 0.00002 * read, rel=0.1)


def test_a_server_that_became_slower_is_followed() -> None:
    rng, model = random.Random(2), StepModel(half_life=50)
    for slow in (1.0, 3.0):
        for _ in range(300):
            decoding = rng.uniform(1, 40)
            model.learn(Step(slow * (0.004 + 0.0003 * decoding), decoding, 0.0))
    assert model.seconds(30, 0) == pytest.approx(3 * (0.004 + 0.009), rel=0.1)


@given(st.lists(st.tuples(st.floats(1e-4, 1), st.floats(0, 300), st.floats(0, 5000)), min_size=1, max_size=40))
def test_a_step_never_gets_shorter_with_load(steps: list[tuple[float, float, float]]) -> None:
    model = StepModel()
    for step in steps:
        model.learn(Step(*step))
    assert min(model.base_s, model.per_decode_s, model.per_prompt_token_s) >= 0
