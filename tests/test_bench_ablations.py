"""The ablation benchmark: variants of a week are paired, each refinement is one thing, and what earns nothing is named."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from batchsched.planner.problem import Problem
from batchsched.simulate.drawn import Drawn
from batchsched.simulate.policies import Planner
from benchmarks import ablations
from benchmarks.ablations import trials_of
from benchmarks.ablations_judged import Asked, Row, Run, Trial, by_trial, judged, named, verdict
from benchmarks.ablations_tried import RUN_NOW, Held, Refinement, Variant, base_of, changed, refinements, variants
from benchmarks.budget import Budget
from benchmarks.kept import Kept

START = datetime(2022, 1, 3, tzinfo=UTC)


def told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[list[str], dict[str, Any]]:
    """What the benchmark prints, and its last line."""
    only = ["--only", "nowcast", "--only", "kept ready"]
    monkeypatch.setattr("sys.argv", ["ablations", "--days", "1", "--load", "0.1", "--jobs", "1", *only, *words])
    ablations.main()
    shown = capsys.readouterr().out.splitlines()
    return shown, json.loads(shown[-1])


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHSCHED_DATA", "/nowhere")
    half = msgspec.structs.replace(ablations.TUNED[0], zones=("CISO", "DE"))
    monkeypatch.setattr(ablations, "TUNED", (half,))


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_differences_are_paired(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    shown, said = told(monkeypatch, capsys, "--weeks", "4")
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
    assert sum(line.startswith("on and does not earn:") for line in shown) == 4, "after each week what stands so far"


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_what_was_stopped_tells_what_it_has_and_goes_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("benchmarks.kept.digest", lambda _: "this code")
    rows = ["--rows", str(tmp_path / "rows.jsonl")]
    shown, _ = told(monkeypatch, capsys, "--weeks", "1", *rows)
    assert sum(" kg, " in line for line in shown) == 4, "each run is said as it comes"
    shown, said = told(monkeypatch, capsys, "--weeks", "2", "--minutes", "0", *rows)
    assert not any(" kg, " in line for line in shown), "there is no time for any"
    assert {row["weeks"] for row in said["rows"]} == {1}
    assert len(said["left_out"]) == 4
    shown, said = told(monkeypatch, capsys, "--weeks", "2", *rows)
    assert sum(" kg, " in line for line in shown) == 4, "what is known is not run again"
    assert {row["weeks"] for row in said["rows"]} == {2}


def test_kept_rows_tell_how_long_others_of_their_kind_take(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "rows.jsonl", Row, [])
    known = msgspec.structs.replace(row("a", 600), took_s=1000.0)
    kept.add(known)
    found = ablations.Found(Budget(10, 1, ablations.kind_of), 1, kept)
    other = row("b", 600).run
    assert found.add([known.run, other], "tried", "of two") == 1
    assert (found.rows, found.left_out) == ([known], [other])


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


def row(variant: str, grams: float, missed_pct: float = 0.0, *, week: int = 0) -> Row:
    trial = Trial(ablations.TUNED[0], START + timedelta(days=7 * week), week)
    return Row(Run(Asked(), trial, variant), grams, missed_pct, 10, 0.1, 0.01, 1.0)


def test_what_is_saved_is_in_per_cent_of_running_at_once() -> None:
    base = base_of("greedy")
    good = Refinement("good", Variant("a", base), Variant("b", base), default=True)
    idle = Refinement("idle", Variant("a", base), Variant("c", base), default=True)
    grams = [(600 + n, 650 + n, 600 + n + (-1) ** n) for n in range(6)]
    names = (RUN_NOW.name, "a", "b", "c")
    rows = [row(name, g, week=n) for n, of in enumerate(grams) for name, g in zip(names, (1000, *of), strict=True)]
    first, second = judged([good, idle], by_trial(rows))
    assert first["points"] == [5.0, 5.0, 5.0]
    assert (first["weeks"], first["verdict"]) == (6, "earns")
    assert second["points"][1] < 0 < second["points"][2]
    assert second["verdict"] == "not seen"
    assert named([first, second]) == {"on_and_does_not_earn": ["idle"], "off_and_would_earn": []}
    late = [msgspec.structs.replace(one, missed_pct=1.0) if one.run.variant == "a" else one for one in rows]
    assert judged([good], by_trial(late))[0]["verdict"] == "earns, but misses more"


def test_a_week_counts_where_both_sides_came_through_it() -> None:
    base = base_of("greedy")
    good = Refinement("good", Variant("a", base), Variant("b", base), default=True)
    other = Refinement("other", Variant("a", base), Variant("c", base), default=True)
    rows = [row(RUN_NOW.name, 1000), row("a", 600), row("b", 650), row(RUN_NOW.name, 1000, week=1), row("a", 100, week=1)]
    (found,) = judged([good, other], by_trial(rows))
    assert (found["refinement"], found["weeks"], found["points"]) == ("good", 1, [5.0])
    assert judged([good], by_trial(rows[1:3])) == [], "nobody knows what running at once emits"


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
    assert set(trials_of(ablations.TUNED, 2)) <= set(tuned), "more may be added to the rows of few"
    assert {one.half.name for one in tuned[:2]} == {half.name for half in ablations.TUNED}, "first one of each half-year"


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
