"""Crumbs of work: they go to where their batch runs anyway, and nothing is started or leased for them."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given, settings

from batchsched.planner import Allotment, Load, Plan, Problem, make_plan, prepared
from batchsched.planner.allowance import allowances
from batchsched.planner.cost import assess
from batchsched.planner.crumbs import swept
from batchsched.planner.greedy import Filler, allot
from batchsched.planner.price import price
from batchsched.planner.verify import violations
from tests.planner_cases import fleet_problem, job, pool, seeds, slots


def test_a_crumb_goes_to_where_its_batch_runs_and_its_engine_start_is_left_out() -> None:
    problem = Problem(
        slots(4),
        [pool("a", [100.0] * 4), pool("b", [90.0] * 4)],
        [job("j", {"a": 450.0, "b": 450.0}, 3600.0, startup_s_on={"a": 60.0, "b": 60.0})],
    )
    one = problem.jobs[0]
    work = [allot(problem, one, "b", 0, 1.0), allot(problem, one, "a", 3, 449.0)]
    starts = [Load("j", "m", "b", 0, 60.0, starts=1), Load("j", "m", "a", 3, 60.0, starts=1)]
    plan = assess(problem, price(problem), {"j": 3600.0}, work, starts)
    assert violations(problem, plan) == []
    clean = swept(problem, {"j": 3600.0}, plan)
    (all_of_it,) = clean.allotments
    assert (all_of_it.pool, all_of_it.slot_index) == ("a", 3)
    assert all_of_it.requests == pytest.approx(100.0)
    assert [(load.pool, load.starts) for load in clean.loads] == [("a", 1)]
    assert violations(problem, clean) == []
    late = swept(problem, {"j": 1800.0}, assess(problem, price(problem), {"j": 1800.0}, work, starts))
    assert len(late.allotments) == 2, "nothing goes beyond its due time"


def test_a_crumb_leases_no_chunk_and_crumbs_that_come_to_a_request_do() -> None:
    one = job("j", 450.0, 3600.0)
    cells = [
        Allotment("j", "a", t, t * 900.0, (t + 1) * 900.0, requests, requests * 4.5)
        for t, requests in enumerate([0.3, 0.3, 99.4])
    ]
    plan = Plan(slots(3), cells)
    assert [bool(allowances(plan, {"j": one}, "a", at, {})[0]) for at in (0.0, 900.0, 1800.0)] == [False, True, True]


def crumbled(problem: Problem, due: dict[str, float], plan: Plan) -> Plan:
    """The plan with a fifth of a request of each batch in the first place where a replica is free for it."""
    filler = Filler(problem, price(problem))
    filler.resume(plan.allotments, plan.loads)
    work = {(a.batch_id, a.key, a.slot_index): a.seconds for a in plan.allotments}
    for one in problem.jobs:
        for a in plan.of(one.batch_id)[-1:]:
            seconds = 0.2 * one.seconds_on[a.key] / one.remaining_requests
            at = next((t for t in range(a.slot_index) if filler.free(one, a.key, t) > seconds), None)
            if at is not None and a.seconds > 2 * seconds:
                work[one.batch_id, a.key, a.slot_index] -= seconds
                work[one.batch_id, a.key, at] = work.get((one.batch_id, a.key, at), 0.0) + seconds
                filler.take(one, a.key, at, seconds)
    jobs = {one.batch_id: one for one in problem.jobs}
    found = [allot(problem, jobs[name], key, t, seconds) for (name, key, t), seconds in work.items()]
    return assess(problem, price(problem), due, found, plan.loads)


@given(seeds)
@settings(max_examples=15)
def test_no_crumb_is_left_where_its_batch_has_room(seed: int) -> None:
    problem = fleet_problem(seed, jobs=8, load=1.5)
    fine, due = prepared(problem)
    plan = crumbled(fine, due, make_plan(problem, "greedy"))
    clean = swept(fine, due, plan)
    assert violations(problem, clean) == []
    assert done(clean) == pytest.approx(done(plan))
    assert clean.late == pytest.approx(plan.late)
    filler = Filler(fine, price(fine))
    filler.resume(clean.allotments, clean.loads)
    for one in fine.jobs:
        mine = clean.of(one.batch_id)
        for crumb in [a for a in mine if a.crumb]:
            limit_s = max(due[one.batch_id], crumb.end_s)
            others = [a for a in mine if a is not crumb and a.end_s <= limit_s]
            share = crumb.seconds / one.seconds_on[crumb.key]
            assert not any(filler.free(one, a.key, a.slot_index) > share * one.seconds_on[a.key] + 1e-6 for a in others)


def done(plan: Plan) -> dict[str, float]:
    """Requests of each batch."""
    found: dict[str, float] = defaultdict(float)
    for a in plan.allotments:
        found[a.batch_id] += a.requests
    return dict(found)
