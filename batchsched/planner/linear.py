"""A linear program that grows and changes between solves, with its basis kept: GLOP behind OR-tools' MathOpt.

Columns and rows are added as arrays; MathOpt's own messages are used rather than its Python objects, which are made one by one.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from batchsched.planner.fleet_model import Floats, Ints

GLOP = 3
"""MathOpt's number of the simplex solver."""


class Answer(msgspec.Struct, frozen=True):
    """`optimal`: otherwise the work limit cut the solve short and the figures are the last ones it had, if any."""

    optimal: bool
    cost: float
    x: Floats
    """A value a column."""
    price: Floats
    """A dual value a row."""
    iterations: int


@dataclass
class Limit:
    """Of what programs may take together: their solves end there, not optimal."""

    most: float = math.inf
    """Simplex steps."""
    until_s: float = math.inf
    """By time.monotonic(), for an emergency."""
    taken: int = 0


_LOWER, _BASIC = 2, 5
"""MathOpt's numbers of where a column or row stands in a basis: at its lower side, or within."""


class LinearProgram:
    """Minimise cost @ x under lower <= x <= upper and rows; all columns and rows are numbered from 0 in order of arrival."""

    def __init__(self) -> None:
        from ortools.math_opt import model_pb2

        self.columns = 0
        self.rows = 0
        self.limit = Limit()
        self.iterations = 0
        """Simplex steps of all solves: the measure of work done."""
        self._model: Any = model_pb2.ModelProto()
        self._past: list[Any] = []
        """Updates since the model was last handed over whole."""
        self._solver: Any = None
        self._update: Any = None
        self.column_status: Ints = np.zeros(0, np.int64)
        """Where each column stands in the last basis, in MathOpt's numbers; of those that were there then."""
        self.row_status: Ints = np.zeros(0, np.int64)

    def add_columns(self, cost: Floats, lower: Floats, upper: Floats) -> Ints:
        """Their numbers. Coefficients come with `add_entries`, before the next solve."""
        ids = np.arange(self.columns, self.columns + len(cost))
        self.columns += len(cost)
        pending = self._pending()
        variables = pending.variables if self._solver is None else pending.new_variables
        variables.ids.extend(ids.tolist())
        variables.lower_bounds.extend(lower.tolist())
        variables.upper_bounds.extend(upper.tolist())
        variables.integers.extend([False] * len(ids))
        costs = pending.objective.linear_coefficients if self._solver is None else pending.objective_updates.linear_coefficients
        costs.ids.extend(ids.tolist())
        costs.values.extend(cost.tolist())
        return ids

    def add_rows(self, lower: Floats, upper: Floats) -> Ints:
        """Their numbers."""
        ids = np.arange(self.rows, self.rows + len(lower))
        self.rows += len(lower)
        pending = self._pending()
        rows = pending.linear_constraints if self._solver is None else pending.new_linear_constraints
        rows.ids.extend(ids.tolist())
        rows.lower_bounds.extend(lower.tolist())
        rows.upper_bounds.extend(upper.tolist())
        return ids

    def add_entries(self, rows: Ints, columns: Ints, values: Floats) -> None:
        """Coefficients, once between two solves; those of one place add up."""
        key, place = np.unique(rows * self.columns + columns, return_inverse=True)
        summed = np.bincount(place.ravel(), values, minlength=len(key))
        pending = self._pending()
        matrix = pending.linear_constraint_matrix if self._solver is None else pending.linear_constraint_matrix_updates
        matrix.row_ids.extend((key // self.columns).tolist())
        matrix.column_ids.extend((key % self.columns).tolist())
        matrix.coefficients.extend(summed.tolist())

    def stand(self, column_status: Ints, row_status: Ints) -> None:
        """Begin the next solve from this basis: of a program like this one, in the same numbers."""
        self.column_status, self.row_status = column_status, row_status

    def solve(self) -> Answer:
        """Solve from the last basis, within the limit, by the dual simplex method."""
        from ortools.math_opt import callback_pb2, model_parameters_pb2, parameters_pb2

        self._flush()
        parameters = parameters_pb2.SolveParametersProto()
        parameters.glop.use_dual_simplex = True
        parameters.glop.use_preprocessing = False  # it would throw the basis away
        if math.isfinite(self.limit.most):
            parameters.iteration_limit = max(0, int(self.limit.most) - self.limit.taken)
        if math.isfinite(self.limit.until_s):
            parameters.time_limit.FromNanoseconds(int(1e9 * max(0.0, self.limit.until_s - time.monotonic())))
        extra = model_parameters_pb2.ModelSolveParametersProto()
        if self.column_status.size:  # told each time: left to itself it goes on from the last one that it was told
            self._tell(extra.initial_basis)
        result = self._run(parameters, extra, callback_pb2.CallbackRegistrationProto())
        steps = int(result.solve_stats.simplex_iterations)
        self.iterations += steps
        self.limit.taken += steps
        x, price, cost = np.zeros(self.columns), np.zeros(self.rows), float("nan")
        for solution in result.solutions[:1]:
            cost = float(solution.primal_solution.objective_value)
            _fill(x, solution.primal_solution.variable_values)
            _fill(price, solution.dual_solution.dual_values)
            self.column_status = np.array(solution.basis.variable_status.values, np.int64)
            self.row_status = np.array(solution.basis.constraint_status.values, np.int64)
        return Answer(result.termination.reason == 1, cost, x, price, steps)

    def _tell(self, basis: Any) -> None:
        """The last basis with what came since: as many within it as there are rows, or MathOpt refuses it."""
        column = np.append(self.column_status, np.full(self.columns - self.column_status.size, _LOWER))
        row = np.append(self.row_status, np.full(self.rows - self.row_status.size, _BASIC))
        few = self.rows - int((column == _BASIC).sum() + (row == _BASIC).sum())
        row[np.flatnonzero(row != _BASIC)[: max(0, few)]] = _BASIC
        column[np.flatnonzero(column == _BASIC)[: max(0, -few)]] = _LOWER
        for told, status in ((basis.variable_status, column), (basis.constraint_status, row)):
            told.ids.extend(range(status.size))
            told.values.extend(status.tolist())

    def _run(self, parameters: Any, extra: Any, callbacks: Any) -> Any:
        try:
            return self._solver.solve(parameters, extra, None, callbacks, None, None)
        except Exception:  # GLOP gives up now and then on a basis that it came to: it begins anew, and for once with presolve
            self._begin()
            extra.ClearField("initial_basis")
            parameters.glop.use_preprocessing = True
            return self._solver.solve(parameters, extra, None, callbacks, None, None)

    def _pending(self) -> Any:
        from ortools.math_opt import model_update_pb2

        if self._solver is None:
            return self._model
        if self._update is None:
            self._update = model_update_pb2.ModelUpdateProto()
        return self._update

    def _flush(self) -> None:
        if self._solver is None:
            self._begin()
        elif self._update is not None:
            self._past.append(self._update)
            if not self._solver.update(self._update):
                raise AssertionError("GLOP takes every update")
        self._update = None

    def _begin(self) -> None:
        from ortools.math_opt import parameters_pb2
        from ortools.math_opt.core.python import solver

        for update in self._past:
            merge(self._model, update)
        self._past = []
        self._solver = solver.new(GLOP, self._model, parameters_pb2.SolverInitializerProto())


def merge(model: Any, update: Any) -> None:
    """Bring a model up to date, so that a solver can begin anew from it."""
    for into, new in (
        (model.variables, update.new_variables),
        (model.linear_constraints, update.new_linear_constraints),
    ):
        into.MergeFrom(new)
    _set(model.variables.lower_bounds, update.variable_updates.lower_bounds)
    _set(model.variables.upper_bounds, update.variable_updates.upper_bounds)
    costs, new_costs = model.objective.linear_coefficients, update.objective_updates.linear_coefficients
    costs.MergeFrom(new_costs)  # of new columns only, which are numbered on
    matrix, new = model.linear_constraint_matrix, update.linear_constraint_matrix_updates
    if new.row_ids:
        rows = np.concatenate([np.array(matrix.row_ids, np.int64), np.array(new.row_ids, np.int64)])
        columns = np.concatenate([np.array(matrix.column_ids, np.int64), np.array(new.column_ids, np.int64)])
        values = np.concatenate([np.array(matrix.coefficients), np.array(new.coefficients)])
        order = np.lexsort((columns, rows))
        for field, array in (("row_ids", rows), ("column_ids", columns), ("coefficients", values)):
            matrix.ClearField(field)
            getattr(matrix, field).extend(array[order].tolist())


def _set(into: Any, new: Any) -> None:
    for i, value in zip(new.ids, new.values, strict=True):
        into[i] = value


def _fill(into: Floats, sparse: Any) -> None:
    into[np.array(sparse.ids, np.int64)] = np.array(sparse.values, np.float64)
