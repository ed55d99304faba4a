"""The queue benchmark: its arithmetic, and that our side of it runs and checks itself. The peers run only in the benchmark."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.queues import __main__ as bench
from benchmarks.queues import ours


def test_ratios_are_taken_within_a_repetition_against_the_fastest_setting_that_counts() -> None:
    def one(name: str, setting: str, *, counted: bool = True) -> bench.Contender:
        return bench.Contender("claim", name, setting, "x", 1, (), counted)

    mine, other = one(bench.OURS, "a"), one(bench.OURS, "b")
    slow, fast, loose = one("peer", "slow"), one("peer", "fast"), one("peer", "no fsync", counted=False)
    rates = {mine: [30.0, 20.0, 40.0], other: [90.0, 1.0, 1.0], slow: [1.0, 1.0, 1.0], fast: [3.0, 1.0, 2.0], loose: [99.0] * 3}
    assert bench.ratios(rates, "claim") == [10.0, 20.0, 20.0]
    assert bench.summary(rates, 0.25)["claim_ratio"] == 20.0
    rows = list(bench.table(rates))
    assert [row.endswith("not its best") for row in rows[1:]] == [False, True, True, False, False]
    assert rows[-1].endswith("shown, not counted")


@pytest.mark.slow
def test_our_side_records_every_request_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ours.main(ours.Plan(str(tmp_path / "queue.db"), str(tmp_path), 700, threads=2, chunk_lines=150, claim=2, group=40))
    answer = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert answer["jobs"] == 700
    assert answer["seconds"] > 0
