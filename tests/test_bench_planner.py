"""The planner's benchmark judges truly: fleets come back from their seed, broken plans are found out, the bound is one."""

from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.planner.check import FleetPlan, check, check_classes, missed
from benchmarks.planner.generate import Size, generate
from benchmarks.planner.instance import Instance

SMALL = Size(12, 4, 96, 24)


@cache
def small() -> Instance:
    """Twelve batches on four pools."""
    return generate(SMALL, 1)


def test_a_seed_is_a_fleet() -> None:
    one, two, other = generate(SMALL, 1), generate(SMALL, 1), generate(SMALL, 2)
    same = [np.array_equal(getattr(one, f.name), getattr(two, f.name)) for f in dataclasses.fields(Instance)]
    assert all(same)
    assert not np.array_equal(one.work, other.work)


@pytest.mark.parametrize("size", [SMALL, Size(300, 20, 168, 340)])
def test_fleets_are_as_described(size: Size) -> None:
    fleet = generate(size, 3)
    hours = (
        np.append(0.0, np.cumsum(fleet.slot_s))[fleet.deadline] - np.append(0.0, np.cumsum(fleet.slot_s))[fleet.release]
    ) / 3600
    assert fleet.shape == (4, size.pools, size.slots)
    assert abs(fleet.gpus.sum() - size.gpus) <= size.pools
    assert (fleet.capacity <= fleet.gpus[:, None]).all()
    assert fleet.usable.any(axis=(1, 2)).all()
    assert hours.min() >= 1.0
    assert hours.max() <= (96 if size.slots > 96 else 24) + 1e-9
    assert (fleet.intensity > 0).all()


def _whole_pools(fleet: Instance) -> FleetPlan:
    """The first batch alone, on one replica of its first place from its release on; everything else is late."""
    b = int(np.argmin(np.where(fleet.deadline < fleet.shape[2], fleet.work, np.inf)))
    m, p = (int(i) for i in np.argwhere(fleet.usable[b])[0])
    replicas = np.zeros(fleet.shape, np.int64)
    rows = []
    left = fleet.work[b]
    for t in range(fleet.release[b], fleet.deadline[b]):
        if fleet.capacity[p, t] >= fleet.need[m, p] and left > 0:
            replicas[m, p, t] = 1
            rows.append((b, m, p, t, min(left, fleet.done[m, p, t])))
            left -= rows[-1][-1]
    batch, model, pool, slot = np.array([row[:4] for row in rows]).T
    return FleetPlan(replicas, batch, model, pool, slot, np.array([row[4] for row in rows]))


def test_a_plan_costs_its_replicas_its_loads_and_what_is_late() -> None:
    fleet = small()
    plan = _whole_pools(fleet)
    report = check(fleet, plan)
    m, p, slots = plan.model[0], plan.pool[0], np.flatnonzero(plan.replicas.any(axis=(0, 1)))
    g_per_j = fleet.pue[p] * fleet.intensity[p, slots] / 3.6e6
    starts = np.diff(slots, prepend=-2) > 1
    running = (fleet.power_w[m, p] * 900 * g_per_j).sum()
    loading = (fleet.power_w[m, p] * fleet.startup_s[m, p] * g_per_j[starts]).sum()
    assert report.broken == []
    assert report.loads == starts.sum()
    assert report.grams == pytest.approx(running + loading)
    assert report.late == pytest.approx(fleet.work.sum() - plan.requests.sum())
    assert report.cost_g > report.grams


def _breaches(fleet: Instance, plan: FleetPlan) -> dict[str, FleetPlan]:
    b, p = int(plan.batch[0]), int(plan.pool[0])
    elsewhere = int(np.flatnonzero(~fleet.usable[b].any(axis=0))[0]) if (~fleet.usable[b].any(axis=0)).any() else -1
    full = plan.replicas.copy()
    full[:, p] += 10_000
    change = dataclasses.replace
    return {
        "more GPUs than are open": change(plan, replicas=full),
        "more requests than its replicas do": change(plan, requests=plan.requests * 3),
        "more requests than its replicas do, none run": change(plan, replicas=plan.replicas * 0),
        "after deadline": change(plan, slot=plan.slot + fleet.deadline[b] - plan.slot.min()),
        "does not exist": change(plan, pool=plan.pool + 1000),
        "does not exist, in time": change(plan, slot=plan.slot - 1000),
        "no number of requests": change(plan, requests=plan.requests * np.nan),
        "not a number of replicas": change(plan, replicas=-plan.replicas),
        "more done than there is": change(
            plan,
            replicas=plan.replicas * 2,
            batch=np.tile(plan.batch, 2),
            model=np.tile(plan.model, 2),
            pool=np.tile(plan.pool, 2),
            slot=np.tile(plan.slot, 2),
            requests=np.tile(plan.requests, 2),
        ),
        **({"not accepted there": change(plan, pool=np.full_like(plan.pool, elsewhere))} if elsewhere >= 0 else {}),
    }


def test_every_breach_is_found() -> None:
    fleet = small()
    for text, plan in _breaches(fleet, _whole_pools(fleet)).items():
        assert any(text.split(",")[0] in line for line in check(fleet, plan).broken), text


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_nothing_is_missed_just_where_every_interval_has_room(data: st.DataObject) -> None:
    count, slots = data.draw(st.integers(1, 6)), 6
    release = np.array(data.draw(st.lists(st.integers(0, slots - 1), min_size=count, max_size=count)))
    deadline = np.array([data.draw(st.integers(r + 1, slots)) for r in release])
    work = np.array(data.draw(st.lists(st.integers(1, 9), min_size=count, max_size=count)), float)
    served = np.array(data.draw(st.lists(st.integers(0, 12), min_size=slots, max_size=slots)), float)
    fits = all(
        work[(release >= a) & (deadline <= b)].sum() <= served[a:b].sum() for a in range(slots) for b in range(a + 1, slots + 1)
    )
    late = missed(release, deadline, work, served)
    assert (late.sum() == 0) == fits
    assert (late <= work).all()


def test_classes_are_judged_like_batches() -> None:
    """A class alone in its slots: the same grams, and lateness by earliest deadline."""
    fleet = small()
    plan = _whole_pools(fleet)
    c = next(i for i, (mine, _) in enumerate(fleet.classes) if plan.batch[0] in mine)
    spread = np.zeros((len(fleet.classes), *fleet.shape), np.int64)
    spread[c] = plan.replicas
    by_class, by_batch = check_classes(fleet, spread), check(fleet, plan)
    assert by_class.broken == []
    assert by_class.grams == pytest.approx(by_batch.grams)
    assert by_class.late <= by_batch.late + 1e-6
