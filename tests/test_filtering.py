"""Gaps in a table are filled from what the rest of it shows, better than by means of rows and columns."""

from __future__ import annotations

import math
import random
import statistics

import numpy as np
import pytest

from batchsched.errors import InvalidValue
from batchsched.profiles.filtering import additive, fill


def speeds(rows: int, columns: int, noise: float, seed: int = 0) -> list[list[float]]:
    """Loads that suit GPUs differently: each has a size and a kind, each GPU a speed for either kind."""
    draw = random.Random(seed)
    skills = [(draw.gauss(0, 0.5), draw.gauss(0, 0.5)) for _ in range(columns)]
    table: list[list[float]] = []
    for _ in range(rows):
        size, kind = draw.gauss(3, 1), draw.random()
        table.append([math.exp(size + kind * a + (1 - kind) * b + draw.gauss(0, noise)) for a, b in skills])
    return table


def hidden(table: list[list[float]], share: float, seed: int = 1) -> tuple[list[list[float | None]], list[tuple[int, int]]]:
    """The table with that share of its cells taken out, one left in each row at least; and which."""
    draw = random.Random(seed)
    gone: list[tuple[int, int]] = []
    shown: list[list[float | None]] = [[*row] for row in table]
    for i, row in enumerate(table):
        for j in draw.sample(range(len(row)), k=min(len(row) - 1, round(share * len(row)))):
            shown[i][j] = None
            gone.append((i, j))
    return shown, gone


def plain_means(table: list[list[float | None]]) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    logs = np.array([[math.nan if value is None else math.log(value) for value in row] for row in table])
    return np.asarray(np.nanmean(logs, axis=1)[:, None] + np.nanmean(logs, axis=0)[None, :] - np.nanmean(logs))


def test_beats_means_of_rows_and_columns() -> None:
    table = speeds(40, 6, noise=0.03)
    shown, gone = hidden(table, 0.3)
    filled, means = fill(shown), plain_means(shown)
    ours = statistics.median(abs(math.log(filled.values[i][j] / table[i][j])) for i, j in gone)
    theirs = statistics.median(abs(means[i][j] - math.log(table[i][j])) for i, j in gone)
    assert ours < 0.6 * theirs
    assert all(filled.values[i][j] == value for i, row in enumerate(shown) for j, value in enumerate(row) if value is not None)


def test_says_how_far_it_may_be_off() -> None:
    table = speeds(60, 5, noise=0.1, seed=4)
    shown, gone = hidden(table, 0.4)
    filled = fill(shown)
    within = [abs(math.log(filled.values[i][j] / table[i][j])) < 2 * filled.sigma[i][j] for i, j in gone]
    assert 0.85 <= sum(within) / len(within) <= 1.0
    assert all(filled.sigma[i][j] == 0 for i, row in enumerate(shown) for j, value in enumerate(row) if value is not None)


def test_attainments_stay_between_none_and_all() -> None:
    """Share of requests within an objective, which falls with the load, sooner on slower GPUs."""
    table = [[1 / (1 + math.exp(rate - limit)) for limit in (3.0, 6.0, 9.0)] for rate in range(12)]
    shown, gone = hidden(table, 0.34)
    filled = fill(shown, "odds")
    assert all(0 <= value <= 1 for row in filled.values for value in row)
    assert statistics.median(abs(filled.values[i][j] - table[i][j]) for i, j in gone) < 0.1


def test_a_row_of_which_nothing_is_known_is_as_rows_are() -> None:
    filled = fill([[1.0, 2.0], [4.0, 8.0], [None, None]])
    assert filled.values[2][1] == pytest.approx(2 * filled.values[2][0], rel=0.2)
    assert 1 < filled.values[2][0] < 4
    assert filled.sigma[2][0] > 0.3


def test_one_column_and_one_cell() -> None:
    assert fill([[2.0], [None]]).values[1][0] == pytest.approx(2.0)
    assert fill([[3.0, None]]).values[0][1] == pytest.approx(3.0, rel=0.01)


@pytest.mark.parametrize(
    ("table", "scale"), [([[None, None]], "log"), ([[1.0], [1.0, 2.0]], "log"), ([], "log"), ([[0.0]], "log"), ([[1.5]], "odds")]
)
def test_refuses_what_cannot_be_filled(table: list[list[float | None]], scale: str) -> None:
    with pytest.raises(InvalidValue):
        fill(table, "odds" if scale == "odds" else "log")


def test_additive_is_exact_where_rows_and_columns_add_up() -> None:
    whole = np.add.outer(np.arange(5.0), np.array([0.0, 3.0, -1.0]))
    there = whole.copy()
    there[1, 2] = there[3, 0] = math.nan
    assert additive(there) == pytest.approx(whole, abs=0.15)
