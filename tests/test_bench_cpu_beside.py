"""The benchmark of an engine beside online users: what it makes of what it saw."""

from __future__ import annotations

from benchmarks.cpu_beside import Answered, summary


def arm(first_ms: float, each_ms: float, tokens_per_s: float, count: int = 100) -> tuple[list[Answered], float]:
    usual = [Answered(first_ms / 1000, each_ms / 1000)] * (count - 2)
    return [*usual, *[Answered(3 * first_ms / 1000, 3 * each_ms / 1000)] * 2], tokens_per_s


def test_ratios_are_paired_and_the_p99_is_of_the_tail() -> None:
    rounds = [
        {"alone": arm(10, 2, 0), "unbound": arm(40, 4, 900), "bound": arm(10, 2, 500)},
        {"alone": arm(20, 2, 0), "unbound": arm(40, 8, 700), "bound": arm(22, 2, 300)},
        {"alone": arm(20, 2, 0), "unbound": arm(60, 8, 800), "bound": arm(21, 2, 400)},
    ]
    told = summary(rounds, gpu=False)
    assert told["alone"] == {"requests": 300, "ttft_p99_ms": 60.0, "tpot_p99_ms": 6.0}
    assert told["unbound"]["ttft_p99_ratio"] == 3
    assert told["unbound"]["ttft_p99_ratio_range"] == [2, 4]
    assert told["unbound"]["beside_tokens_per_s"] == 800
    assert (told["bound"]["ttft_p99_ratio"], told["bound"]["tpot_p99_ratio"]) == (1.05, 1)
    assert told["not_measured"]
    assert summary(rounds, gpu=True)["not_measured"] is None
