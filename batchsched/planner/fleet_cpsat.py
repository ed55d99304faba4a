"""CP-SAT on part of a fleet's plan: it chooses the whole replicas, the linear program then the work on them, exactly.

Work is counted in steps of a slot here, coefficients in whole numbers that are rounded to the safe side; only what stands is let
pass as it is. All sums stay below 2^52, added up from the columns' bounds before anything is solved.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from batchsched.planner.fleet_model import Floats, Ints
from batchsched.planner.fleet_part import Part

STEPS = 1000
"""Of a slot."""
PARTS = 1000
"""Of a coefficient."""
MOST_COST = 2**46
"""The dearest answer costs so many steps."""
LARGEST_SUM = 2**52


def choose(part: Part, most_work: float, seed: int) -> tuple[Floats | None, bool]:
    """The whole columns of the best answer found in so many deterministic seconds, or None; whether it is proven to be the best.

    Raises OverflowError where a sum could grow too large.
    """
    from ortools.sat.python import cp_model

    target, columns = _model(part)
    solver: Any = cp_model.CpSolver()
    p = solver.parameters
    p.max_deterministic_time, p.random_seed, p.num_workers = most_work, seed, 1
    p.cp_model_probing_level, p.symmetry_level = 0, 0
    status = solver.solve(target)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return None, status == cp_model.INFEASIBLE
    return np.array([solver.value(x) for x in columns[part.works :]], float), status == cp_model.OPTIMAL


def _model(part: Part) -> tuple[Any, list[Any]]:
    from ortools.sat.python import cp_model

    target: Any = cp_model.CpModel()
    scale = np.ones(part.cost.size)
    scale[: part.works] = STEPS
    upper = np.floor(part.upper * scale + 1e-9).astype(np.int64)
    now = np.minimum(upper, np.floor(part.now * scale + 0.5).astype(np.int64))
    value = np.ceil(part.value * (STEPS * PARTS) / scale[part.column] - 1e-6).astype(np.int64)
    rows = part.most.size
    stands = np.bincount(part.row, value * now[part.column], minlength=rows)
    most = np.maximum(np.floor(part.most * (STEPS * PARTS) + 1e-6), stands).astype(np.int64)
    if np.max(np.bincount(part.row, np.abs(value) * upper[part.column], minlength=rows) + np.abs(most)) > LARGEST_SUM:
        raise OverflowError("A row of the part could grow beyond what CP-SAT counts exactly.")
    columns = [target.new_int_var(0, most_, "") for most_ in upper.tolist()]
    for column, hint in zip(columns, now.tolist(), strict=True):
        target.add_hint(column, hint)
    order = np.argsort(part.row, kind="stable")
    edges = np.searchsorted(part.row[order], np.arange(rows + 1)).tolist()
    entries, factors = part.column[order].tolist(), value[order].tolist()
    for r, side in enumerate(most.tolist()):
        mine = slice(edges[r], edges[r + 1])
        target.add(cp_model.LinearExpr.weighted_sum([columns[j] for j in entries[mine]], factors[mine]) <= side)
    target.minimize(cp_model.LinearExpr.weighted_sum(columns, _prices(part.cost / scale, upper)))
    return target, columns


def _prices(cost: Floats, upper: Ints) -> list[int]:
    dearest = float(cost @ upper)
    found: list[int] = np.round(cost * (MOST_COST / dearest if dearest > 0 else 0.0)).astype(np.int64).tolist()
    return found
