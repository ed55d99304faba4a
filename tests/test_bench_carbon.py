"""The carbon benchmark: what is summed over weeks, who beats us, and what the last line says; on runs made up here."""

from __future__ import annotations

import json
import math
import os
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from batchsched.errors import InvalidValue
from batchsched.simulate import POLICIES, Grid, Outcome, simulate
from batchsched.simulate.ceiling import Impossible
from batchsched.simulate.drawn import Drawn
from batchsched.simulate.rolling import hours_of
from batchsched.simulate.scenarios import regions, single
from benchmarks import carbon
from benchmarks.attempts import Failed, Incomplete, LeftOut, complete, ran
from benchmarks.budget import Budget
from benchmarks.carbon_plan import Block, guess_s
from benchmarks.carbon_rows import By, Row, Run
from benchmarks.carbon_whole import EXACT, SAMPLE, conditions_of, differences, served, whole_runs, worth_it
from benchmarks.kept import Kept

WEEK = datetime(2022, 7, 2, tzinfo=UTC)


def row(
    policy: str,
    grams: float,
    *,
    scenario: str = "everything",
    week: int = 0,
    missed: int = 0,
    by: By = "planner",
    promised: int = 100,
) -> Row:
    """A hundred batches; of those that are late one was called infeasible when it came, where not all were promised."""
    run = Run(scenario, WEEK + timedelta(days=7 * week), policy, by)
    broken = max(0, missed - (100 - promised))
    return Row(
        run, grams, 100, missed, 1.0, 10.0, 5.0, 0.1, 0.0, grams / 10, grams / 20, 1.0, 400.0, promised=promised, broken=broken
    )


def table(*others: Row) -> dict[str, dict[str, float]]:
    """Run now emits 1,000 g, ours 600, with foresight 500, in each of two weeks."""
    ours = [
        row(name, g, week=w) for w in (0, 1) for name, g in ((carbon.RUN_NOW, 1000), (carbon.OURS, 600), (carbon.FORESIGHT, 500))
    ]
    return carbon.summed([*ours, *others])


def test_shares_are_of_what_foresight_and_the_ceiling_save() -> None:
    ours = table()[carbon.OURS]
    assert ours["saved_pct"] == pytest.approx(40)
    assert ours["captured"] == pytest.approx(0.8)
    assert ours["of_ceiling"] == pytest.approx(400 / 600)
    assert ours["wait_h"] == pytest.approx(1)
    assert ours["gpu_h"] == pytest.approx(20)
    assert ours["starts_pct"] == pytest.approx(10)
    assert ours["idle_pct"] == pytest.approx(5)


def test_the_worst_week_is_told() -> None:
    found = table(row("EDF", 500, week=0), row("EDF", 1100, week=1))
    assert found["EDF"]["worst_week_pct"] == pytest.approx(-10)
    assert found["EDF"]["saved_pct"] == pytest.approx(20)


def test_who_emits_less_at_no_more_misses_beats_us() -> None:
    def twice(name: str, grams: float, missed: int = 0) -> list[Row]:
        return [row(name, grams, week=w, missed=missed) for w in (0, 1)]

    found = table(
        *twice("cleaner", 590),
        *twice("late", 500, missed=1),
        *twice("dirtier", 610),
        *twice(carbon.GREEDY_FORESIGHT, 510),
        *twice("alike", 600 - 1e-5),
    )
    assert [name for name, one in found.items() if one["beats_us"]] == ["cleaner"]
    said = carbon.figures({"everything": found})
    assert said["beaten_by"] == ["cleaner (everything)"]
    assert said["fleet_captured"] == 0.8
    assert said["misses_pct"] == 0.0
    assert said["saving_vs_run_now_pct"] == 40.0
    assert said["scheduler_captured_24h"] is None


