"""Planning again from what stands: the linear program resumes where it ended, the plan is made to fit."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from batchsched.planner.fleet import Standing, plans
from batchsched.planner.fleet_bound import FleetPrices
from batchsched.planner.fleet_model import FleetModel
from batchsched.planner.fleet_relax import relax
from batchsched.planner.fleet_verify import fleet_violations
from batchsched.planner.search import Search
from benchmarks.planner.events import events
from benchmarks.planner.generate import Size, generate

from .brute_force import tiny_fleet, tiny_seeds

FLEET = generate(Size(200, 8, 48, 100), 3)


def steps(model: FleetModel, before: FleetModel | None = None) -> tuple[float, int]:
    """Bound and simplex steps, from nothing or from where the program of another fleet ended."""
    found = relax(model, relax(before).lp.basis() if before else None)
    return found.bound_g, found.lp.lp.iterations


def test_a_new_batch_takes_a_few_simplex_steps() -> None:
    model = events(FLEET, 0)["new batch"]
    bound, cold = steps(model)
    again, warm = steps(model, FLEET.model)
    assert again == pytest.approx(bound, rel=2e-4)
    assert warm < cold / 10


@pytest.mark.parametrize("event", ["changed forecast", "lost pool"])
def test_any_basis_leads_to_the_same_bound(event: str) -> None:
    model = events(FLEET, 1)[event]
    assert steps(model, FLEET.model)[0] == pytest.approx(steps(model)[0], rel=2e-4)


def test_a_basis_that_says_nothing_does_no_harm() -> None:
    basis = relax(FLEET.model).lp.basis()
    nonsense = replace(basis, gpus=np.full_like(basis.gpus, 5), done=np.full_like(basis.done, 5))
    assert relax(FLEET.model, nonsense).bound_g == pytest.approx(steps(FLEET.model)[0], rel=2e-4)


def state(model: FleetModel, work: int = 2_000_000) -> Standing:
    """What stands after a little search."""
    relaxation = relax(model)
    search = Search(model, relaxation.last.prices)
    search.load(relaxation.last.run)
    search.improve(work)
    plan = search.plan()
    return Standing(plan.run, plan.starts, plan.held, relaxation.best.prices, relaxation.lp.basis())


@pytest.mark.slow
@pytest.mark.parametrize("event", ["new batch", "changed forecast", "lost pool"])
def test_a_replan_is_safe_at_once_and_gets_better(event: str) -> None:
    model = events(FLEET, 2)[event]
    steps = list(itertools.islice(plans(model, 0, state(FLEET.model)), 4))
    for step in steps:
        assert step.plan is not None
        assert fleet_violations(model, step.plan) == []
    costs = [step.plan.cost_g for step in steps if step.plan is not None]
    assert costs == sorted(costs, reverse=True)
    assert steps[-1].bound_g >= steps[0].bound_g
    assert costs[-1] < 1.15 * steps[-1].bound_g


@pytest.mark.slow
@settings(max_examples=15, deadline=None, derandomize=True)
@given(tiny_seeds, tiny_seeds)
def test_a_replan_of_any_fleet_from_anything_is_safe(seed: int, other: int) -> None:
    """Whatever stood, and however little of it still fits."""
    model, draw = tiny_fleet(seed), np.random.default_rng(other)
    standing = Standing(
        draw.uniform(0, 2, model.run_g.shape) * model.slot_s,
        draw.integers(0, 3, model.load_g.shape) if other % 2 else None,
        draw.integers(0, 3, model.load_g.shape) if other % 2 else None,
        FleetPrices(*(draw.uniform(0, 0.1, shape.shape) for shape in (model.capacity, model.room, model.load_g))),
    )
    for step in itertools.islice(plans(model, 0, standing), 3):
        assert step.plan is not None
        assert fleet_violations(model, step.plan) == []
        assert step.bound_g <= step.plan.cost_g * (1 + 1e-9)
