"""A class model in OR-tools' MathOpt: its relaxation (the bound) and HiGHS' branch and bound."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np

from batchsched.planner.fleet_model import FleetPlan
from benchmarks.planner.classmodel import ClassModel


def proto(model: ClassModel, whole: bool) -> Any:
    """The model with all its rows; its relaxation where `whole` is not asked for."""
    from ortools.math_opt import model_pb2

    found = model_pb2.ModelProto()
    columns, rows = model.columns, model.rows
    v = found.variables
    v.ids.extend(range(columns.count))
    v.lower_bounds.extend([0.0] * columns.count)
    v.upper_bounds.extend(np.concatenate(columns.upper).tolist())
    v.integers.extend((np.concatenate(columns.whole) if whole else np.zeros(columns.count, bool)).tolist())
    cost = np.concatenate(columns.cost)
    found.objective.linear_coefficients.ids.extend(np.flatnonzero(cost).tolist())
    found.objective.linear_coefficients.values.extend(cost[cost != 0].tolist())
    r = found.linear_constraints
    r.ids.extend(range(rows.count))
    r.lower_bounds.extend(np.concatenate(rows.lower).tolist())
    r.upper_bounds.extend(np.concatenate(rows.upper).tolist())
    i, j, a = (np.concatenate(part) for part in zip(*rows.entries, strict=True))
    order = np.lexsort((j, i))
    found.linear_constraint_matrix.row_ids.extend(i[order].tolist())
    found.linear_constraint_matrix.column_ids.extend(j[order].tolist())
    found.linear_constraint_matrix.coefficients.extend(a[order].tolist())
    _intervals(found, model)
    return found


def _intervals(found: Any, model: ClassModel) -> None:
    """Interval rows: S[c, b] - S[c, a] >= what is due."""
    rows = model.intervals()
    first = model.rows.count
    numbers = np.arange(first, first + len(rows))
    r, matrix = found.linear_constraints, found.linear_constraint_matrix
    r.ids.extend(numbers.tolist())
    r.lower_bounds.extend([model.needed(row) for row in rows])
    r.upper_bounds.extend([np.inf] * len(rows))
    matrix.row_ids.extend(np.repeat(numbers, 2).tolist())
    for c, a, b in rows:  # columns in order within a row
        matrix.column_ids.extend((int(model.sums[c, a]), int(model.sums[c, b])))
        matrix.coefficients.extend((-1.0, 1.0))


def bound(model: ClassModel, limit_s: float) -> float | None:
    """Grams below which no plan can be: the value of the relaxation. None where the time did not suffice."""
    from ortools.math_opt.python import mathopt

    target = mathopt.Model.from_model_proto(proto(model, whole=False))
    result = mathopt.solve(target, mathopt.SolverType.GLOP, params=_params(limit_s))
    return result.objective_value() if result.termination.reason == mathopt.TerminationReason.OPTIMAL else None


def branch_and_bound(model: ClassModel, limit_s: float) -> FleetPlan | None:
    """HiGHS on the whole model; None where it found nothing in time."""
    from ortools.math_opt.python import mathopt

    target = mathopt.Model.from_model_proto(proto(model, whole=True))
    result = mathopt.solve(target, mathopt.SolverType.HIGHS, params=_params(limit_s))
    if not result.has_primal_feasible_solution():
        return None
    return model.plan(np.array(result.variable_values(list(target.variables()))))


def _params(limit_s: float) -> Any:
    from ortools.math_opt.python import mathopt

    return mathopt.SolveParameters(time_limit=timedelta(seconds=limit_s))