def test_where_nothing_competes_for_room_the_greedy_plan_is_ours() -> None:
    rows = [
        row(name, g, scenario="single, 24 h")
        for name, g in ((carbon.RUN_NOW, 1000), (carbon.GREEDY, 700), (carbon.GREEDY_FORESIGHT, 600))
    ]
    said = carbon.figures({"single, 24 h": carbon.summed(rows)})
    assert said["scheduler_captured_24h"] == 0.75


def test_where_nothing_can_be_saved_there_is_no_share_of_it() -> None:
    yardsticks = (carbon.RUN_NOW, carbon.GREEDY, carbon.GREEDY_FORESIGHT)
    rows = [row(name, 1000, scenario="single, 24 h", week=week) for week in (0, 1) for name in yardsticks]
    found = {"single, 24 h": carbon.summed([msgspec.structs.replace(one, ceiling_g=1000.0) for one in rows])}
    carbon.show("single, 24 h", found["single, 24 h"])
    said = json.loads(json.dumps(carbon.figures(found), allow_nan=False))
    assert said["scheduler_captured_24h"] is None
    nothing = [msgspec.structs.replace(one, grams=0.0, batches=0, ceiling_g=0.0) for one in rows]
    json.dumps(carbon.figures({"single, 24 h": carbon.summed(nothing)}), allow_nan=False)


def simulated(one: Run) -> Row:
    """One of ours fails in the first week, running at once in the third; one policy's process is killed in the second."""
    week = (one.week - WEEK).days // 7
    if (one.policy, week) == ("EDF", 0):
        raise AssertionError("it emitted less than can be")
    if (one.policy, week) == (carbon.RUN_NOW, 2):
        raise ZeroDivisionError
    return os._exit(1) if (one.policy, week) == ("FIFO", 1) else row(one.policy, 1000 - 10 * len(one.policy), week=week)


@pytest.mark.slow
def test_a_run_that_fails_costs_no_other_and_is_told() -> None:
    yardsticks = (carbon.RUN_NOW, carbon.OURS, carbon.FORESIGHT)
    names = (*yardsticks, "EDF", "FIFO", "GreenLLM")
    plan = [Run("everything", WEEK + timedelta(days=7 * week), name) for week in range(3) for name in names]
    came = list(ran(simulated, plan, 1))
    failed = [one for one in came if isinstance(one, Failed)]
    rows = [one for one in came if isinstance(one, Row)]
    assert len(rows) == len(plan) - 3
    found = carbon.summed(rows)
    assert found.keys() == {*yardsticks, "GreenLLM"}, "a policy that lacks a week of the others' is no peer of theirs"
    assert found["GreenLLM"]["kg"] == pytest.approx(2 * 0.92), "in the third week nobody knows what running at once emits"
    first, killed, now = carbon.figures({"everything": found}, failed)["failed"]
    assert first == "EDF (everything, week of 2022-07-02): AssertionError: it emitted less than can be"
    assert killed.startswith("FIFO (everything, week of 2022-07-09): a process died")
    assert now.startswith("run now (everything, week of 2022-07-16): ZeroDivisionError")
    assert carbon.summed(one for one in rows if one.run.policy != carbon.OURS) == {}


def die_on_three(number: int) -> int:
    """The process is killed, as for want of memory."""
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return 10 * number


@pytest.mark.slow
def test_who_runs_beside_one_that_is_killed_is_not_given_up() -> None:
    came = list(ran(die_on_three, range(1, 7), 2))
    failed = [one for one in came if isinstance(one, Failed)]
    assert [one.run for one in failed] == [3]
    assert sorted(one for one in came if isinstance(one, int)) == [10, 20, 40, 50, 60]


def test_nothing_begins_for_which_there_is_no_time() -> None:
    came = list(ran(abs, [-1, -2, -3], 1, lambda number: number != -2))
    assert came == [1, LeftOut(-2), 3]


def test_work_that_was_left_undone_is_no_saving() -> None:
    done = Outcome("EDF", 2)
    assert complete(done) is done
    for wrong in (Outcome("EDF", 2, unfinished=["a"]), Outcome("EDF", 2, given_up={"a": 3.0})):
        with pytest.raises(Incomplete):
            complete(wrong)


