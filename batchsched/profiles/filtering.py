"""Fill the gaps of a table, workloads and rates by configurations, from the cells that were measured.

Rows are taken as draws from one normal over the columns, on the logarithm (rates, joules, grams) or the log odds (attainment of
an objective); its mean and covariance come from expectation and maximisation, shrunk towards columns that are all alike where
rows are few. A gap is what the row's own cells let expect, and how far that may be off comes with it. Fast rows are fast
everywhere, and columns that move together fill each other's gaps: no features, nothing to tune.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from batchsched.errors import InvalidValue

ROUNDS = 60
SETTLED = 1e-5
SHRINKAGE = 1.0
"""Rows, for each column, that the assumption of columns all alike weighs."""
LEAST_VARIANCE = 1e-5
NEARLY = 0.005
"""Attainments beyond this of none and of all count as this: their log odds have no end."""
Scale = Literal["log", "odds"]
Table = Sequence[Sequence[float | None]]
Matrix = NDArray[np.float64]
Mask = NDArray[np.bool_]


class Filled(msgspec.Struct, frozen=True):
    """The table without gaps. `sigma`: of each value's logarithm (or log odds); 0 where it was measured."""

    values: list[list[float]]
    sigma: list[list[float]]


def fill(table: Table, scale: Scale = "log") -> Filled:
    """Every gap (None) filled; measured cells stay as they are. Raises InvalidValue for a table without any measured cell, with
    rows of several lengths, or with a value that the scale does not have."""
    there = _to(table, scale)
    known = np.isfinite(there)
    if not known.any():
        raise InvalidValue("Nothing in this table was measured: there is nothing to fill its gaps from.")
    expected, variance = _expected(there, known)
    shown = np.exp(expected) if scale == "log" else 1.0 / (1.0 + np.exp(-expected))
    values = [
        [float(shown[i, j]) if value is None else float(value) for j, value in enumerate(row)] for i, row in enumerate(table)
    ]
    return Filled(values, np.sqrt(np.maximum(variance, 0.0)).tolist())


def _to(table: Table, scale: Scale) -> Matrix:
    if len({len(row) for row in table}) != 1:
        raise InvalidValue("The rows of this table differ in length, or it has none.")
    return np.array([[math.nan if value is None else _one(value, scale) for value in row] for row in table])


def _one(value: float, scale: Scale) -> float:
    if scale == "log":
        if not value > 0 or math.isinf(value):
            raise InvalidValue(f"{value} has no logarithm: rates, joules and grams are above 0.")
        return math.log(value)
    if not 0 <= value <= 1:
        raise InvalidValue(f"{value} is no share between 0 and 1.")
    share = min(1 - NEARLY, max(NEARLY, value))
    return math.log(share / (1 - share))


def _expected(there: Matrix, known: Mask) -> tuple[Matrix, Matrix]:
    """What each cell is expected to be, and its variance: 0 for the measured ones."""
    rows, columns = there.shape
    level = additive(there)
    full = np.where(known, there, level)
    mean, covariance = full.mean(axis=0), np.atleast_2d(np.cov(full.T, bias=True)) + 1e-3 * np.eye(columns)
    variance = np.zeros_like(full)
    patterns = _patterns(known)
    for _ in range(ROUNDS):
        before, unsure = full.copy(), np.zeros((columns, columns))
        for seen, mine in patterns:
            gaps, kept = np.flatnonzero(~seen), np.flatnonzero(seen)
            between = covariance[kept[:, None], gaps]
            slope = np.linalg.solve(covariance[kept[:, None], kept], between)
            full[mine[:, None], gaps] = mean[gaps] + (there[mine[:, None], kept] - mean[kept]) @ slope
            rest = covariance[gaps[:, None], gaps] - between.T @ slope
            unsure[gaps[:, None], gaps] += len(mine) * rest
            variance[mine[:, None], gaps] = np.diag(rest)
        mean = full.mean(axis=0)
        off = full - mean
        covariance = _shrunk((off.T @ off + unsure) / rows, rows)
        if float(np.abs(full - before).max()) < SETTLED:
            break
    return full, variance


def _patterns(known: Mask) -> list[tuple[Mask, NDArray[np.intp]]]:
    """Rows with gaps, by which of their cells are known: they share one regression."""
    found = np.unique(known[~known.all(axis=1)], axis=0)
    return [(seen, np.flatnonzero((known == seen).all(axis=1))) for seen in found]


def _shrunk(covariance: Matrix, rows: int) -> Matrix:
    """Towards columns of one variance and one covariance."""
    columns = len(covariance)
    total, own = float(covariance.sum()), float(np.trace(covariance))
    alike = np.full_like(covariance, (total - own) / max(1, columns * (columns - 1)))
    np.fill_diagonal(alike, own / columns)
    weight = SHRINKAGE * columns / (rows + SHRINKAGE * columns)
    return np.asarray((1 - weight) * covariance + weight * alike + LEAST_VARIANCE * np.eye(columns))


def additive(there: Matrix, rounds: int = 30) -> Matrix:
    """A level for each row plus one for each column, by least squares on the cells that are known (the others are nan)."""
    known = np.isfinite(there)
    middle = float(there[known].mean())
    row, column = np.zeros(there.shape[0]), np.zeros(there.shape[1])
    off = np.where(known, there - middle, 0.0)
    for _ in range(rounds):
        row = np.where(known, off - column, 0.0).sum(axis=1) / (known.sum(axis=1) + 0.05)
        column = np.where(known, off - row[:, None], 0.0).sum(axis=0) / (known.sum(axis=0) + 0.05)
    return np.asarray(middle + row[:, None] + column)
