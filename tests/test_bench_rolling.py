"""The rolling benchmark: variants of a seed are paired, and its rows say what they should."""

from __future__ import annotations

import json

import pytest

from batchsched.simulate import POLICIES
from benchmarks import rolling


@pytest.mark.slow
def test_differences_are_paired(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    few = [POLICIES[name] for name in ("run now", "greedy, perfect foresight", "greedy")]
    monkeypatch.setattr(rolling, "variants", lambda _solver: few)
    monkeypatch.setenv("BATCHSCHED_DATA", "/nowhere")
    monkeypatch.setattr("sys.argv", ["rolling", "--seeds", "2", "--days", "1"])
    rolling.main()
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    rows = {row["variant"]: row for row in said["rows"]}
    assert said["drawn"] is True
    assert rows["greedy"]["points"] == [0.0, 0.0, 0.0]
    assert rows["run now"]["captured"] == 0.0
    assert rows["greedy, perfect foresight"]["captured"] == 1.0
    assert rows["run now"]["points"][0] == pytest.approx(-100 * rows["greedy"]["captured"], abs=0.02)
    assert 0.05 < rows["greedy"]["saved"] < 0.6


def test_what_is_compared_differs_in_one_thing() -> None:
    base = POLICIES[rolling.BASE]
    for policy in rolling.variants(solver=True):
        if policy.name.startswith(("lean", "risk", "replan")):
            changed = [getattr(policy, name) != getattr(base, name) for name in ("sees", "lean", "risk", "replan_s", "planner")]
            assert sum(changed) == 1, policy.name