def asked(monkeypatch: pytest.MonkeyPatch, *words: str) -> list[Block]:
    monkeypatch.setattr("sys.argv", ["carbon", *words])
    return carbon.planned_blocks(carbon._asked())  # pyright: ignore[reportPrivateUsage]


def test_what_is_worth_most_is_run_first(monkeypatch: pytest.MonkeyPatch) -> None:
    found = asked(monkeypatch)
    assert [block.scenario for block in found[:4]] == ["everything", "single, 24 h", "single, 96 h", "regions, exact"]
    assert [block.scenario for block in found[4:8]] == [block.scenario for block in found[:4]], "then second weeks of all"
    assert [block.scenario for block in found[8:]] == ["single, 48 h", "single, 6 h"]
    assert found[4].week != found[0].week
    assert {block.week for block in asked(monkeypatch, "--weeks", "1", "--single-weeks", "1")} == {found[0].week}
    full = asked(monkeypatch, "--full")
    assert tuple(block.week for block in full if block.scenario == carbon.BETA) == carbon.BETA_WEEKS, "the feed that really broke"
    assert [block.week for block in asked(monkeypatch, "--scenario", carbon.BETA, "--weeks", "9")] == [*carbon.BETA_WEEKS]
    assert {block.scenario for block in full} == set(carbon.EVERY)
    assert sum(block.scenario == "everything" for block in full) == 13


def test_every_scenario_has_its_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carbon, "drawn", lambda name, week, days: regions(("CISO", "DE"), week, 1, 1))
    fleet = list(carbon.runs(Block("everything", WEEK), None, 3))
    assert {(run.week, run.days) for run in fleet} == {(WEEK, 3)}
    assert [run.policy for run in fleet[:3]] == [carbon.OURS, carbon.FORESIGHT, carbon.RUN_NOW], "the longest, and what all need"
    assert "least money" in {run.policy for run in fleet}
    assert len({run.policy for run in fleet}) == len(fleet)
    alone = list(carbon.runs(Block("single, 24 h", WEEK), None, 7))
    assert carbon.OURS not in {run.policy for run in alone}
    few = {run.policy for run in carbon.runs(Block("everything", WEEK), ["EDF"], 7)}
    assert few == {"EDF", carbon.RUN_NOW, carbon.OURS, carbon.FORESIGHT, carbon.GREEDY, carbon.GREEDY_FORESIGHT}


def test_a_run_fits_if_it_may_take_as_long_as_the_longest_of_its_kind() -> None:
    clock = [0.0]
    budget = Budget[Run](10, 2, lambda run: (run.scenario, 100.0), lambda: clock[0])
    run = Run("everything", WEEK, "EDF")
    clock[0] = 490.0
    assert budget.fits(run)
    budget.learn(msgspec.structs.replace(row("EDF", 100), took_s=200.0))
    assert not budget.fits(run)
    assert not budget.fits(Run("site", WEEK, "EDF")), "the machine is half as fast as was thought"
    clock[0] = 400.0
    assert budget.fits(run)
    said = list(budget.said([(Block("everything", WEEK), [run] * 3), (Block("site", WEEK), [run] * 10)]))
    assert said[1:] == [
        "- everything, week of 2022-07-02: 3 runs, 5.0 minutes of a processor",
        "- site, week of 2022-07-02: 10 runs, 16.7 minutes of a processor; will hardly fit",
    ]
    endless = list(Budget(math.inf, 2, carbon.kind_of).said([(Block("everything", WEEK), [run] * 100)]))
    assert endless[0].startswith("No end of time")
    assert "hardly" not in endless[1]


