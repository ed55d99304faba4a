"""The whole class model in one CP-SAT model: time in hundredths of a slot, work in hundredths of what the slowest replica does
meanwhile, costs in hundredths of a gram."""

from __future__ import annotations

from typing import Any

import numpy as np

from batchsched.planner.fleet_model import FleetPlan, Floats
from benchmarks.planner.classmodel import ClassModel

STEPS_A_GRAM = 100
STEPS_A_SLOT = 100
STEPS_OF_WORK = 100


def solve(model: ClassModel, limit_s: float, seed: int) -> FleetPlan | None:
    """A plan; None where none was found in time."""
    from ortools.sat.python import cp_model

    target, columns = build(model)
    solver: Any = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = limit_s
    solver.parameters.random_seed = seed
    solver.parameters.num_workers = 2
    if solver.solve(target) not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return None
    values = np.array([solver.value(column) for column in columns], float)
    values[: model.starts[0, 0]] /= STEPS_A_SLOT  # the columns of `run` come first
    return model.plan(values)


def build(model: ClassModel) -> tuple[Any, list[Any]]:
    """The model and its columns."""
    from ortools.sat.python import cp_model

    target: Any = cp_model.CpModel()
    slowest = np.full(len(model.unit), np.inf)
    np.minimum.at(slowest, model.model.arc_class, model.model.rate * model.model.slot_s.min())
    work_steps = STEPS_OF_WORK * STEPS_A_SLOT * model.unit / slowest
    upper, cost = np.concatenate(model.columns.upper), np.concatenate(model.columns.cost) * STEPS_A_GRAM
    upper[: model.starts[0, 0]] *= STEPS_A_SLOT
    cost[: model.starts[0, 0]] /= STEPS_A_SLOT
    total = np.ceil([due.max(initial=0.0) for _, _, due in model.demands] * work_steps) + 1
    for numbers in (model.lost.T, model.sums.T):
        upper[numbers] = np.minimum(upper[numbers], total)
    cost[model.lost] /= work_steps[:, None]
    columns = [target.new_int_var(0, most, "") for most in np.floor(upper + 1e-9).astype(np.int64).tolist()]
    for most, entries in _rows(model, work_steps):
        target.add(cp_model.LinearExpr.weighted_sum([columns[j] for j, _ in entries], [a for _, a in entries]) <= most)
    for c, a, b in model.intervals():
        needed = int(np.ceil(model.needed((c, a, b)) * work_steps[c] - 1e-6))
        target.add(columns[int(model.sums[c, b])] - columns[int(model.sums[c, a])] >= needed)
    paid = np.flatnonzero(cost)
    prices = np.maximum(1, np.round(cost[paid])).astype(np.int64).tolist()
    target.minimize(cp_model.LinearExpr.weighted_sum([columns[j] for j in paid], prices))
    return target, columns


def _rows(model: ClassModel, work_steps: Floats) -> list[tuple[int, list[tuple[int, int]]]]:
    """Rows as `sum <= most` in whole numbers, rounded to the safe side."""
    i, j, a = (np.concatenate(part) for part in zip(*model.rows.entries, strict=True))
    most = np.concatenate(model.rows.upper)
    run, work = j < model.starts[0, 0], i >= model.adds[0, 0]
    klass = (i[work] - model.adds[0, 0]) // model.adds.shape[1]
    timed = (i < model.kept[0, 0]) | ((i >= model.time[0, 0]) & (i < model.room[0, 0]))  # these rows count time
    a[timed & ~run] *= STEPS_A_SLOT
    most[np.unique(i[timed])] *= STEPS_A_SLOT
    a[work] = np.where(run[work], -np.floor(a[work] * work_steps[klass] / STEPS_A_SLOT + 1e-9), -a[work])
    most[np.unique(i[work])] = 0.0
    steps = np.ceil(a - 1e-9).astype(np.int64)
    order = np.argsort(i, kind="stable")
    edges = np.searchsorted(i[order], np.arange(model.rows.count + 1)).tolist()
    entries = list(zip(j[order].tolist(), steps[order].tolist(), strict=True))
    return [(int(np.floor(most[r] + 1e-9)), entries[edges[r] : edges[r + 1]]) for r in range(model.rows.count)]
