"""The latest safe start keeps deadlines at the asked rate; verdicts say what simulation shows; explanations are true."""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchsched.planner import Job, Problem, make_plan
from batchsched.planner.classes import classes
from batchsched.planner.disaggregate import disaggregate
from batchsched.planner.due import due_times
from batchsched.planner.explain import explain, waiting_for
from batchsched.planner.latest_start import OpenPool, latest_safe_starts, open_pools
from batchsched.planner.verdict import run_now_grams, verdict

from .planner_cases import fleet_problem, job, pool, seeds, slots

ORIGIN = datetime(2026, 1, 1, 12, tzinfo=UTC)
BEFORE = -1e6


def finishes(
    jobs: list[Job], starts: dict[str, float], factors: dict[str, float], windows: list[tuple[float, float]]
) -> dict[str, float]:
    """A fluid machine with one replica of pool `a`: from its start on, the earliest deadline goes first."""
    left = {j.batch_id: j.startup_s_on["a"] + j.seconds_on["a"] * factors[j.batch_id] for j in jobs}
    done: dict[str, float] = {}
    edges = sorted({at for span in windows for at in span} | set(starts.values()))
    t = edges[0]
    while left and t < math.inf:
        ready = [j for j in jobs if j.batch_id in left and starts[j.batch_id] <= t + 1e-9]
        following = next((at for at in edges if at > t + 1e-9), math.inf)
        open_now = any(a <= t + 1e-9 and t < b - 1e-9 for a, b in windows)
        if not ready or not open_now:
            t = following
            continue
        first = min(ready, key=lambda j: j.deadline_s)
        step = min(left[first.batch_id], following - t)
        t += step
        left[first.batch_id] -= step
        if left[first.batch_id] <= 1e-9:
            done[first.batch_id] = t
            del left[first.batch_id]
    return done


@pytest.mark.parametrize("confidence", [0.9, 0.99])
@pytest.mark.parametrize("windows", [[(BEFORE, 1e6)], [(BEFORE, 20_000.0), (30_000.0, 50_000.0), (55_000.0, 1e6)]])
def test_latest_start_keeps_the_asked_rate(confidence: float, windows: list[tuple[float, float]]) -> None:
    """Common errors: all jobs of the model are slow together. 3,000 draws; misses of each job within sampling error."""
    draw, runs = random.Random(1), 3000
    jobs = [
        job(f"j{i}", work, deadline, sigma=0.3, confidence=confidence, startup_s_on={"a": 100.0})
        for i, (work, deadline) in enumerate([(3000.0, 40_000.0), (5000.0, 42_000.0), (800.0, 60_000.0), (2000.0, 60_500.0)])
    ]
    starts = latest_safe_starts(jobs, [OpenPool("a", 1, windows)])
    misses = dict.fromkeys(starts, 0)
    for _ in range(runs):
        common = draw.lognormvariate(-(0.3**2) / 2, 0.3)
        done = finishes(jobs, starts, dict.fromkeys(starts, common), windows)
        for j in jobs:
            misses[j.batch_id] += done.get(j.batch_id, math.inf) > j.deadline_s + 1e-6
    allowed = 1 - confidence
    noise = 3 * math.sqrt(allowed * confidence / runs)
    assert all(count / runs <= allowed + noise for count in misses.values()), misses
    assert max(misses.values()) / runs >= allowed - noise  # nor later than it need be


def test_jobs_that_share_a_pool_are_stacked() -> None:
    jobs = [job(f"j{i}", 1000.0, 10_000.0) for i in range(3)]
    starts = latest_safe_starts(jobs, [OpenPool("a", 1, [(BEFORE, 1e6)])])
    assert sorted(starts.values()) == pytest.approx([7000.0, 8000.0, 9000.0])
    wide = latest_safe_starts(jobs, [OpenPool("a", 3, [(BEFORE, 1e6)])])
    assert max(wide.values()) == pytest.approx(9666.67, abs=1)


