"""Jobs that accept several models: the planner counts engine starts by the model that serves a job on each pool."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import Literal

import msgspec
import pytest
from hypothesis import given, settings

from batchsched.errors import UnsafePlan
from batchsched.planner import Problem, make_plan
from batchsched.planner.explain import explain
from batchsched.planner.problem import Effort, standalone
from batchsched.planner.verdict import run_now_grams, verdict
from batchsched.planner.verify import verify
from tests.planner_cases import fleet_problem, job, pool, seeds, slots

SOLVERS: tuple[Literal["greedy", "cp-sat"], ...] = ("greedy", "cp-sat")
START_S = 300.0


def _either(name: str, new_model: str = "big", start_s: float = START_S, **more: object) -> Problem:
    """One job that is served by `small` on the old pool and, unless said otherwise, by `big`, which it names, on the new one."""
    old = pool("old", [100.0] * 4, loaded=["small"])
    new = pool("new", [100.0] * 4, loaded=["big"], home=True, newness=(9.0, 0.0))
    configs = [standalone("small", "old"), standalone(new_model, "new")]
    on = {config.pool if config.model == "big" else config.name: 600.0 for config in configs}
    settings: dict[str, object] = {
        "startup_s_on": dict.fromkeys(on, start_s),
        "configurations": {config.name: config for config in configs},
        **more,
    }
    return Problem(slots(4), [old, new], [job(name, on, 3600.0, model="big", **settings)])


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_start_is_paid_for_the_model_that_serves_and_for_no_other(solver: Literal["greedy", "cp-sat"]) -> None:
    hot = _either("b")
    assert make_plan(hot, solver).loads == []
    old, new = hot.pools
    swapped = [msgspec.structs.replace(old, loaded=["big"]), msgspec.structs.replace(new, loaded=["small"])]
    cold = make_plan(msgspec.structs.replace(hot, pools=swapped), solver)
    assert sum(load.seconds for load in cold.loads) == pytest.approx(START_S)
    assert {(load.pool, load.model) for load in cold.loads} <= {("old", "small"), ("new", "big")}


def test_the_check_refuses_work_of_a_model_that_is_not_loaded() -> None:
    hot = _either("b")
    plan = make_plan(hot, "greedy")
    verify(hot, plan)
    cold = msgspec.structs.replace(hot, pools=[msgspec.structs.replace(one, loaded=["other"]) for one in hot.pools])
    with pytest.raises(UnsafePlan, match=r"(small on old|big on new): work in slot"):
        verify(cold, plan)


@settings(max_examples=6)
@given(seeds)
def test_plans_of_jobs_with_several_models_keep_every_rule(seed: int) -> None:
    draw, plain = random.Random(seed), fleet_problem(seed, jobs=5, count=12)
    jobs = [
        msgspec.structs.replace(one, configurations={on: standalone(draw.choice(["m0", "m1"]), on) for on in one.seconds_on})
        for one in plain.jobs
    ]
    problem = msgspec.structs.replace(plain, jobs=jobs)
    best, first = make_plan(problem, work_s=0.5, seed=seed), make_plan(problem, "greedy")
    verify(problem, best)
    assert best.objective <= first.objective * (1 + 1e-9)
    assert not any("unsafe" in note or "failed" in note for note in best.notes)


def test_the_baseline_runs_the_model_that_the_requests_name() -> None:
    named = {"new": Effort(1200.0, 1000.0, 0.0)}
    problem = _either("b", "small", 0.0, as_named=named)
    assert run_now_grams(problem, problem.jobs[0]) == pytest.approx(1200 * 1000 / 3.6e6 * 100)


def test_verdict_and_explanation_name_the_model() -> None:
    problem = _either("b", "small")
    plan = make_plan(problem, "greedy")
    assert "with the model small" in verdict(problem, plan, "b").reason
    told = " ".join(explain(problem, plan, "b", origin_at=datetime(2026, 5, 1, tzinfo=UTC)))
    assert "on pool old with small in" in told
    plain = msgspec.structs.replace(problem, jobs=[job("b", {"old": 600.0, "new": 600.0}, 3600.0)])
    assert "model" not in verdict(plain, make_plan(plain, "greedy"), "b").reason
