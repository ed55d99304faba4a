"""The ablation benchmark: variants of a week are paired, each refinement is one thing, and what earns nothing is named."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from batchsched.planner.problem import Problem
from batchsched.simulate.drawn import Drawn
from batchsched.simulate.policies import Planner
from benchmarks import ablations
from benchmarks.ablations import Came, judged, named, trials_of, verdict
from benchmarks.ablations_tried import RUN_NOW, Held, Refinement, Variant, base_of, changed, refinements, variants

START = datetime(2022, 1, 3, tzinfo=UTC)


@pytest.mark.slow
def test_differences_are_paired(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHSCHED_DATA", "/nowhere")
    half = msgspec.structs.replace(ablations.TUNED[0], zones=("CISO", "DE"))
    monkeypatch.setattr(ablations, "TUNED", (half,))
    only = ["--only", "nowcast", "--only", "kept ready"]
    monkeypatch.setattr("sys.argv", ["ablations", "--weeks", "4", "--days", "1", "--load", "0.1", "--jobs", "1", *only])
    ablations.main()
    shown = capsys.readouterr().out.splitlines()
    said = json.loads(shown[-1])
    assert (said["drawn"], said["weeks"], said["by"], said["base"]) == (True, 4, "planner", "greedy")
    rows = {row["refinement"]: row for row in said["rows"]}
    assert set(rows) == {"nowcast", "engines kept ready"}
    for row in rows.values():
        mean, low, high = row["points"]
        assert low <= mean <= high
        assert -30 < mean < 30
    assert rows["nowcast"]["points"][0] != 0
    names = [*said["on_and_does_not_earn"], *said["off_and_would_earn"]]
    assert set(names) <= set(rows)
    assert any(line.startswith("on and does not earn:") for line in shown)


@pytest.mark.parametrize("base", ["greedy", "planner"])
def test_each_refinement_is_one_thing(base: str) -> None:
    for one in refinements(base_of(base), solver=True):
        assert len(differing(one.on, one.off)) == 1, one.name
    assert len(variants(refinements(base_of(base), solver=True))) > 15


def differing(on: Variant, off: Variant) -> list[str]:
    """In what two variants differ."""
    pairs = [(name, getattr(on, name), getattr(off, name)) for name in ("slot_s", "nowcast")]
    names = [name for name in on.policy.__struct_fields__ if name != "name"]
    pairs += [(name, getattr(on.policy, name), getattr(off.policy, name)) for name in names]
    return [name for name, one, other in pairs if one != other]


def came(grams: float, missed_pct: float = 0.0) -> Came:
    return Came(grams, missed_pct, 10, 0.1, 0.01)


def test_what_is_saved_is_in_per_cent_of_running_at_once() -> None:
    base = base_of("greedy")
    good = Refinement("good", Variant("a", base), Variant("b", base), default=True)
    idle = Refinement("idle", Variant("a", base), Variant("c", base), default=True)
    grams = [(600 + n, 650 + n, 600 + n + (-1) ** n) for n in range(6)]
    trials = [{RUN_NOW.name: came(1000), "a": came(a), "b": came(b), "c": came(c)} for a, b, c in grams]
    first, second = judged([good, idle], trials)
    assert first["points"] == [5.0, 5.0, 5.0]
    assert first["verdict"] == "earns"
    assert second["points"][1] < 0 < second["points"][2]
    assert second["verdict"] == "not seen"
    assert named([first, second]) == {"on_and_does_not_earn": ["idle"], "off_and_would_earn": []}
    late = [{**one, "a": came(one["a"].grams, 1.0)} for one in trials]
    assert judged([good], late)[0]["verdict"] == "earns, but misses more"


def test_only_a_whole_interval_counts() -> None:
    assert verdict([1.0, 0.1, 2.0], 0.0) == "earns"
    assert verdict([1.0, -0.1, 2.0], 0.0) == "not seen"
    assert verdict([1.0, -0.1, 2.0], -0.5) == "keeps deadlines"
    assert verdict([-1.0, -2.0, -0.1], 0.0) == "costs"
    assert verdict([1.0], 0.0) == "too few weeks"


def test_confirming_weeks_are_none_of_those_that_tune() -> None:
    tuned, confirms = (trials_of(halves, 6) for halves in (ablations.TUNED, ablations.CONFIRMS))
    assert len(tuned) == 12
    assert len({one.seed for one in tuned}) == 12
    july = datetime(2022, 7, 1, tzinfo=UTC)
    assert all(one.week + timedelta(days=14) < july for one in tuned)
    assert all(one.week > july for one in confirms)


def test_a_changed_planner_is_shown_another_problem_and_gives_another_plan() -> None:
    shown: list[float] = []

    def planner() -> Planner:
        def plan(problem: Problem, _now_s: float) -> object:
            shown.append(problem.churn)
            return problem

        return plan  # type: ignore[return-value]  # pyright: ignore[reportReturnType]

    made = changed(planner, before=lambda problem: msgspec.structs.replace(problem, churn=0.5))()
    made(Problem([], [], []), 0.0)
    assert shown == [0.5]


def test_a_held_forecast_is_that_of_midnight() -> None:
    inner = Drawn(START, 96, 1)
    now = START + timedelta(hours=30)
    held = Held(inner).forecast("DE", now, now + timedelta(hours=20))
    midnight = START + timedelta(hours=24)
    assert held.slots == inner.forecast("DE", midnight, now + timedelta(hours=20)).slots[6:]
    assert held.slots[0].start == now
    later = Held(inner).forecast("DE", now + timedelta(hours=5), now + timedelta(hours=20))
    assert later.slots == held.slots[5:]