def test_latest_start_counts_width_startup_windows_margin_and_lateness() -> None:
    always = [OpenPool("a", 4, [(BEFORE, 1e6)])]
    one = latest_safe_starts([job("j", 1000.0, 10_000.0, max_replicas=1, startup_s_on={"a": 60.0})], always, margin_s=30)
    assert one["j"] == pytest.approx(10_000 - 1000 - 60 - 30)
    shut = latest_safe_starts([job("j", 1000.0, 10_000.0)], [OpenPool("a", 1, [(0.0, 5000.0), (9500.0, 10_000.0)])])
    assert shut["j"] == pytest.approx(4500.0)
    assert latest_safe_starts([job("j", 1000.0, 600.0)], always)["j"] == pytest.approx(350.0)
    assert latest_safe_starts([job("j", 10_000.0, 600.0)], always)["j"] < 0
    assert latest_safe_starts([job("j", {"b": 1.0}, 600.0)], always)["j"] == -math.inf


@settings(max_examples=40)
@given(seeds)
def test_latest_start_comes_before_deadline_and_earlier_with_more_confidence(seed: int) -> None:
    problem = fleet_problem(seed)
    usual = latest_safe_starts(problem.jobs, open_pools(problem))
    assert all(usual[j.batch_id] < j.deadline_s for j in problem.jobs)
    alone = {j.batch_id: latest_safe_starts([j], open_pools(problem))[j.batch_id] for j in problem.jobs}
    assert all(usual[key] <= alone[key] + 1e-6 for key in usual)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 20)), min_size=1, max_size=8), seeds)
def test_disaggregation_meets_every_deadline_that_the_rows_allow(shape: list[tuple[int, int]], seed: int) -> None:
    """Capacity given at random to a class, until its prefix rows hold: then no job is late."""
    draw = random.Random(seed)
    jobs = [job(f"j{i}", 300.0 * work, 900.0 * due) for i, (work, due) in enumerate(shape)]
    problem = Problem(slots(20), [pool("a", [100.0] * 20, 50)], jobs)
    due = due_times(problem)
    groups = classes(problem, due)
    given_s = [0.0] * 20
    for at in range(1, 21):
        asked = sum(j.seconds_on["a"] for j in jobs if j.deadline_s <= 900.0 * at)
        while sum(given_s[:at]) < asked:
            given_s[draw.randrange(at)] += 150.0
    plan = disaggregate(problem, due, groups, {(0, "a", t): s for t, s in enumerate(given_s) if s}, {})
    assert len(groups) == 1
    assert plan.late == {}


def test_verdict_probability_is_what_simulation_shows() -> None:
    problem = Problem(slots(20), [pool("a", [100.0] * 20)], [job("first", 3000.0, 9000.0), job("x", 4000.0, 9000.0, sigma=0.4)])
    answer = verdict(problem, make_plan(problem, "greedy"), "x")
    draw = random.Random(2)
    hits = sum(3000 + 4000 * draw.lognormvariate(-0.08, 0.4) <= 9000 for _ in range(20_000)) / 20_000
    assert answer.probability == pytest.approx(hits, abs=0.015)
    assert not answer.feasible
    assert "later would do" in answer.reason


def test_the_deadline_that_would_do_may_lie_beyond_the_horizon() -> None:
    """The horizon ends with the last deadline, so that what is judged is often the last."""
    late = job("x", 6000.0, 4500.0, sigma=0.2)
    answer = verdict(problem := Problem(slots(5), [pool("a", [100.0] * 5)], [late]), make_plan(problem, "greedy"), "x")
    assert not answer.feasible
    assert "h later would do" in answer.reason or "m later would do" in answer.reason
    enough_s = answer.options[0].deadline_s
    assert enough_s is not None
    for deadline_s, would_do in ((enough_s, True), (4500 + (enough_s - 4500) / 1.05 - 60, False)):
        longer = Problem(slots(20), [pool("a", [100.0] * 20)], [msgspec.structs.replace(late, deadline_s=deadline_s)])
        assert verdict(longer, make_plan(longer, "greedy"), "x").feasible == would_do
    shut = Problem(slots(5), [pool("a", [100.0] * 5, capacity=[0.0] * 5)], [late])
    assert "no pool that may run it opens" in verdict(shut, make_plan(shut, "greedy"), "x").reason


