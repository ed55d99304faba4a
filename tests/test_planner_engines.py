"""Engines in plans: what works is started or held, and no more models are held at once than there are replicas."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchsched.planner import Load, Plan, Problem, make_plan
from batchsched.planner.verify import violations

from .planner_cases import job, pool, slots

gaps = st.sampled_from([1.5, 20.0, 50.0, 400.0, 900.0])


@st.composite
def crowded(draw: st.DrawFn) -> Problem:
    """More models than replicas, deadlines seconds apart, engine starts longer than the slots between them."""
    due, jobs = 300.0, []
    for i in range(draw(st.integers(1, 8))):
        due += draw(gaps)
        startup = draw(st.sampled_from([0.0, 30.0, 1000.0]))
        on = {name: draw(st.sampled_from([60.0, 700.0, 4000.0])) for name in draw(st.sampled_from(["a", "b", "ab"]))}
        model = f"m{draw(st.integers(0, 3))}"
        jobs.append(job(f"j{i}", on, due, model=model, startup_s_on=dict.fromkeys(on, startup), finish_late=draw(st.booleans())))
    levels = draw(st.lists(st.sampled_from([50.0, 200.0, 300.0]), min_size=8, max_size=8))
    loaded = draw(st.sampled_from([[], ["m0"], ["m1", "m2"], ["other"] * 4]))
    return Problem(slots(8), [pool("a", levels, draw(st.integers(1, 3)), loaded=loaded), pool("b", levels[::-1], 2)], jobs)


@settings(max_examples=150, deadline=None)
@given(crowded())
def test_greedy_plans_hold_what_they_use(problem: Problem) -> None:
    make_plan(problem, "greedy")  # it is verified


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(crowded())
def test_solved_plans_hold_what_they_use(problem: Problem) -> None:
    plan = make_plan(problem, "cp-sat", 0.2)
    assert not [note for note in plan.notes if "failed" in note or "unsafe" in note]


def two_models() -> tuple[Problem, Plan]:
    """One replica that must change its model twice."""
    jobs = [
        job("x", 600.0, 900.0, model="m", startup_s_on={"a": 60.0}),
        job("y", 600.0, 1800.0, model="n", startup_s_on={"a": 60.0}),
        job("z", 600.0, 2700.0, model="m", startup_s_on={"a": 60.0}),
    ]
    problem = Problem(slots(3), [pool("a", [100.0] * 3)], jobs)
    return problem, make_plan(problem, "greedy")


def test_a_replica_that_changes_its_model_pays_for_each_start() -> None:
    problem, plan = two_models()
    assert not plan.late
    assert not violations(problem, plan)
    starts = sum(load.starts for load in plan.loads)
    assert starts >= 2
    assert sum(load.seconds for load in plan.loads) == pytest.approx(60.0 * starts)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"starts": 0}, "nobody started"),
        ({"seconds": 5.0}, "engine starts take"),
        ({"starts": 2}, "engine starts take"),
        ({"starts": -1}, "engine starts"),
    ],
)
def test_the_verifier_counts_starts(change: dict[str, object], said: str) -> None:
    problem, plan = two_models()
    first = min(plan.loads, key=lambda load: load.slot_index)
    loads = [msgspec.structs.replace(load, **change) if load is first else load for load in plan.loads]
    broken = violations(problem, msgspec.structs.replace(plan, loads=loads))
    assert any(said in text for text in broken), broken


def test_the_verifier_counts_what_is_held() -> None:
    """Two models that take turns on one replica cannot both stay on it."""
    jobs = [job(f"{model}{i}", 100.0, 3600.0, model=model, startup_s_on={"a": 10.0}) for model in "mn" for i in range(2)]
    problem = Problem(slots(4), [pool("a", [100.0] * 4)], jobs)
    plan = make_plan(problem, "greedy")
    assert violations(problem, plan) == []

    def at(batch_id: str, slot: int) -> object:
        a = plan.of(batch_id)[0]
        return msgspec.structs.replace(a, slot_index=slot, start_s=900.0 * slot, end_s=900.0 * (slot + 1))

    moved = [at("m0", 0), at("n0", 1), at("m1", 2), at("n1", 3)]
    loads = [Load("m0", "m", "a", 0, 10.0, "m on a", 1), Load("n0", "n", "a", 1, 10.0, "n on a", 1)]
    broken = violations(problem, msgspec.structs.replace(plan, allotments=moved, loads=loads))
    assert broken == ["a in slot 1: 2 replicas hold models, but there are 1"]
