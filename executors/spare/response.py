"""How long a step of the server takes, learnt while it serves: base + for each decoding request + for each prompt token.

Least squares over windows of a fraction of a second, older ones fading, so that a server that changes (another model, a GPU that
throttles) is followed. Nothing is known at first. What the windows cannot tell apart, because it never varied, is split evenly
by a small penalty: a governor that doubles its load at most sees how steep the server is before that matters.
"""

from __future__ import annotations

from typing import NamedTuple

HALF_LIFE = 240.0
"""Windows until a sample counts half."""
_PENALTY = 0.02


class Step(NamedTuple):
    """What a window says of the engine's steps: their mean duration in seconds, and of each the mean number of requests that
    decoded and of prompt tokens that were computed."""

    seconds: float
    decoding: float
    prompt_tokens: float


class StepModel:
    """Seconds of a step as a linear function that never falls with load."""

    def __init__(self, half_life: float = HALF_LIFE) -> None:
        self._keep = 0.5 ** (1 / half_life)
        self._products = [[0.0] * 3 for _ in range(3)]
        self._sums = [0.0] * 3
        self._weight = 0.0
        self.base_s = self.per_decode_s = self.per_prompt_token_s = 0.0

    @property
    def known(self) -> bool:
        """Has it seen enough to be asked?"""
        return self._weight >= 3

    def learn(self, step: Step) -> None:
        """One more window. Relative errors count, so a window of long steps weighs no more than one of short ones."""
        row = (1.0, step.decoding, step.prompt_tokens)
        weight = 1.0 / max(step.seconds, 1e-6) ** 2
        self._weight = self._keep * self._weight + 1
        for i in range(3):
            self._sums[i] = self._keep * self._sums[i] + weight * row[i] * step.seconds
            for j in range(3):
                self._products[i][j] = self._keep * self._products[i][j] + weight * row[i] * row[j]
        self.base_s, self.per_decode_s, self.per_prompt_token_s = self._solved()

    def seconds(self, decoding: float, prompt_tokens: float) -> float:
        """Expected duration of a step."""
        return self.base_s + self.per_decode_s * decoding + self.per_prompt_token_s * prompt_tokens

    def _solved(self) -> tuple[float, float, float]:
        """Without negative coefficients: the most negative one is dropped and the rest solved again."""
        kept = [i for i in range(3) if self._products[i][i] > 0]
        while kept:
            solution = _solve(
                [[self._products[i][j] + (_PENALTY * self._products[i][i] if i == j else 0.0) for j in kept] for i in kept],
                [self._sums[i] for i in kept],
            )
            worst = min(range(len(kept)), key=lambda at: solution[at] * self._products[kept[at]][kept[at]] ** 0.5)
            if solution[worst] >= 0:
                found = dict(zip(kept, solution, strict=True))
                return found.get(0, 0.0), found.get(1, 0.0), found.get(2, 0.0)
            kept.pop(worst)
        return 0.0, 0.0, 0.0


def _solve(matrix: list[list[float]], right: list[float]) -> list[float]:
    """Gauss with pivots; the penalty on the diagonal keeps the matrix regular."""
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    size = len(rows)
    for at in range(size):
        pivot = max(range(at, size), key=lambda i: abs(rows[i][at]))
        rows[at], rows[pivot] = rows[pivot], rows[at]
        for below in range(at + 1, size):
            factor = rows[below][at] / rows[at][at]
            rows[below] = [mine - factor * its for mine, its in zip(rows[below], rows[at], strict=True)]
    solution = [0.0] * size
    for at in reversed(range(size)):
        solution[at] = (rows[at][size] - sum(rows[at][j] * solution[j] for j in range(at + 1, size))) / rows[at][at]
    return solution