def test_verdict_of_a_feasible_and_a_hopeless_job() -> None:
    problem = Problem(
        slots(20),
        [pool("a", [500.0, 500.0, 100.0, *[500.0] * 17], home=True)],
        [job("x", 600.0, 18_000.0, sigma=0.1), job("never", {}, 18_000.0)],
    )
    plan = make_plan(problem)
    good = verdict(problem, plan, "x")
    assert good.feasible
    assert good.expected_finish_s == pytest.approx(1800 + 600, abs=20)
    assert good.expected_grams == pytest.approx(600 / 3600 * 100, rel=0.02)
    assert good.expected_grams_run_now == pytest.approx(600 / 3600 * 500)
    bad = verdict(problem, plan, "never")
    assert not bad.feasible
    assert bad.probability == 0
    assert bad.expected_grams_run_now is None
    with pytest.raises(KeyError):
        verdict(problem, plan, "nobody")


def test_run_now_takes_home_first_and_then_the_newest() -> None:
    old = pool("old", [100.0] * 4, home=True, newness=(7.0, 900.0))
    new = pool("new", [200.0] * 4, home=True, newness=(9.0, 3360.0))
    away = pool("away", [300.0] * 4, newness=(10.0, 9000.0))
    task = job("x", dict.fromkeys(("old", "new", "away"), 3600.0), 9e9)
    assert run_now_grams(Problem(slots(4), [old, new, away], [task]), task) == pytest.approx(200.0)
    assert run_now_grams(Problem(slots(4), [old, away], [task]), task) == pytest.approx(100.0)
    short = pool("old", [100.0] * 2)
    assert run_now_grams(Problem(slots(2), [short], [task]), task) is None  # the forecast ends before it would


def test_explanation_names_place_time_reason_and_limit() -> None:
    problem = Problem(
        slots(12),
        [pool("a", [500.0] * 4 + [100.0] * 8, simulated=True), pool("b", [450.0] * 12)],
        [job("x", {"a": 600.0, "b": 600.0}, 10_800.0, sigma=0.1)],
    )
    plan = make_plan(problem)
    text = "\n".join(explain(problem, plan, "x", origin_at=ORIGIN, latest_start_s=9000.0))
    for part in (
        "pool a in zone-a (a simulated place)",
        "13:00:00 UTC",
        "100 gCO2e/kWh",
        "500",
        "pool b",
        "run at once",
        "14:30:00 UTC",
    ):
        assert part in text, (part, text)
    said = [explain(problem, plan, "x", origin_at=ORIGIN, latest_start_s=-60.0, in_time=in_time)[-1] for in_time in (False, True)]
    assert "at risk" in said[0]
    assert "so it is left to that" in said[1]
    waiting = waiting_for(problem, plan, "x")
    assert waiting is not None
    assert "cleaner power in zone-a" in waiting[0]
    assert waiting[1] == 3600.0


def test_what_is_waited_for() -> None:
    closed = Problem(slots(4), [pool("a", [100.0] * 4, capacity=[0.0, 1.0, 1.0, 1.0])], [job("x", 300.0, 3600.0)])
    assert waiting_for(closed, make_plan(closed), "x") == ("pool a to open", 900.0)
    later = Problem(slots(4), [pool("a", [100.0, 500.0, 500.0, 100.0], capacity=[0.0, 1.0, 1.0, 1.0])], [job("x", 300.0, 3600.0)])
    both = "pool a to open, and then for cleaner power in zone-a (100 instead of 500 gCO2e/kWh)"
    assert waiting_for(later, make_plan(later), "x") == (both, 2700.0)
    queue = Problem(slots(4), [pool("a", [100.0] * 4)], [job("first", 900.0, 900.0), job("x", 300.0, 3600.0)])
    assert waiting_for(queue, make_plan(queue), "x") == ("batches with an earlier deadline", 900.0)
    assert waiting_for(queue, make_plan(queue), "first") is None
    hopeless = Problem(slots(4), [], [job("x", 300.0, 3600.0)])
    assert "No pool has room" in explain(hopeless, make_plan(hopeless), "x", origin_at=ORIGIN)[0]
