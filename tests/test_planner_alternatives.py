"""What an explanation says that the next best would cost, against solving again with what was chosen forbidden."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given, settings

from batchsched.planner import Job, Problem, make_plan, prepared
from batchsched.planner.alternatives import next_hour, next_place
from batchsched.planner.explain import explain
from batchsched.planner.shadow import Arrays, Shadow
from tests.planner_cases import fleet_problem, job, pool, seeds, slots

ORIGIN = datetime(2026, 5, 1, 12, tzinfo=UTC)


def shadow_of(problem: Problem) -> Shadow:
    """The problem's prices."""
    found = Shadow.cast(Arrays.of(*prepared(problem)))
    assert found is not None
    return found


def without(problem: Problem, name: str, keys: set[str]) -> Problem:
    """The problem where a job may not run in these configurations."""

    def kept(job: Job) -> Job:
        rest = {key: seconds for key, seconds in job.seconds_on.items() if key not in keys}
        return msgspec.structs.replace(job, seconds_on=rest) if job.batch_id == name else job

    return msgspec.structs.replace(problem, jobs=[kept(job) for job in problem.jobs])


def two_pools() -> Problem:
    """A clean pool with room for half, and a dirty one; a small job beside others that also want the clean one."""
    others = [job(f"o{i}", {"a": 3600, "b": 3600}, 8 * 3600) for i in range(10)]
    return Problem(
        slots(8, 3600), [pool("a", [100] * 8), pool("b", [300] * 8)], [job("x", {"a": 360, "b": 720}, 8 * 3600), *others]
    )


def test_the_next_best_costs_what_solving_without_the_chosen_one_costs() -> None:
    problem = two_pools()
    plan, shadow, x = make_plan(problem), shadow_of(problem), problem.jobs[0]
    assert {a.pool for a in plan.of("x")} == {"a"}
    other = next_place(shadow, x, plan.of("x"))
    assert other is not None
    assert other.place.key == "b"
    # It takes 0.2 kWh at 300 g instead of 0.1 at 100 g, and what it leaves on `a` saves another batch 0.1 kWh of 200 g.
    assert other.more_g == pytest.approx(50 - 20, rel=0.02)
    assert other.power_g == pytest.approx(50, rel=0.02)
    forced = make_plan(without(problem, "x", {"a"}))
    difference = sum(g or 0 for g in forced.grams_expected.values()) - sum(g or 0 for g in plan.grams_expected.values())
    assert difference == pytest.approx(other.more_g, abs=2)
    said = " ".join(explain(problem, plan, "x", origin_at=ORIGIN, shadow=shadow))
    assert "On pool b, the next best place (from 12:00:00 UTC), all batches together would cost at least 30" in said
    assert "less what the place that it leaves saves other work" in said


def test_the_next_best_hour_is_the_next_cleanest() -> None:
    problem = Problem(slots(4, 3600), [pool("a", [500, 200, 100, 300])], [job("x", 1800, 4 * 3600)])
    plan = make_plan(problem)
    other = next_hour(shadow_of(problem), problem.jobs[0], plan.of("x"))
    assert other is not None
    assert other.start_s == 3600
    assert other.more_g == pytest.approx(50, rel=0.02)
    said = explain(problem, plan, "x", origin_at=ORIGIN, shadow=shadow_of(problem))
    assert any("At the next best other time (from 13:00:00 UTC)," in text and "for its power" in text for text in said)


@given(seeds)
@settings(max_examples=12)
def test_no_program_without_the_chosen_one_costs_less_than_was_said(seed: int) -> None:
    problem = fleet_problem(seed, load=0.5)
    plan, shadow = make_plan(problem, "greedy"), shadow_of(problem)
    for one in problem.jobs[:3]:
        mine = plan.of(one.batch_id)
        used = {a.key for a in mine}
        other = next_place(shadow, one, mine)
        if not mine or other is None or len(used) == len(one.seconds_on):
            continue
        # On the same slots and due times: what is said is a bound of just that.
        fine, due = prepared(problem)
        forced = Shadow.cast(Arrays.of(without(fine, one.batch_id, used), due, shadow.of.prices.loss_g_per_s))
        assert forced is not None
        assert forced.bound_g - shadow.bound_g >= other.more_g - 2e-3 * shadow.bound_g - 0.5


def test_a_place_that_only_lateness_could_free_is_full() -> None:
    others = [job(f"o{i}", {"b": 3600}, 2 * 3600) for i in range(3)]
    problem = Problem(
        slots(2, 3600), [pool("a", [300] * 2), pool("b", [100] * 2)], [job("x", {"a": 900, "b": 900}, 7200), *others]
    )
    plan = make_plan(problem)
    said = explain(problem, plan, "x", origin_at=ORIGIN, shadow=shadow_of(problem))
    assert any("On pool b" in text and "no room for it unless other work is late" in text for text in said)


def test_without_prices_it_is_told_what_the_place_alone_would_cost() -> None:
    problem = two_pools()
    said = explain(problem, make_plan(problem, "greedy"), "x", origin_at=ORIGIN)
    assert any("next best" in text or "needed for other work" in text for text in said)
    pools = [pool("a", [100, None, 100, 100]), pool("b", [None] * 4)]
    unknown = Problem(slots(4, 3600), pools, [job("x", {"a": 60, "b": 60}, 9000)])
    assert explain(unknown, make_plan(unknown, "greedy"), "x", origin_at=ORIGIN, shadow=shadow_of(unknown))
