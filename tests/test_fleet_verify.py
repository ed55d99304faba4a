"""The check of fleets' plans: what costs what, and no breach goes unseen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchsched.planner.fleet_model import FleetModel, FleetPlan
from batchsched.planner.fleet_verify import fleet_cost, fleet_violations, missed


def model() -> FleetModel:
    """Two pools of two GPUs, each for one configuration; four slots of 100 s; the first pool's starts take 150 s."""
    return FleetModel(
        slot_s=np.full(4, 100.0),
        capacity=np.full((2, 4), 2.0),
        room=np.full((2, 4), 2.0),
        gpus=np.array([[1.0, 0.0], [0.0, 2.0]]),
        loaded=np.array([0, 1]),
        load_s=np.array([150.0, 10.0]),
        load_g=np.full((2, 4), 5.0),
        hold_g=np.full((2, 4), 0.5),
        arc_class=np.array([0, 0, 1]),
        arc_config=np.array([0, 1, 1]),
        rate=np.array([2.0, 1.0, 4.0]),
        run_g=np.array([[0.1] * 4, [0.2] * 4, [0.3] * 4]),
        late_g=np.array([10.0, 20.0]),
        batch_class=np.array([0, 0, 1]),
        release=np.array([0, 1, 0]),
        due=np.array([4, 3, 2]),
        work=np.array([200.0, 20.0, 100.0]),
    )


def plan() -> FleetPlan:
    """The first batch where starting takes 150 s, the others on the engine that is there; 20 units of the third are late."""
    run = np.zeros((3, 4))
    run[0, 1], run[0, 2] = 30.0, 70.0
    run[1, 1] = 20.0
    run[2, 0] = 20.0
    held, starts = np.zeros((2, 4), np.int64), np.zeros((2, 4), np.int64)
    starts[0, 0], held[0, :2], held[1, :1] = 1, 1, 1
    cost = 100 * 0.1 + 20 * 0.2 + 20 * 0.3 + 5.0 + 3 * 0.5 + 20 * 20.0
    return FleetPlan(run, starts, held, np.array([0.0, 0.0, 20.0]), cost, 10.0)


def test_a_safe_plan_and_its_cost() -> None:
    assert fleet_violations(model(), plan()) == []
    assert fleet_cost(model(), plan()) == pytest.approx(plan().cost_g)


def _with(name: str, *changes: tuple[tuple[int, ...], float]) -> FleetPlan:
    values = getattr(plan(), name).copy()
    for at, value in changes:
        values[at] = value
    changed = replace(plan(), **{name: values})
    return replace(changed, cost_g=fleet_cost(model(), changed))


BROKEN = {
    "negative": (_with("run", ((0, 3), -1.0)), "negative"),
    "unknown": (_with("run", ((0, 3), np.nan)), "not finite"),
    "shape": (replace(plan(), held=plan().held[:, :3]), "shape"),
    "half a replica": (replace(plan(), starts=plan().starts * 0.5), "fraction"),  # type: ignore[arg-type]
    "works while it starts": (_with("run", ((0, 0), 10.0)), "ready replicas"),
    "works in the rest of a long start": (_with("run", ((0, 1), 60.0)), "ready replicas"),
    "works on nothing": (_with("run", ((0, 3), 5.0)), "ready replicas"),
    "held from nowhere": (_with("held", ((0, 3), 1.0)), "neither held before"),
    "more GPUs than are open": (_with("starts", ((0, 1), 2.0), ((0, 2), 2.0)), "open"),
    "no room at the end": (_with("held", ((0, 0), 1.0), ((1, 0), 2.0)), "room"),
    "late without saying so": (_with("late", ((2,), 0.0)), "batch 2: neither"),
    "before its release": (_with("run", ((1, 0), 20.0), ((1, 1), 0.0), ((0, 1), 20.0)), "neither"),
    "later than it has": (_with("late", ((2,), 500.0)), "more work late"),
    "cost": (replace(plan(), cost_g=1.0), "it says"),
    "bound": (replace(plan(), bound_g=1e6), "lower bound"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_every_breach_is_seen(name: str) -> None:
    broken, words = BROKEN[name]
    assert any(words in line for line in fleet_violations(model(), broken)), fleet_violations(model(), broken)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_nothing_is_missed_just_where_every_interval_has_room(data: st.DataObject) -> None:
    count, slots = data.draw(st.integers(1, 6)), 6
    release = np.array(data.draw(st.lists(st.integers(0, slots - 1), min_size=count, max_size=count)))
    due = np.array([data.draw(st.integers(r + 1, slots)) for r in release])
    work = np.array(data.draw(st.lists(st.integers(1, 9), min_size=count, max_size=count)), float)
    done = np.array(data.draw(st.lists(st.integers(0, 12), min_size=slots, max_size=slots)), float)
    fits = all(work[(release >= a) & (due <= b)].sum() <= done[a:b].sum() for a in range(slots) for b in range(a + 1, slots + 1))
    late = missed(release, due, work, done)
    assert (late.sum() == 0) == fits
    assert (late <= work).all()


def test_a_batch_that_was_due_before_it_was_released_is_missed_whole() -> None:
    assert missed(np.array([1]), np.array([1]), np.array([5.0]), np.full(3, 100.0)).tolist() == [5.0]
    assert missed(np.array([0]), np.array([0]), np.array([5.0]), np.full(3, 100.0)).tolist() == [5.0]
