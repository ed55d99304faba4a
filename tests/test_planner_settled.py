"""Batches that stay on one configuration, and plans that do not flap."""

from __future__ import annotations

import msgspec
import pytest

from batchsched.planner import Job, Plan, Problem, make_plan
from batchsched.planner.churn import settled
from batchsched.planner.last import standing
from batchsched.planner.problem import Stood
from batchsched.planner.uniform import one_each
from batchsched.planner.verify import verify
from tests.planner_cases import fleet_problem, job, pool, slots


def uniform(deadline_s: float, name: str = "u", **more: object) -> Job:
    """Half as long on the dirty pool as on the clean one."""
    return job(name, {"clean": 1800.0, "dirty": 900.0}, deadline_s, uniform=True, max_replicas=1, **more)


def test_a_uniform_batch_takes_the_clean_place_where_that_keeps_the_deadline() -> None:
    pools = [pool("clean", [10.0] * 8), pool("dirty", [500.0] * 8)]
    kept = {at: one_each(Problem(slots(8), pools, [uniform(at)])).jobs[0] for at in (7200.0, 1800.0, 1000.0, 400.0)}
    assert {at: one.pools for at, one in kept.items()} == {
        7200.0: ["clean"],
        1800.0: ["clean"],
        1000.0: ["dirty"],
        400.0: ["dirty"],
    }
    assert kept[7200.0].named_on("dirty") is not None, "the baseline still knows the other place"


def test_of_two_uniform_batches_the_second_sees_what_the_first_takes() -> None:
    pools = [pool("clean", [10.0] * 8), pool("dirty", [500.0] * 8)]
    two = one_each(Problem(slots(8), pools, [uniform(1800.0, "a"), uniform(2700.0, "b")]))
    assert [one.pools for one in two.jobs] == [["clean"], ["dirty"]]
    assert not make_plan(two).late


def standing_problem(churn: float, now_g: float, later_g: float) -> tuple[Problem, Plan]:
    """A job planned into the second of two slots, whose forecast has changed since."""
    before = Problem(slots(2), [pool("a", [100.0, 90.0])], [job("j", 900.0, 1800.0)])
    stood = make_plan(before, "greedy")
    assert [a.slot_index for a in stood.allotments] == [1]
    now = Problem(slots(2), [pool("a", [now_g, later_g])], before.jobs, standing=standing(stood, 0.0), churn=churn)
    return now, settled(now, make_plan(now, "greedy"))


@pytest.mark.parametrize(("churn", "slot"), [(0.0, 0), (0.02, 0), (0.2, 1)])
def test_a_plan_is_turned_over_only_where_it_saves_more_than_the_limit(churn: float, slot: int) -> None:
    problem, plan = standing_problem(churn, 90.0, 100.0)
    verify(problem, plan)
    assert [a.slot_index for a in plan.allotments] == [slot]
    assert plan.solver == ("standing" if slot else "greedy")


def test_what_stood_is_given_up_where_it_would_be_late() -> None:
    problem, _ = standing_problem(0.5, 90.0, 100.0)
    closed = msgspec.structs.replace(problem.pools[0], capacity=[1.0, 0.0])
    lost = msgspec.structs.replace(problem, pools=[closed])
    assert [a.slot_index for a in settled(lost, make_plan(lost, "greedy")).allotments] == [0]


def test_work_that_is_late_in_any_case_is_no_part_of_the_cost() -> None:
    problem, _ = standing_problem(0.02, 90.0, 100.0)
    lost = msgspec.structs.replace(problem, jobs=[*problem.jobs, job("lost", 9000.0, 0.0)])
    plan = settled(lost, make_plan(lost, "greedy"))
    assert plan.late == {"lost": 100.0}
    assert [a.slot_index for a in plan.allotments] == [0], "ten per cent are more than two, whatever is lost beside them"


def test_late_work_is_compared_by_weight() -> None:
    pools, heavy = (
        [pool("a", [100.0, 100.0], capacity=[1.0, 0.0])],
        job("heavy", 900.0, 1800.0, weight=9.0, remaining_requests=10),
    )
    light = job("light", 900.0, 1800.0, remaining_requests=100)
    stood = [Stood("light", "a", 0.0, 900.0, 900.0)]
    problem = Problem(slots(2), pools, [heavy, light], standing=stood, churn=1e9)
    assert settled(problem, make_plan(problem, "greedy")).late == {"light": 100.0}
    alike = msgspec.structs.replace(problem, jobs=[msgspec.structs.replace(heavy, weight=1.0), light])
    assert settled(alike, make_plan(alike, "greedy")).late == {"heavy": 10.0}


@pytest.mark.parametrize("seed", range(3))
def test_what_is_carried_on_keeps_every_rule_with_a_new_batch_beside_it(seed: int) -> None:
    old = fleet_problem(seed, jobs=6)
    stood = make_plan(old, "greedy")
    jobs = [*old.jobs, job("new", {"p0": 600.0, "p1": 900.0}, 20_000.0, startup_s_on={"p0": 60.0, "p1": 60.0})]
    now = msgspec.structs.replace(old, jobs=jobs, standing=standing(stood, 0.0), churn=0.5)
    plan = settled(now, make_plan(now, "greedy"))
    verify(now, plan)
    assert plan.solver == "standing"
    assert plan.of("new")


def test_a_batch_pauses_and_moves_between_slots_at_no_cost() -> None:
    """Preemption and moving are free: clean slots of two pools in turn, with both engines held."""
    pools = [
        pool("a", [10.0, 900.0, 10.0, 900.0], loaded=["m"]),
        pool("b", [900.0, 900.0, 900.0, 10.0], loaded=["m"]),
    ]
    plan = make_plan(Problem(slots(4), pools, [job("j", {"a": 2700.0, "b": 2700.0}, 3600.0, max_replicas=1)]))
    assert [(a.slot_index, a.pool) for a in plan.of("j")] == [(0, "a"), (2, "a"), (3, "b")]