def test_kept_rows_tell_how_long_others_of_their_kind_take(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "rows.jsonl", Row, [])
    known = msgspec.structs.replace(row("EDF", 100), took_s=1000.0, ceiling_g=None)
    kept.add(known)
    found = carbon.Found(Budget(10, 1, carbon.kind_of), 1, kept)
    found.add([known.run, row("FIFO", 100).run], "until the end:", "runs")
    assert found.left_out == [row("FIFO", 100).run]


def test_what_the_whole_thing_takes_is_known_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carbon, "drawn", lambda name, week, days: regions(("CISO", "DE"), week, 1, 1))
    monkeypatch.setattr("sys.argv", ["carbon"])
    said = carbon._asked()  # pyright: ignore[reportPrivateUsage]
    first = asked(monkeypatch)[:4]
    needed_s = sum(guess_s(run, solved="planner" in run.policy) for block in first for run in carbon.likely(block, said))
    assert needed_s / 2 < carbon.MINUTES * 60, "a week of each that a goal is set for fits on two cores"


def test_rows_are_kept_for_the_same_code_alone(tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "a.py").write_text("a = 1")
    path = tmp_path / "out" / "rows.jsonl"
    mine = msgspec.structs.replace(row("EDF", 100), ceiling_g=None)
    Kept(path, Row, [code]).add(mine)
    with path.open("ab") as file:
        file.write(b'{"run":{"scen')  # it was stopped there
    other = row("FIFO", 100)
    Kept(path, Row, [code]).add(other)
    assert Kept(path, Row, [code]).rows == {mine.run: mine, other.run: other}
    (code / "a.py").write_text("a = 2")
    with pytest.raises(InvalidValue):
        Kept(path, Row, [code])


