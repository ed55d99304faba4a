"""Brute force against what is said of tiny fleets: no bound above the least cost, and the relaxation is near it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings

from batchsched.planner.fleet import plans
from batchsched.planner.fleet_model import FleetModel
from batchsched.planner.fleet_relax import relax
from batchsched.planner.fleet_verify import fleet_violations
from benchmarks.planner.classmodel import ClassModel
from benchmarks.planner.generate import Size, generate
from benchmarks.planner.instance import Instance
from benchmarks.planner.mathopt import bound, branch_and_bound
from benchmarks.planner.policies import earliest_deadline

from .brute_force import least_cost, tiny_fleet, tiny_seeds


@settings(max_examples=25, deadline=None)
@given(tiny_seeds)
@example(8)  # costs so far apart that the simplex method loses its way, unless they are scaled
@example(43)
def test_the_proven_bound_is_one(seed: int) -> None:
    model = tiny_fleet(seed)
    assert relax(model).bound_g <= least_cost(model) * (1 + 1e-6) + 1e-6


@pytest.mark.slow
@settings(max_examples=25, deadline=None, derandomize=True)
@given(tiny_seeds)
@example(11)  # once late for ever: one batch that a single replica could have done
@example(45)  # once unsafe
def test_every_plan_of_a_tiny_fleet_is_safe_and_the_last_one_is_near_the_best(seed: int) -> None:
    model = tiny_fleet(seed)
    least = least_cost(model)
    for step in itertools.islice(plans(model), 8):
        assert step.bound_g <= least * (1 + 1e-6) + 1e-6
        if step.plan is not None:
            assert fleet_violations(model, step.plan) == []
            assert step.plan.cost_g >= least * (1 - 1e-6) - 1e-6
    assert step.plan is not None
    assert step.plan.cost_g <= least * 1.2 + 0.01  # mostly the best itself; work that is late for nothing would cost hundreds


@pytest.mark.slow
@settings(max_examples=6, deadline=None, derandomize=True)
@given(tiny_seeds)
def test_greedy_never_beats_the_planner_by_more_than_its_gap(seed: int) -> None:
    fleet = generate(Size(12, 4, 96, 24), seed)
    plan = next(step.plan for step in plans(fleet.model) if step.plan is not None)
    assert earliest_deadline(fleet).cost_g >= plan.bound_g * (1 - 1e-9)


def _plain(model: FleetModel) -> bool:
    """One pool a configuration, starts within a slot, every batch accepted somewhere: what the class model is written for."""
    simple = bool((model.gpus.sum(axis=1) == 1).all() and (model.load_s <= model.slot_s.min()).all())
    return simple and set(model.batch_class) <= set(model.arc_class)


@settings(max_examples=10, deadline=None)
@given(tiny_seeds.filter(lambda seed: _plain(tiny_fleet(seed))))
def test_the_class_model_has_the_same_optimum(seed: int) -> None:
    """Interval rows and earliest deadline lose nothing against batches placed one by one."""
    model = tiny_fleet(seed)
    fleet = Instance(model, 0, ("zone",), ("a", "b"), np.ones(2, np.int64), np.zeros(model.configs))
    whole = ClassModel(fleet)
    least = least_cost(model)
    under = bound(whole, 10)
    assert under is not None
    assert under <= least * (1 + 1e-6) + 1e-6
    plan = branch_and_bound(whole, 10)
    assert plan is not None
    assert plan.cost_g == pytest.approx(least, rel=1e-3, abs=1e-3)
