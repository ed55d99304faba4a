"""The planner's benchmark: fleets come back from their seed, simple policies keep the rules, the relaxation is a bound."""

from __future__ import annotations

import dataclasses
import json
from functools import cache

import numpy as np
import pytest

from batchsched.planner.fleet_model import FleetModel
from batchsched.planner.fleet_verify import fleet_violations
from benchmarks.planner import cpsat, policies
from benchmarks.planner.__main__ import main
from benchmarks.planner.classmodel import ClassModel
from benchmarks.planner.events import events
from benchmarks.planner.generate import Size, generate
from benchmarks.planner.instance import Instance
from benchmarks.planner.mathopt import bound, branch_and_bound

SMALL = Size(12, 4, 96, 24)
POLICIES = [policies.earliest_deadline, policies.lowest_window, policies.carbon_time, policies.marginal, policies.run_now]


@cache
def small() -> Instance:
    """Twelve batches on four pools."""
    return generate(SMALL, 1)


def test_a_seed_is_a_fleet() -> None:
    one, two, other = (generate(SMALL, seed).model for seed in (1, 1, 2))
    assert all(np.array_equal(getattr(one, f.name), getattr(two, f.name)) for f in dataclasses.fields(FleetModel))
    assert not np.array_equal(one.work, other.work)


@pytest.mark.parametrize("size", [SMALL, Size(300, 20, 168, 340)])
def test_fleets_are_as_described(size: Size) -> None:
    fleet = generate(size, 3)
    model = fleet.model
    edges_h = np.append(0.0, np.cumsum(model.slot_s)) / 3600
    hours = edges_h[model.due] - edges_h[model.release]
    assert model.slots == size.slots
    assert edges_h[-1] == (96 if size.slots > 96 else 24)
    assert abs(fleet.gpus.sum() - size.gpus) <= size.pools
    assert (model.capacity <= fleet.gpus[:, None]).all()
    assert hours.min() >= 1.0
    assert set(model.batch_class) == set(model.arc_class)
    assert (model.run_g > 0).all()


def test_the_load_is_near_what_is_said() -> None:
    model = generate(Size(300, 20, 96, 340), 3).model
    per_gpu = model.rate / model.gpus.max(axis=1)[model.arc_config]
    mean = np.bincount(model.arc_class, per_gpu) / np.bincount(model.arc_class)
    busy_s = (model.work / mean[model.batch_class]).sum()
    assert 0.25 < busy_s / (model.capacity * model.slot_s).sum() < 0.8


@pytest.mark.parametrize("policy", POLICIES)
def test_simple_policies_keep_the_rules(policy: policies.Policy) -> None:
    fleet = generate(Size(100, 8, 96, 100), 4)
    plan = policy(fleet)
    assert fleet_violations(fleet.model, plan) == []
    assert plan.late.sum() < 0.1 * fleet.model.work.sum()


@pytest.mark.slow
def test_no_plan_is_below_the_bound() -> None:
    fleet = small()
    model = ClassModel(fleet)
    least = bound(model, 60)
    assert least is not None
    found = [policy(fleet) for policy in POLICIES] + [cpsat.solve(model, 1.0, 0), branch_and_bound(model, 1.0)]
    for plan in found:
        if plan is not None:
            assert fleet_violations(fleet.model, plan) == []
            assert plan.cost_g >= least * (1 - 1e-6)
    assert min(plan.cost_g for plan in found if plan is not None) < 1.5 * least


def test_events_change_what_they_say() -> None:
    fleet = small()
    after = events(fleet, 0)
    assert len(after["new batch"].work) == len(fleet.model.work) + 1
    assert not np.allclose(after["changed forecast"].run_g, fleet.model.run_g)
    assert np.array_equal(after["changed forecast"].capacity, fleet.model.capacity)
    lost = after["lost pool"].capacity.sum(axis=1) == 0
    assert lost.sum() == 1 + (fleet.model.capacity.sum(axis=1) == 0).sum()


@pytest.mark.slow
def test_the_benchmark_tells_what_it_found(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.planner.__main__.ROWS", (SMALL,))
    monkeypatch.setattr("sys.argv", ["planner", "--rows", SMALL.name, "--seeds", "1", "--limit-s", "3"])
    main()
    told = json.loads(capfd.readouterr().out.splitlines()[-1])
    (row,) = told["rows"]
    assert tuple(row[name] for name in SMALL._fields) == SMALL
    assert 0 <= row["gap_3s"] < 1
    assert 0 < row["replan_s"] < 30
    assert len(told["peers"]) == 7
