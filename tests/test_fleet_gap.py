"""A plan's gap to its bound, accounted for: each part is what it says, and together they are the gap."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings

from batchsched.planner.fleet import plans
from batchsched.planner.fleet_ascent import Ascent
from batchsched.planner.fleet_bound import FleetPrices, lower_bound
from batchsched.planner.fleet_gap import gap_parts
from batchsched.planner.fleet_model import FleetPlan, Floats
from batchsched.planner.fleet_relax import relax
from batchsched.planner.fleet_verify import fleet_cost, fleet_violations

from .brute_force import tiny_fleet, tiny_seeds
from .test_planner_fleet import fleet

MODEL = fleet(
    capacity=np.ones((1, 3)), room=np.ones((1, 3)), load_s=np.zeros(1), load_g=np.full((1, 3), 50.0),
    hold_g=np.full((1, 3), 20.0), run_g=np.array([[1.0, 2.0, 3.0]]), late_g=np.full(1, 20.0), work=np.full(1, 100.0),
)  # fmt: skip
PRICES = FleetPrices(np.zeros((1, 3)), np.zeros((1, 3)), np.array([[0.5, 0.2, 0.2]]))
"""A start serves one slot: 50 of 50 grams. A second of the batch costs 1.5, 2.2 or 3.2."""
WORTH = np.full((1, 3), 1.5)


def parts(
    run: list[float], starts: list[int], held: list[int], prices: FleetPrices = PRICES, worth: Floats = WORTH
) -> list[float]:
    """Of a plan that serves what it can."""
    late = np.array([max(0.0, 100.0 - sum(run))])
    plan = FleetPlan(np.array([run]), np.array([starts]), np.array([held]), late, 0.0, lower_bound(MODEL, prices))
    plan = replace(plan, cost_g=fleet_cost(MODEL, plan))
    assert not fleet_violations(MODEL, plan)
    found = list(msgspec.structs.astuple(gap_parts(MODEL, plan, prices, worth)))
    assert sum(found) == pytest.approx(plan.cost_g - plan.bound_g)
    return found


def test_each_part_is_what_it_says() -> None:
    assert lower_bound(MODEL, PRICES) == pytest.approx(150.0)
    assert parts([100, 0, 0], [1, 0, 0], [0, 0, 0]) == pytest.approx([0] * 7)
    # half of the work a slot later, 50 s at 2.2 instead of 1.5; half a replica idles twice; it is held for 20 and worth 20
    assert parts([50, 50, 0], [1, 0, 0], [1, 0, 0]) == pytest.approx([35, 0, 0, 0, 25 + 10, 0, 0])
    # begun for a slot that pays 20
    assert parts([0, 100, 0], [0, 1, 0], [0, 0, 0]) == pytest.approx([70, 0, 0, 30, 0, 0, 0])
    # nothing done: 100 units at 20 instead of 1.5
    assert parts([0, 0, 0], [0, 0, 0], [0, 0, 0]) == pytest.approx([0, 0, 1850, 0, 0, 0, 0])


def test_work_in_a_slot_that_others_need_is_overshoot() -> None:
    worth = np.array([[1.5, 2.2, 1.5]])
    assert parts([0, 100, 0], [0, 1, 0], [0, 0, 0], worth=worth) == pytest.approx([0, 70, 0, 30, 0, 0, 0])


def test_priced_gpus_that_nobody_uses_are_counted_and_a_weak_bound_is_the_rest() -> None:
    prices = replace(PRICES, gpu=np.array([[0.0, 0.0, 0.1]]))
    assert parts([100, 0, 0], [1, 0, 0], [0, 0, 0], prices) == pytest.approx([0, 0, 0, 0, 0, 10, 0])
    plan = FleetPlan(np.array([[100.0, 0, 0]]), np.array([[1, 0, 0]]), np.zeros((1, 3), np.int64), np.zeros(1), 150.0, 140.0)
    assert gap_parts(MODEL, plan, PRICES, WORTH).rest_g == pytest.approx(10)


@pytest.mark.slow
@settings(max_examples=15, deadline=None, derandomize=True)
@given(tiny_seeds)
def test_the_parts_of_any_fleet_are_its_gap(seed: int) -> None:
    model = tiny_fleet(seed)
    relaxation = relax(model)
    ascent = Ascent(model, relaxation.last.prices)
    ascent.climb(50)
    plan = next((step.plan for step in plans(model, seed) if step.plan is not None), None)
    if plan is None or fleet_violations(model, plan):
        return
    plan = replace(plan, bound_g=ascent.bound_g)
    found = gap_parts(model, plan, ascent.prices, relaxation.last.worth)
    slack = 1e-6 * max(1.0, plan.cost_g)
    assert all(part >= -slack for part in msgspec.structs.astuple(found)[:-1])
    assert abs(found.rest_g) <= slack
