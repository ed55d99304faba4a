"""The benchmark of spare capacity: its loads, and what it makes of what users saw."""

from __future__ import annotations

import pytest

from benchmarks.spare.__main__ import Ran, _cell, _interval
from benchmarks.spare.online import Felt, bursty, steady


def test_loads_have_the_asked_rate_and_come_from_the_seed() -> None:
    arrivals = steady(2000, 25.0, 1)
    assert arrivals[-1].at_s == pytest.approx(80, rel=0.1)
    assert arrivals == steady(2000, 25.0, 1)
    burst, source = bursty(2000, 25.0, 1)
    assert burst[-1].at_s == pytest.approx(80)
    assert burst == bursty(2000, 25.0, 1)[0]
    assert source
    times = [arrival.at_s for arrival in burst]
    assert times == sorted(times)


def test_without_the_traces_bursts_are_made_up_and_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.spare.online._traced", _missing)
    arrivals, source = bursty(500, 25.0, 1)
    assert len(arrivals) == 500
    assert "made up" in source


def _missing(*_: object) -> None:
    raise OSError


def test_a_cell_is_judged_by_the_same_requests_and_anchored_on_the_best_cap_that_keeps_the_goal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    good, late = Felt(0.01, 0.002), Felt(0.09, 0.002)
    ran = {
        "alone": Ran([good] * 200, 0.0, {}),
        "cap 4": Ran([good] * 199 + [late], 100.0, {}),
        "cap 64": Ran([late] * 100 + [good] * 100, 900.0, {}),
        "governed tight": Ran([good] * 198 + [late] * 2, 110.0, {}),
    }
    cell = _cell("steady", "tight", (0.02, 0.004), ran)
    assert cell == {
        "attainment": 0.99,
        "alone": 1.0,
        "offline_tokens_per_s": 110.0,
        "offline_vs_best_cap": 1.1,
        "ttft_p99_ratio": 9.0,
        "tpot_p99_ratio": 1.0,
    }
    assert "cap 64" in capsys.readouterr().out
    low, high = _interval([True] * 200, [True] * 198 + [False] * 2)
    assert 0 <= low <= 0.01 <= high
