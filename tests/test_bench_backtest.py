"""The benchmark of backtests: its last line says what each policy took, and what came of it."""

from __future__ import annotations

import json

import pytest

from benchmarks import backtest


@pytest.mark.slow
def test_the_last_line_tells_what_each_policy_took(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(backtest, "ZONES", ("PJM", "CISO"))
    backtest.main(["--days", "1", "--batches", "3", "--policy", "run now", "--policy", "greedy", "--chunk-s", "7200"])
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["pools"] == 4
    assert [*last["policies"]] == ["run now", "greedy"]
    assert all(one["leases"] >= last["batches"] > 0 for one in last["policies"].values())
    assert all(one["cpu_s"] > one["planning_cpu_s"] >= 0 for one in last["policies"].values())
    assert last["policies"]["greedy"]["kg"] > 0
