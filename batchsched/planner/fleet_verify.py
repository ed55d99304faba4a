"""An independent check of a fleet's plan: every rule of the model and every gram, recomputed from the instance's arrays.

It shares no code with the solvers, on purpose, and is fast at 20,000 batches on 20 pools in 168 slots.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from batchsched.planner.fleet_model import FleetModel, FleetPlan, Floats, Ints

_SLACK = 1e-6
"""Relative rounding that is let pass."""
_SHOWN = 3
"""Of each kind of breach, so many are named."""


def fleet_violations(model: FleetModel, plan: FleetPlan) -> list[str]:
    """What is wrong with the plan, in words; empty when it is safe."""
    broken = list(_malformed(model, plan))
    return broken or [*_replicas(model, plan), *_batches(model, plan), *_figures(model, plan)]


def fleet_cost(model: FleetModel, plan: FleetPlan) -> float:
    """Grams, late work included."""
    used = (model.run_g * plan.run).sum() + (model.hold_g * plan.held).sum() + (model.load_g * plan.starts).sum()
    return float(used + model.lost_g @ plan.late)


def missed(release: Ints, due: Ints, work: Floats, done: Floats) -> Floats:
    """What is left of each batch when it is due, where `done` units a slot go to the earliest due time among the released."""
    left = work.astype(float)
    order = np.argsort(release, kind="stable").tolist()
    waiting: list[tuple[int, int]] = []
    comes = 0
    for t, units in enumerate(done.tolist()):
        room = units
        while comes < len(order) and release[order[comes]] <= t:
            heapq.heappush(waiting, (int(due[order[comes]]), order[comes]))
            comes += 1
        while waiting and (waiting[0][0] <= t or room > 0):
            until, first = waiting[0]
            taken = 0.0 if until <= t else min(room, left[first])
            left[first] -= taken
            room -= taken
            if until <= t or left[first] <= 0:
                heapq.heappop(waiting)
    unserved: Floats = np.maximum(0.0, left)
    return unserved


def _malformed(model: FleetModel, plan: FleetPlan) -> Iterator[str]:
    """Shapes, numbers, whole numbers."""
    arcs, configs = model.run_g.shape, model.load_g.shape
    for name, shape in (("run", arcs), ("starts", configs), ("held", configs), ("late", model.work.shape)):
        values = np.asarray(getattr(plan, name))
        if values.shape != shape:
            yield f"{name} has the shape {values.shape}, not {shape}"
        elif not np.isfinite(values).all() or (values < 0).any():
            yield f"{name} has a value that is negative or not finite"
        elif name in ("starts", "held") and (values != np.round(values)).any():
            yield f"{name} has a fraction of a replica"


def _replicas(model: FleetModel, plan: FleetPlan) -> list[str]:
    """Engines, and the GPUs that they take."""
    before = np.concatenate([model.loaded[:, None], plan.held[:, :-1]], axis=1)
    ready = before + plan.starts
    busy_s = _loading_s(model, plan.starts)
    np.add.at(busy_s, model.arc_config, plan.run)
    return [
        *_over("configuration, slot {}: held, but neither held before nor begun", plan.held, ready),
        *_over("configuration, slot {}: more seconds than its ready replicas have", busy_s, ready * model.slot_s),
        *_over("pool, slot {}: more GPU-seconds than are open", model.gpus.T @ busy_s, model.capacity * model.slot_s),
        *_over("pool, slot {}: more GPUs hold a model at its end than there is room", model.gpus.T @ plan.held, model.room),
    ]


def _loading_s(model: FleetModel, starts: Ints) -> Floats:
    """[K, T] seconds that engines take to start in each slot; a start that is longer than its slot goes on in the next."""
    end = np.cumsum(model.slot_s)
    begin = end - model.slot_s
    spent = np.zeros(starts.shape)
    for k, t in np.argwhere(starts > 0):
        until = begin[t] + model.load_s[k]
        spent[k, t:] += starts[k, t] * np.clip(until - begin[t:], 0.0, model.slot_s[t:])
    return spent


def _batches(model: FleetModel, plan: FleetPlan) -> list[str]:
    """Each batch's work is done between its release and its due time, or is counted late."""
    done = np.zeros((model.classes, model.slots))
    np.add.at(done, model.arc_class, plan.run * model.rate[:, None])
    broken = _over("batch {}: more work late than it has", plan.late, model.work)
    for c in range(model.classes):
        mine = np.flatnonzero(model.batch_class == c)
        if not mine.size:
            continue
        promised = np.maximum(0.0, model.work[mine] - plan.late[mine])
        left = missed(model.release[mine], model.due[mine], promised, done[c])
        room = _SLACK * (model.work[mine] + model.work[mine].mean())
        broken += _named("batch {}: neither done in time nor counted late", [(mine[i],) for i in np.flatnonzero(left > room)])
    return broken


def _figures(model: FleetModel, plan: FleetPlan) -> Iterator[str]:
    """What the plan says of itself."""
    cost = fleet_cost(model, plan)
    if not abs(plan.cost_g - cost) <= _SLACK * max(1.0, cost):
        yield f"it says that it costs {plan.cost_g:.6g} g, but it costs {cost:.6g} g"
    if not plan.bound_g <= cost * (1 + _SLACK) + _SLACK:
        yield f"it costs {cost:.6g} g, less than its lower bound of {plan.bound_g:.6g} g"


def _over(text: str, values: npt.NDArray[np.generic], most: npt.NDArray[np.generic]) -> list[str]:
    wrong = np.asarray(values, float) > np.asarray(most, float) * (1 + _SLACK) + _SLACK
    return _named(text, [tuple(place) for place in np.argwhere(wrong).tolist()])


def _named(text: str, places: list[tuple[int, ...]]) -> list[str]:
    found = [text.format(", ".join(map(str, place))) for place in places[:_SHOWN]]
    return found + ([f"and {len(places) - _SHOWN} more of these"] if len(places) > _SHOWN else [])
