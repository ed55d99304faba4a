"""The fleet-size planner: the array model, its bound, its plans."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchsched.planner.fleet import plans
from batchsched.planner.fleet_ascent import Ascent
from batchsched.planner.fleet_bound import FleetPrices, lower_bound
from batchsched.planner.fleet_deal import deal
from batchsched.planner.fleet_demand import Demand
from batchsched.planner.fleet_model import FleetModel, FleetPlan
from batchsched.planner.fleet_relax import relax
from batchsched.planner.fleet_verify import fleet_violations
from batchsched.planner.search import Search

from .brute_force import least_cost, tiny_fleet, tiny_seeds


def fleet(**more: object) -> FleetModel:
    """One pool of two GPUs, one configuration, one class, three slots of 100 s, one batch of 100 units; one unit a second."""
    settings: dict[str, object] = {
        "slot_s": np.full(3, 100.0),
        "capacity": np.full((1, 3), 2.0),
        "room": np.full((1, 3), 2.0),
        "gpus": np.ones((1, 1)),
        "loaded": np.zeros(1, np.int64),
        "load_s": np.full(1, 150.0),
        "load_g": np.full((1, 3), 5.0),
        "hold_g": np.zeros((1, 3)),
        "arc_class": np.zeros(1, np.int64),
        "arc_config": np.zeros(1, np.int64),
        "rate": np.ones(1),
        "run_g": np.array([[3.0, 1.0, 2.0]]),
        "late_g": np.full(1, 100.0),
        "batch_class": np.zeros(1, np.int64),
        "release": np.zeros(1, np.int64),
        "due": np.full(1, 3),
        "work": np.full(1, 100.0),
        **more,
    }
    return FleetModel(**settings)  # type: ignore[arg-type]


def test_a_start_goes_on_in_the_next_slots_and_not_beyond_the_end() -> None:
    model = fleet(load_s=np.full(1, 150.0))
    assert model.load_band.tolist() == [[[100.0, 50.0], [100.0, 50.0], [100.0, 0.0]]]
    assert fleet(load_s=np.zeros(1)).load_band.tolist() == [[[0.0], [0.0], [0.0]]]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("work", np.full(2, 1.0)),
        ("run_g", np.full((1, 3), np.nan)),
        ("capacity", np.full((1, 3), -1.0)),
        ("rate", np.zeros(1)),
        ("arc_config", np.full(1, 1)),
    ],
)
def test_nonsense_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field.split("_", maxsplit=1)[0]):
        fleet(**{field: value})


def drawn(seed: int, pools: int = 2, slots: int = 8, batches: int = 6) -> FleetModel:
    """A small fleet: a model a class, all on all pools, starts and holding that cost, some replicas loaded."""
    rng = np.random.default_rng(seed)
    classes = 2
    k = classes * pools
    config, pool = np.arange(k), np.arange(k) % pools
    capacity = rng.integers(0, 4, (pools, slots)).astype(float)
    release = rng.integers(0, slots - 1, batches)
    return FleetModel(
        slot_s=rng.choice([100.0, 200.0], slots),
        capacity=capacity,
        room=np.minimum(capacity, np.roll(capacity, -1, axis=1)),
        gpus=np.eye(pools)[pool] * rng.integers(1, 3, k)[:, None],
        loaded=np.zeros(k, np.int64),
        load_s=rng.uniform(0, 30, k),
        load_g=rng.uniform(5, 20, (k, slots)),
        hold_g=rng.uniform(0, 5, (k, slots)),
        arc_class=config // pools,
        arc_config=config,
        rate=rng.uniform(0.5, 2, k),
        run_g=rng.uniform(0.1, 1, (k, slots)),
        late_g=np.full(classes, 50.0),
        batch_class=rng.integers(0, classes, batches),
        release=release,
        due=np.minimum(slots, release + rng.integers(0, slots, batches)),
        work=rng.uniform(5, 150, batches),
    )


seeds = st.integers(0, 10_000)


@settings(max_examples=30, deadline=None)
@given(seeds)
def test_interval_rows_say_whether_earliest_deadline_first_serves_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    release = rng.integers(0, 6, 5)
    model = fleet(
        slot_s=np.full(8, 100.0), capacity=np.ones((1, 8)), room=np.ones((1, 8)), load_g=np.ones((1, 8)), hold_g=np.ones((1, 8)),
        run_g=np.ones((1, 8)), batch_class=np.zeros(5, np.int64), release=release, due=release + rng.integers(1, 3, 5),
        work=rng.integers(1, 5, 5).astype(float),
    )  # fmt: skip
    demand = Demand(model)
    served = rng.integers(0, 6, 8).astype(float)
    done = np.concatenate([[0.0], np.cumsum(served)])[None, :] / demand.unit[0]
    left = model.work.copy()
    late = 0.0
    for t, room in enumerate(served.tolist()):
        free = room
        for b in sorted(range(5), key=lambda b: (model.due[b], b)):
            if model.release[b] <= t < model.due[b]:
                taken = min(free, left[b])
                left[b] -= taken
                free -= taken
        late += sum(left[b] for b in range(5) if model.due[b] == t + 1)
    assert (len(demand.missing(done)) == 0) == (late == 0)


@settings(max_examples=12, deadline=None)
@given(seeds, seeds)
def test_any_prices_bound_the_cost_and_the_programs_own_give_it(seed: int, other: int) -> None:
    model = drawn(seed)
    found = relax(model)
    rng = np.random.default_rng(other)
    shares = rng.uniform(0, 1.5, model.capacity.shape), rng.uniform(0, 1, model.load_g.shape)
    best = found.last.prices
    other_prices = FleetPrices(best.gpu * shares[0], best.room, best.ready * shares[1])
    assert found.bound_g == pytest.approx(found.last.cost_g, rel=1e-3)
    assert lower_bound(model, other_prices) <= found.last.cost_g * (1 + 1e-6)


@pytest.mark.parametrize("late_g", [2.0, 100.0])
def test_late_work_is_chosen_where_it_is_cheaper_than_any_way_to_do_it(late_g: float) -> None:
    model = fleet(load_g=np.zeros((1, 3)), late_g=np.full(1, late_g), run_g=np.full((1, 3), 5.0))
    assert relax(model).bound_g == pytest.approx(100 * min(5.0, late_g))


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(50, 500), min_size=8, max_size=8), st.lists(st.integers(1, 4), min_size=2, max_size=2))
def test_the_relaxation_meets_brute_force(grams: list[int], lengths: list[int]) -> None:
    """Whole slots on one replica, starts for free: every way to give the slots to the two batches is tried."""
    model = fleet(
        slot_s=np.full(8, 100.0), capacity=np.ones((1, 8)), room=np.ones((1, 8)), hold_g=np.zeros((1, 8)),
        load_g=np.zeros((1, 8)), load_s=np.zeros(1), run_g=np.array([grams], float),
        batch_class=np.zeros(2, np.int64), release=np.zeros(2, np.int64),
        due=np.array([4, 8]), work=100.0 * np.array(lengths), late_g=np.full(1, 1e4),
    )  # fmt: skip
    best = min(
        100.0 * sum(grams[t] for t in (*early, *late))
        for early in itertools.combinations(range(4), lengths[0])
        for late in itertools.combinations([t for t in range(8) if t not in early], lengths[1])
    )
    assert relax(model).bound_g == pytest.approx(best)


@settings(max_examples=15, deadline=None)
@given(tiny_seeds)
def test_the_bound_climbs_and_stays_one(seed: int) -> None:
    model = tiny_fleet(seed)
    relaxation = relax(model)
    ascent = Ascent(model, relaxation.last.prices)
    first = ascent.bound_g
    ascent.climb(300)
    assert first <= ascent.bound_g <= least_cost(model) * (1 + 1e-6) + 1e-6
    assert ascent.bound_g == pytest.approx(lower_bound(model, ascent.prices))


def test_the_bound_learns_what_a_start_costs() -> None:
    """A replica must start, for 100 g; work alone costs 100. Without starts the bound knows of the work only."""
    model = fleet(load_s=np.zeros(1), load_g=np.full((1, 3), 100.0), loaded=np.zeros(1, np.int64), work=np.full(1, 100.0))
    relaxation = relax(model)
    ascent = Ascent(model, relaxation.last.prices)
    ascent.climb(1000)
    assert relaxation.bound_g < 1.01 * least_cost(model)
    assert ascent.bound_g == pytest.approx(least_cost(model), rel=0.01)


def after(model: FleetModel, steps: int, seed: int = 0) -> FleetPlan:
    """The plan that stands after some steps of the search."""
    *_, found = [step.plan for step in itertools.islice(plans(model, seed), steps)]
    assert found is not None
    return found


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(seeds)
def test_plans_are_safe_and_never_below_their_bound(seed: int) -> None:
    model = drawn(seed)
    plan = after(model, 6)
    assert fleet_violations(model, plan) == []
    assert plan.gap >= -1e-6


@pytest.mark.slow
def test_the_same_steps_make_the_same_plan_and_more_steps_no_worse_one() -> None:
    model = drawn(3, pools=3, slots=16, batches=20)
    once, again, longer = after(model, 5), after(model, 5), after(model, 15)
    assert once.cost_g == again.cost_g
    assert np.array_equal(once.run, again.run)
    assert longer.cost_g <= once.cost_g


@pytest.mark.parametrize(
    "change",
    [
        {"capacity": np.zeros((1, 3)), "room": np.zeros((1, 3))},
        {"due": np.zeros(1, np.int64)},
        {
            "batch_class": np.zeros(0, np.int64),
            "release": np.zeros(0, np.int64),
            "due": np.zeros(0, np.int64),
            "work": np.zeros(0),
        },
        {"arc_class": np.zeros(0, np.int64), "arc_config": np.zeros(0, np.int64), "rate": np.zeros(0), "run_g": np.zeros((0, 3))},
        {"run_g": np.zeros((1, 3)), "load_g": np.zeros((1, 3))},
    ],
    ids=["nothing open", "too late", "no batches", "nowhere to run", "all for free"],
)
def test_there_is_a_plan_for_any_fleet(change: dict[str, object]) -> None:
    model = fleet(load_s=np.full(1, 50.0), **change)
    plan = after(model, 3)
    assert fleet_violations(model, plan) == []
    possible = model.capacity.any() and model.rate.size and (model.due > model.release).all()
    assert plan.late.sum() == pytest.approx(0.0 if possible else model.work.sum(), abs=1e-4)


def test_a_loaded_replica_is_kept_through_a_gap_where_a_start_is_dearer() -> None:
    """Cheap slots at both ends: one replica is enough, begun once and held between."""
    model = fleet(
        slot_s=np.full(4, 100.0), capacity=np.ones((1, 4)), room=np.ones((1, 4)), load_s=np.zeros(1),
        load_g=np.full((1, 4), 50.0),
        hold_g=np.ones((1, 4)), run_g=np.array([[1.0, 9.0, 9.0, 1.0]]), due=np.full(1, 4), work=np.full(1, 200.0),
    )  # fmt: skip
    plan = after(model, 4)
    assert plan.cost_g == pytest.approx(200 + 50 + 3)
    assert plan.starts.tolist() == [[1, 0, 0, 0]]


def test_earliest_deadline_comes_first_within_a_class() -> None:
    model = fleet(
        batch_class=np.zeros(2, np.int64), release=np.zeros(2, np.int64), due=np.array([3, 1]), work=np.array([60.0, 60.0]),
        load_s=np.zeros(1),
    )  # fmt: skip
    rows, seconds, late = deal(model, np.array([[80.0, 0.0, 30.0]]))
    assert rows.tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 2]]
    assert seconds.tolist() == [60.0, 20.0, 30.0]
    assert late.tolist() == [10.0, 0.0]


@pytest.mark.slow
def test_a_search_goes_on_from_another_fleets_plan_safely_whatever_was_lost() -> None:
    model = drawn(3, pools=3, slots=16, batches=20)
    plan = after(model, 6)
    gone = model.capacity.copy()
    gone[0] = 0.0
    lost = replace(model, capacity=gone, room=np.minimum(model.room, gone), work=model.work * 1.5)
    search = Search(lost)
    search.load(plan.run, plan.starts, plan.held)
    taken_over = search.plan()
    assert fleet_violations(lost, taken_over) == []
    assert not (taken_over.run.sum(axis=1) * lost.gpus[lost.arc_config, 0]).any()
    search.improve(100_000)
    assert fleet_violations(lost, search.plan()) == []
    assert search.plan().cost_g <= taken_over.cost_g
    assert search.cost_g == pytest.approx(search.plan().cost_g)


@pytest.mark.parametrize("error", [ArithmeticError("no optimum"), AssertionError("GLOP takes every update")])
def test_without_its_linear_program_the_search_goes_on(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """From nothing, with a bound of its own."""

    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr("batchsched.planner.fleet.relax", fails)
    model = fleet()
    *_, last = (step for step, _ in zip(plans(model), range(6), strict=False))
    assert last.plan is not None
    assert fleet_violations(model, last.plan) == []
    assert 0 < last.bound_g <= last.plan.cost_g * (1 + 1e-9)


def test_within_a_class_the_batch_whose_lateness_costs_least_is_late() -> None:
    """The bound goes by the cheapest of the class."""
    for dear in (0, 1):
        model = fleet(
            batch_class=np.zeros(2, np.int64), release=np.zeros(2, np.int64), due=np.full(2, 3), work=np.full(2, 500.0),
            load_s=np.zeros(1), batch_late_g=np.where(np.arange(2) == dear, 1000.0, 100.0),
        )  # fmt: skip
        *_, last = (step for step, _ in zip(plans(model), range(8), strict=False))
        assert last.plan is not None
        assert fleet_violations(model, last.plan) == []
        assert last.plan.late[dear] < last.plan.late[1 - dear]
        assert last.bound_g <= last.plan.cost_g