@pytest.mark.slow
def test_harder_scenarios_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Online users, and days on which something goes wrong: with what their conditions and feeds are."""
    monkeypatch.setattr(carbon, "_provider", lambda: Drawn(WEEK, 400, 1))
    monkeypatch.setattr(carbon, "SITES", ("CISO", "DE"))
    for name in ("shared 25", "lost pool", "broken feed"):
        found = carbon.run(Run(name, WEEK, "greedy", days=1))
        assert found.batches > 10
        assert found.ceiling_g is not None
        assert found.grams > found.ceiling_g > 0
    monkeypatch.setattr(carbon, "_ceiling_g", lambda *_: 2 * found.grams)
    if not found.missed:
        with pytest.raises(Impossible, match="nobody can emit less than"):
            carbon.run(Run("broken feed", WEEK, "greedy", days=1))


def test_how_far_apart_is_of_paired_weeks() -> None:
    assert carbon.apart([(700, 600, 1000), (1300, 1200, 2000)]) == [7.5]
    mean, low, high = carbon.apart([(700, 600, 1000), (650, 600, 1000), (600, 600, 1000), (750, 600, 1000)])
    assert low < mean == 7.5 < high
    assert carbon.apart([(700, 600, 1000)] * 5) == [10.0, 10.0, 10.0]


def both(*, missed: int = 0) -> dict[str, dict[str, dict[str, float]]]:
    """Tables of the planner alone, and of the whole server, where ours saves less."""
    ours = [(carbon.RUN_NOW, 1000.0), (carbon.OURS, 600.0), (carbon.FORESIGHT, 500.0), ("EDF", 700.0)]
    planner = [row(name, g) for name, g in ours]
    server = [row(name, g + 20, by="server", missed=missed if name == carbon.OURS else 0, promised=99) for name, g in ours]
    return {found[0].run.table: carbon.summed(found) for found in (planner, server)}


def test_the_last_line_is_of_the_whole_server_where_it_ran_and_says_so() -> None:
    said = carbon.figures(both())
    keys = ("fleet_captured", "misses_pct", "unexcused_misses_pct", "saving_vs_run_now_pct")
    assert said["by"] == dict.fromkeys(keys, "everything, whole server")
    assert said["saving_vs_run_now_pct"] == pytest.approx(100 * (1 - 620 / 1020), abs=1e-4)
    assert said["planner_captured"] == {"everything": 0.8}
    apart = said["planner_and_server"]["everything"][carbon.OURS]
    assert (apart["planner_saved_pct"], apart["server_saved_pct"]) == (40.0, 39.22)
    alone = carbon.figures({"everything": both()["everything"]})
    assert alone["by"]["fleet_captured"] == "everything"
    assert alone["planner_and_server"] == {}


def test_a_miss_counts_where_the_deadline_was_called_feasible() -> None:
    assert carbon.figures(both(missed=1))["misses_pct"] == 0.0
    said = carbon.figures(both(missed=2))
    assert said["misses_pct"] == said["unexcused_misses_pct"] == pytest.approx(100 / 99, abs=1e-4)


def test_who_took_longer_than_was_left_room_for_is_excused_and_missed_all_the_same() -> None:
    late = msgspec.structs.replace(row(carbon.OURS, 600, missed=2), excused=1, latest_h=0.5, wait_p95_h=3.0)
    ours = carbon.summed([row(carbon.RUN_NOW, 1000), row(carbon.FORESIGHT, 500), late])[carbon.OURS]
    assert (ours["broken_pct"], ours["unexcused_pct"]) == (2.0, 1.0)
    assert (ours["latest_h"], ours["wait_p95_h"]) == (0.5, 3.0)


def test_the_whole_server_runs_ours_and_the_best_published_ones() -> None:
    rows = [
        row(name, g, scenario="single, 24 h", missed=missed)
        for name, g, missed in (
            (carbon.RUN_NOW, 1000, 0),
            (carbon.GREEDY, 700, 0),
            (carbon.GREEDY_FORESIGHT, 600, 0),
            ("late", 650, 2),
            ("as ours", 700, 0),
            ("second", 760, 0),
            ("best", 750, 1),
            ("third", 770, 0),
        )
    ]
    summary = carbon.summed(rows)
    names = worth_it(summary)
    assert names == [carbon.GREEDY, carbon.GREEDY_FORESIGHT, carbon.RUN_NOW, "best", "second"]
    runs = list(whole_runs("single, 24 h", [WEEK], names))
    assert {run.scenario for run in runs} == {"single, 24 h, 3 zones"}
    assert [run.by for run in runs] == ["planner"] * 5 + ["server"] * 5
    assert {run.table for run in runs} == {"single, 24 h, 3 zones", "single, 24 h, 3 zones, whole server"}
    assert [run.by for run in whole_runs("everything", [WEEK], names)] == ["server"] * 5
    assert list(whole_runs("single, 6 h", [WEEK], names)) == []


def test_only_where_rates_are_not_known_there_is_luck() -> None:
    assert conditions_of(regions(("DE",), WEEK, 1, 1)).sigma_chunk > 0
    exact = (regions(("DE",), WEEK, 1, 1, exact=True), single(("DE",), WEEK, 1, 24))
    assert [conditions_of(one) for one in exact] == [EXACT, EXACT]
    assert differences({"everything": {}}) == {}


@pytest.mark.slow
def test_the_whole_server_waits_with_a_single_job_as_the_planner_alone_does() -> None:
    start = datetime(2021, 7, 1, tzinfo=UTC)
    scenario = single(SAMPLE[:1], start, 1, 24, apart=True)
    grid = Grid(Drawn(start, hours_of(scenario.scene), 1), scenario.zones, start, hours_of(scenario.scene))
    names = (carbon.RUN_NOW, carbon.GREEDY)
    (now, kept), (ours, promises) = (served(scenario, grid, POLICIES[name]) for name in names)
    assert kept == promises == (8, 0, 0)
    alone = {name: simulate(scenario.scene, grid, POLICIES[name]).grams for name in names}
    assert now.grams == pytest.approx(alone[carbon.RUN_NOW], rel=0.03)
    assert ours.grams == pytest.approx(alone[carbon.GREEDY], rel=0.05)
    assert ours.grams < 0.95 * now.grams
