"""The least that a tiny fleet's plan can cost: every way to start and hold engines is tried, batch by batch and slot by slot.

No classes, no interval rows, no rounding: work is a variable for each batch, arc and slot, so that nothing of the solvers' ideas
is in it.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from batchsched.planner.fleet_model import FleetModel, Floats, Ints


def least_cost(model: FleetModel) -> float:
    """Grams. Seconds of computing where there are more than a few engines and slots."""
    from ortools.math_opt.python import mathopt

    target, starts, held = _program(model)
    solver = mathopt.IncrementalSolver(target, mathopt.SolverType.GLOP)
    best = np.inf
    for begun, kept in _engines(model):
        for variables, values in ((starts, begun), (held, kept)):
            for key, variable in variables.items():
                variable.lower_bound = variable.upper_bound = float(values[key])
        result = solver.solve()
        if result.termination.reason == mathopt.TerminationReason.OPTIMAL:
            best = min(best, result.objective_value())
    return float(best)


def _engines(model: FleetModel) -> Iterator[tuple[Ints, Ints]]:
    """[K, T] starts and what is held at the slots' ends, all that the room allows; at the last slot's end nothing is held."""
    k, t = model.load_g.shape
    most = _fits(model, model.capacity)
    keeps = _fits(model, model.room)
    ways = []
    for c in range(k):
        mine = []
        for begun in itertools.product(*(range(most[c][s] + 1) for s in range(t))):
            for kept in itertools.product(*(range(keeps[c][s] + 1) for s in range(t - 1)), [0]):
                before = [int(model.loaded[c]), *kept]
                if all(kept[s] <= before[s] + begun[s] for s in range(t)):
                    mine.append((begun, kept))
        ways.append(mine)
    for way in itertools.product(*ways):
        yield np.array([begun for begun, _ in way]), np.array([kept for _, kept in way])


def _fits(model: FleetModel, gpus: Floats) -> list[list[int]]:
    """Replicas of each configuration that fit into [P, T] GPUs, by slot."""
    pools = [np.flatnonzero(taken) for taken in model.gpus]
    return [
        [int(min(gpus[p, t] // model.gpus[k, p] for p in pools[k])) for t in range(model.slots)] for k in range(model.configs)
    ]


def _program(model: FleetModel) -> tuple[Any, dict[tuple[int, int], Any], dict[tuple[int, int], Any]]:
    from ortools.math_opt.python import mathopt

    target: Any = mathopt.Model()
    cells = list(np.ndindex(*model.load_g.shape))
    starts = {cell: target.add_variable(lb=0) for cell in cells}
    held = {cell: target.add_variable(lb=0) for cell in cells}
    nothing = target.add_variable(lb=0, ub=0)  # so that every row is an expression
    busy: dict[tuple[int, int], Any] = defaultdict(lambda: nothing)
    cost: Any = sum(model.load_g[cell] * starts[cell] + model.hold_g[cell] * held[cell] for cell in cells)
    for b, work in enumerate(model.work):
        done: Any = target.add_variable(lb=0)
        cost += model.late_g[model.batch_class[b]] * done
        for a in np.flatnonzero(model.arc_class == model.batch_class[b]):
            for t in range(model.release[b], model.due[b]):
                run = target.add_variable(lb=0)
                done = done + model.rate[a] * run
                busy[int(model.arc_config[a]), t] = busy[int(model.arc_config[a]), t] + run
                cost += model.run_g[a, t] * run
        target.add_linear_constraint(done == work)
    ends = np.cumsum(model.slot_s)
    for k, t in cells:
        for later in range(t, model.slots):
            overlap = min(ends[later], ends[t] - model.slot_s[t] + model.load_s[k]) - (ends[later] - model.slot_s[later])
            if overlap > 0:
                busy[k, later] = busy[k, later] + overlap * starts[k, t]
        before = held[k, t - 1] if t else float(model.loaded[k])
        target.add_linear_constraint(busy[k, t] <= (before + starts[k, t]) * model.slot_s[t])
        target.add_linear_constraint(held[k, t] <= before + starts[k, t])
    for p, t in np.ndindex(*model.capacity.shape):
        taken = sum(model.gpus[k, p] * busy[k, t] for k in range(model.configs))
        kept = sum(model.gpus[k, p] * held[k, t] for k in range(model.configs))
        target.add_linear_constraint(taken + nothing <= model.capacity[p, t] * model.slot_s[t])
        target.add_linear_constraint(kept + nothing <= model.room[p, t])
    target.minimize(cost)
    return target, starts, held


tiny_seeds = st.integers(0, 10_000)


def tiny_fleet(seed: int) -> FleetModel:
    """Two configurations, three slots, one or two classes, up to four batches, some of them impossible."""
    rng = np.random.default_rng(seed)
    slots, classes, batches = 3, int(rng.integers(1, 3)), int(rng.integers(1, 5))
    gpus = np.array([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]], [[1.0, 1.0], [0.0, 1.0]]])[rng.integers(0, 3)]
    arcs = [(c, k) for c in range(classes) for k in range(2) if rng.random() < 0.8] or [(0, 0)]
    release = rng.integers(0, slots, batches)
    slot_s = rng.choice([900.0, 3600.0], slots)
    capacity = rng.integers(0, 2, (2, slots)).astype(float)
    intensity = rng.choice([0.0, 1e-6, 1.0, 1.0, 2.0, 5.0], (2, slots)) if rng.random() < 0.8 else np.ones((2, slots))
    on = np.array([k for _, k in arcs])
    return FleetModel(
        slot_s=slot_s,
        capacity=capacity,
        room=np.minimum(capacity, rng.integers(0, 2, (2, slots))),
        gpus=gpus,
        loaded=rng.integers(0, 2, 2),
        load_s=rng.choice([0.0, 60.0, 1000.0], 2),
        load_g=rng.choice([0.0, 50.0, 400.0]) * intensity,
        hold_g=rng.choice([0.0, 20.0, 200.0]) * intensity,
        arc_class=np.array([c for c, _ in arcs]),
        arc_config=on,
        rate=rng.choice([0.5, 1.0, 3.0], len(arcs)),
        run_g=rng.choice([0.2, 1.0], len(arcs))[:, None] * intensity[on],
        late_g=np.full(classes, 1000.0),
        batch_class=rng.integers(0, classes, batches),
        release=release,
        due=np.minimum(slots, release + rng.integers(0, slots + 1, batches)),
        work=rng.choice([1.0, 300.0, 900.0, 1200.0, 1e6], batches, p=[0.2, 0.3, 0.2, 0.25, 0.05]),
    )


def tidy(seed: int) -> FleetModel:
    """The same, as real pools are: what holds a model as a slot ends is open in it and in the next; what is loaded has GPUs."""
    model = tiny_fleet(seed)
    after = np.concatenate([model.capacity[:, 1:], model.capacity[:, -1:]], axis=1)
    first = np.array([fits[0] for fits in _fits(model, model.capacity)])
    return replace(model, room=np.minimum(model.capacity, after), loaded=np.minimum(model.loaded, first))
