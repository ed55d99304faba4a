"""The judge of plans: every rule of an instance and every gram, from the instance's arrays alone.

It shares no code with any planner and is fast at 20,000 batches x 20 pools x 168 slots.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.planner.instance import Floats, Instance, Ints

SLACK = 1e-6
"""Relative rounding that is let pass."""
SHOWN = 5
"""Of each kind of breach, so many are named."""


@dataclass(frozen=True)
class FleetPlan:
    """Replicas [M, P, T], and who uses them: parallel arrays, `requests[i]` of `batch[i]` done by `model[i]` on `pool[i]` in
    `slot[i]`."""

    replicas: Ints
    batch: Ints
    model: Ints
    pool: Ints
    slot: Ints
    requests: Floats


@dataclass(frozen=True)
class Report:
    """`broken`: empty where every rule is kept. `grams`: of replicas and loads; `cost_g` with what late requests cost."""

    broken: list[str]
    grams: float
    loads: int
    late: float
    """Requests not done by their deadline."""
    cost_g: float


def check(instance: Instance, plan: FleetPlan) -> Report:
    """Judge a plan down to the batches. A plan that is no plan at all (shapes, unknown numbers) costs infinity."""
    broken = [*_malformed(instance, plan)]
    if broken:
        return Report(broken, np.inf, 0, float(instance.work.sum()), np.inf)
    broken = [*_fleet(instance, plan.replicas), *_shares(instance, plan)]
    done = np.bincount(plan.batch, plan.requests, len(instance.work))
    over = done > instance.work * (1 + SLACK) + SLACK
    broken += _named("batch {}: more done than there is", over)
    return _report(instance, broken, plan.replicas, np.maximum(0.0, instance.work - done))


def check_classes(instance: Instance, replicas: Ints) -> Report:
    """Judge [C, M, P, T] replicas of each of the instance's classes, whose batches share them by earliest deadline."""
    total: Ints = replicas.sum(axis=0)
    if replicas.shape != (len(instance.classes), *instance.shape) or (replicas < 0).any():
        return Report(["not a number of replicas for each class, model, pool and slot"], np.inf, 0, 0.0, np.inf)
    broken = _fleet(instance, total)
    late = np.zeros(len(instance.work))
    for (mine, able), own in zip(instance.classes, replicas, strict=True):
        broken += _named("class of batch " + str(mine[0]) + " on model, pool {}: not accepted there", own.any(axis=2) & ~able)
        served = np.einsum("mpt,mpt->t", own, instance.done)
        late[mine] = missed(instance.release[mine], instance.deadline[mine], instance.work[mine], served)
    return _report(instance, broken, total, late)


def missed(release: Ints, deadline: Ints, work: Floats, served: Floats) -> Floats:
    """What of each batch is left at its deadline when `served` requests a slot go to the earliest deadline among the released."""
    left = work.astype(float)
    order = np.argsort(release, kind="stable")
    waiting: list[tuple[int, int]] = []
    comes = 0
    for t, capacity in enumerate(served.tolist()):
        while comes < len(order) and release[order[comes]] <= t:
            heapq.heappush(waiting, (int(deadline[order[comes]]), int(order[comes])))
            comes += 1
        room = capacity
        while waiting and room > 0:
            until, first = waiting[0]
            if until <= t or left[first] <= room:
                heapq.heappop(waiting)
            if until <= t:
                continue
            taken = min(room, left[first])
            left[first] -= taken
            room -= taken
    return np.where(left > SLACK * work, left, 0.0)


def _malformed(instance: Instance, plan: FleetPlan) -> Iterator[str]:
    models, pools, slots = instance.shape
    if plan.replicas.shape != instance.shape or (plan.replicas < 0).any() or (plan.replicas != np.round(plan.replicas)).any():
        yield "not a number of replicas for each model, pool and slot"
    axes = ((plan.batch, len(instance.work)), (plan.model, models), (plan.pool, pools), (plan.slot, slots))
    if any(len(values) != len(plan.requests) or ((values < 0) | (values >= most)).any() for values, most in axes):
        yield "shares of what does not exist"
    if not (np.isfinite(plan.requests) & (plan.requests >= 0)).all():
        yield "shares that are no number of requests"


def _fleet(instance: Instance, replicas: Ints) -> list[str]:
    """Capacity, and models only where they fit."""
    taken = np.einsum("mp,mpt->pt", instance.need, replicas)
    return [
        *_named("pool, slot {}: more GPUs than are open", taken > instance.capacity),
        *_named("model, pool {}: does not fit", replicas.any(axis=2) & (instance.need == 0)),
    ]


def _shares(instance: Instance, plan: FleetPlan) -> list[str]:
    """Who, when, and no more than the replicas do."""
    real = plan.requests > 0
    early = real & ((plan.slot < instance.release[plan.batch]) | (plan.slot >= instance.deadline[plan.batch]))
    abroad = real & ~instance.usable[plan.batch, plan.model, plan.pool]
    cell = np.ravel_multi_index((plan.model, plan.pool, plan.slot), instance.shape)
    asked = np.bincount(cell, plan.requests, plan.replicas.size).reshape(instance.shape)
    able = plan.replicas * instance.done
    return [
        *_named("share {}: before release or after deadline", early),
        *_named("share {}: not accepted there", abroad),
        *_named("model, pool, slot {}: more requests than its replicas do", asked > able * (1 + SLACK) + SLACK),
    ]


def _report(instance: Instance, broken: list[str], replicas: Ints, late: Floats) -> Report:
    before = np.concatenate([instance.held[:, :, None], replicas[:, :, :-1]], axis=2)
    loads = np.maximum(0, replicas - before)
    grams = float((instance.replica_g * replicas).sum() + (instance.load_g * loads).sum())
    return Report(broken, grams, int(loads.sum()), float(late.sum()), grams + float((late * instance.late_g).sum()))


def _named(text: str, wrong: np.ndarray) -> list[str]:
    places = np.argwhere(wrong)
    found = [text.format(", ".join(map(str, place))) for place in places[:SHOWN]]
    return found + ([f"and {len(places) - SHOWN} more of these"] if len(places) > SHOWN else [])
