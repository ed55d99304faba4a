"""The whole class model in one CP-SAT model: work in hundredths of a slot of the slowest replica, costs in hundredths of a gram."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.planner.classmodel import ClassModel
from benchmarks.planner.instance import Ints

STEPS_A_GRAM = 100
STEPS_A_SLOT = 100


def solve(model: ClassModel, limit_s: float, seed: int) -> tuple[Ints | None, float | None]:
    """[C, M, P, T] replicas, None where none were found in time; and CP-SAT's own bound in grams, where it has one."""
    from ortools.sat.python import cp_model

    target, columns = build(model)
    solver: Any = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = limit_s
    solver.parameters.random_seed = seed
    solver.parameters.num_workers = 2
    status = solver.solve(target)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return None, None
    values = np.array([solver.value(column) for column in columns], float)
    return model.replicas(values), solver.best_objective_bound / STEPS_A_GRAM


def build(model: ClassModel) -> tuple[Any, list[Any]]:
    """The model and its columns."""
    from ortools.sat.python import cp_model

    target: Any = cp_model.CpModel()
    scale = _scale(model)
    upper = np.concatenate(model.columns.upper)
    total = np.array([due.max(initial=0.0) for _, _, due in model.demands])
    most = np.ceil(total * scale).astype(np.int64)
    for numbers in (model.lost.T, model.sums.T):
        upper[numbers] = np.minimum(upper[numbers], most)
    cost = np.round(np.concatenate(model.columns.cost) * STEPS_A_GRAM)
    lost_cost = np.concatenate(model.columns.cost)[model.lost[:, 0]] * STEPS_A_GRAM / scale
    cost[model.lost] = np.maximum(1.0, np.round(lost_cost))[:, None]
    columns = [target.new_int_var(0, int(most), "") for most in upper]
    for low, high, entries in _rows(model, scale):
        row = cp_model.LinearExpr.weighted_sum([columns[j] for j, _ in entries], [a for _, a in entries])
        target.add_linear_constraint(row, low, high)
    for c, a, b in model.intervals():
        needed = int(np.ceil(model.needed((c, a, b)) * scale[c] - 1e-6))
        target.add(columns[int(model.sums[c, b])] - columns[int(model.sums[c, a])] >= needed)
    paid = np.flatnonzero(cost)
    target.minimize(cp_model.LinearExpr.weighted_sum([columns[j] for j in paid], cost[paid].astype(np.int64).tolist()))
    return target, columns


def _scale(model: ClassModel) -> np.ndarray:
    """By class: steps in a unit of the model's rows."""
    it = model.instance
    slowest = [np.min(it.done[able][:, 0]) for _, able in it.classes]
    return STEPS_A_SLOT * model.unit / np.array(slowest)


def _rows(model: ClassModel, scale: np.ndarray) -> list[tuple[int, int, list[tuple[int, int]]]]:
    """Rows in whole numbers; what replicas do is rounded down."""
    i, j, a = (np.concatenate(part) for part in zip(*model.rows.entries, strict=True))
    low, high = np.concatenate(model.rows.lower), np.concatenate(model.rows.upper)
    work = i >= model.adds[0, 0]
    steps = a.copy()
    klass = (i[work] - model.adds[0, 0]) // model.adds.shape[1]
    replica = j[work] < model.l_first
    steps[work] = np.where(replica, np.floor(a[work] * scale[klass] + 1e-9), a[work])
    order = np.argsort(i, kind="stable")
    starts = np.searchsorted(i[order], np.arange(model.rows.count + 1))
    columns, values = j[order].tolist(), steps[order].astype(np.int64).tolist()
    least, largest = -(2**52), 2**52
    return [
        (int(max(low[r], least)), int(min(high[r], largest)), list(zip(columns[s:e], values[s:e], strict=True)))
        for r, (s, e) in enumerate(zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True))
    ]
