"""What a plan says of a pool is looked up, between the instants at which it may change, and is the same as worked out anew."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchsched.planner import Plan, Problem, make_plan
from batchsched.planner.allowance import allowances
from batchsched.planner.problem import Configuration, Job, Link
from batchsched.published import Published
from tests.planner_cases import job, pool, slots

NOW = datetime(2026, 5, 1, tzinfo=UTC)
LATEST_S = {"x": 5000.0, "y": 9000.5, "late": None}


def either(name: str, deadline_s: float) -> Job:
    """May be served by a small model too, twice as fast."""
    small = {"small@a": Configuration("small", {"a": 1.0})}
    on = {"a": 3000.0, "b": 4000.0, "small@a": 1500.0}
    return msgspec.structs.replace(job(name, on, deadline_s), configurations=small)


def published() -> Published:
    """Three batches on two pools over four hours, of which the third is the cleanest."""
    problem = Problem(
        slots(4, 3600.0),
        [pool("a", [300.0, 200.0, 100.0, 400.0], 2), pool("b", [300.0, 250.0, 120.0, 400.0], 1)],
        [either("x", 4 * 3600.0), job("y", {"b": 2000.0}, 3.5 * 3600.0), job("late", {"a": 900.0}, 100.0)],
    )
    latest = {name: None if at_s is None else NOW + timedelta(seconds=at_s) for name, at_s in LATEST_S.items()}
    return Published(NOW, problem, make_plan(problem, "greedy"), latest)


PUBLISHED = published()
EDGES_S = sorted({*(a.end_s for a in PUBLISHED.plan.allotments), *(at_s for at_s in LATEST_S.values() if at_s)})


@given(st.sampled_from("ab"), st.sampled_from(EDGES_S) | st.floats(0.0, 5 * 3600.0), st.sampled_from([-1.0, 0.0, 1.0]))
def test_models_are_those_of_each_batch_alone(name: str, at_s: float, beside_s: float) -> None:
    now = NOW + timedelta(seconds=at_s + beside_s)
    alone = {batch_id: PUBLISHED.model(batch_id, name, now) for batch_id in LATEST_S}
    assert PUBLISHED.models(name, now) == {batch_id: model for batch_id, model in alone.items() if model}


def test_able_are_those_that_a_pool_may_work_on() -> None:
    assert PUBLISHED.able("b", ["y", "late", "unknown", "x"]) == ["y", "x"]


@pytest.mark.parametrize(("partners", "model"), [(1.0, "apart"), (0.0, "m")])
def test_where_the_plan_has_no_place_the_fastest_that_can_be_had_counts(partners: float, model: str) -> None:
    apart = Configuration("apart", {"a": 1.0}, {"partners": 1.0}, "prefill_decode")
    one = job("x", {"a": 3000.0, "apart@a": 1500.0, "b": 900.0}, 1e5, configurations={"apart@a": apart})
    hours = slots(4, 3600.0)
    pools = [pool("a", [300.0] * 4, 2), pool("b", [100.0] * 4, 1)]
    problem = Problem(hours, pools, [one], links=[Link("partners", [partners] * 4)])
    known = Published(NOW, problem, Plan(hours, []), {"x": NOW + timedelta(hours=20)})
    assert known.model("x", "a", NOW) == model
    _, plainly_s = allowances(known.plan, known.jobs, "a", 0.0, {"x": 10.0}, lambda config: config.plain)
    assert plainly_s["m"] == pytest.approx(-300.0)  # ten requests of 30 s were leased beyond the plan
