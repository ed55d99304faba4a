"""What if: changed problems, their cost by prices against their cost by resolving."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings

from batchsched.errors import InvalidValue
from batchsched.planner import Job, Problem, make_plan, prepared
from batchsched.planner.cost import late_s
from batchsched.planner.shadow import Arrays, Shadow
from batchsched.planner.verify import violations
from batchsched.planner.whatif import Changes, Copy, best, by_prices, changed, late
from tests.planner_cases import fleet_problem, job, pool, seeds, slots


def _lp(problem: Problem, other: Problem) -> float:
    """The program's own value of the second problem, on the slots that both have."""
    shadow = Shadow.cast(Arrays.of(*prepared(other, problem)))
    assert shadow is not None
    return shadow.bound_g


def test_a_later_deadline_saves_what_the_cleaner_hour_saves() -> None:
    problem = Problem(slots(8, 3600), [pool("a", [400, 400, 100, 100, 100, 100, 100, 100])], [job("b", 1800, 2 * 3600)])
    other = changed(problem, Changes(deadlines={"b": 4 * 3600.0}))
    told = by_prices(problem, other)
    assert told is not None
    assert told.grams == pytest.approx(-150, rel=0.01)  # half a kWh at 300 g less
    saved = sum(g or 0 for g in make_plan(other).grams_expected.values()) - sum(
        g or 0 for g in make_plan(problem).grams_expected.values()
    )
    assert saved == pytest.approx(-150, rel=0.01)


def test_losing_the_clean_site_costs_what_the_other_emits_more() -> None:
    clean, dirty = pool("a", [100] * 4), pool("b", [300] * 4)
    problem = Problem(slots(4, 3600), [clean, dirty], [job("x", {"a": 3600, "b": 3600}, 4 * 3600)])
    told = by_prices(problem, changed(problem, Changes(without=["site-a"])))
    assert told is not None
    assert told.grams == pytest.approx(200, rel=0.01)
    back = by_prices(changed(problem, Changes(without=["site-a"])), problem)
    assert back is not None
    assert back.grams is not None
    assert back.grams <= -199


def test_prices_tell_where_there_is_no_time_for_what_may_come_on_top() -> None:
    """Then there is no due time, only the deadline."""
    doubtful = job("x", {"a": 3600, "b": 3600}, 4 * 3600, sigma=2.0)
    problem = Problem(slots(4, 3600), [pool("a", [100] * 4), pool("b", [300] * 4)], [doubtful])
    told = by_prices(problem, changed(problem, Changes(without=["site-a"])))
    assert told is not None
    assert told.grams == pytest.approx(200, rel=0.01)


def test_one_more_replica_is_worth_the_price_of_its_hours() -> None:
    jobs = [job(f"b{i}", 3600, 4 * 3600) for i in range(4)]
    problem = Problem(slots(4, 3600), [pool("a", [100, 400, 400, 400])], jobs)
    more = changed(problem, Changes(replicas={"a": 1}))
    assert more.pools[0].capacity == [2.0] * 4
    told = by_prices(problem, more)
    assert told is not None
    assert told.grams == pytest.approx(-300, rel=0.01)
    fewer = changed(problem, Changes(replicas={"a": -1}))
    told = by_prices(problem, fewer)
    assert told is not None
    assert told.grams is None
    assert told.late
    names = [one.batch_id for one in late(make_plan(problem), make_plan(fewer))]
    assert len(names) == 4


def test_a_copy_in_a_cleaner_zone_takes_what_may_go_there() -> None:
    problem = Problem(slots(4, 3600), [pool("a", [300] * 4)], [job("x", 1800, 4 * 3600), job("y", 1800, 4 * 3600)])
    copy = Copy("a", "CLEAN", [50.0] * 4, frozenset({"x"}))
    other = changed(problem, Changes(copies=[copy]))
    assert other.pools[-1].simulated
    told = by_prices(problem, other)
    assert told is not None
    assert told.grams is not None
    assert -126 <= told.grams <= -124
    plan = make_plan(other)
    assert {a.pool for a in plan.of("x")} == {"a@CLEAN"}
    assert {a.pool for a in plan.of("y")} == {"a"}


@given(seeds)
@settings(max_examples=8)
def test_more_freedom_costs_nothing(seed: int) -> None:
    """Whatever greedy finds; a plan that stands where there is less counts where there is more, and not the other way round."""
    problem = fleet_problem(seed, load=0.4)
    named, wide = problem.jobs[0], Changes(replicas={"p0": 1}, copies=[Copy("p1", "Z", [100.0] * 24)])
    wide = msgspec.structs.replace(wide, deadlines={named.batch_id: named.deadline_s + 1800})
    other = changed(problem, wide)
    less, more = make_plan(problem, "greedy"), make_plan(other, "greedy")
    chosen = best(other, more, [less])
    assert violations(other, chosen) == []
    assert late_s(other, chosen) <= late_s(other, less) + 1.0
    if chosen.late == less.late and chosen.later == less.later:
        assert chosen.objective <= less.objective * (1 + 2e-4)
    assert best(problem, less, [more]) is less or not violations(problem, best(problem, less, [more]))


@pytest.mark.parametrize("jobs", [[], [job("nowhere", {}, 3600)]], ids=["nothing open", "no pool may run it"])
def test_there_are_no_prices_where_nothing_can_run(jobs: list[Job]) -> None:
    problem = Problem(slots(4, 3600), [pool("a", [100] * 4)], jobs)
    assert by_prices(problem, changed(problem, Changes(replicas={"a": 1}))) is None


@pytest.mark.parametrize(
    "changes", [Changes(deadlines={"nobody": 1.0}), Changes(replicas={"nowhere": 1}), Changes(without=["nowhere"])]
)
def test_what_the_plan_does_not_know_is_refused(changes: Changes) -> None:
    with pytest.raises(InvalidValue, match="It knows"):
        changed(Problem(slots(2), [pool("a", [1, 2])], [job("b", 10, 900)]), changes)


@given(seeds)
@settings(max_examples=10)
def test_prices_never_promise_more_than_the_program_can_keep(seed: int) -> None:
    problem = fleet_problem(seed, load=0.4)
    first = problem.jobs[0]
    asked = [
        Changes(deadlines={first.batch_id: first.deadline_s + 1800}),
        Changes(replicas={"p0": 2, "p1": -1}),
        Changes(without=["site-p0"]),
        Changes(copies=[Copy("p0", "Z", [100.0] * 24)]),
    ]
    for changes in asked:
        other = changed(problem, changes)
        told = by_prices(problem, other)
        if told is None or told.grams is None:
            continue
        difference = _lp(problem, other) - _lp(other, problem)
        assert told.grams <= difference + 1e-3 * abs(difference) + 0.5, changes


def test_changes_are_told_apart_from_what_stays() -> None:
    problem = fleet_problem(3)
    assert changed(problem, Changes()) == problem
    assert msgspec.structs.asdict(changed(problem, Changes(replicas={"p0": 1})).pools[1]) == msgspec.structs.asdict(
        problem.pools[1]
    )
