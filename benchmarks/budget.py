"""The time that a benchmark has. Nothing begins that would not be done by its end: guessed by what others of its kind took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Generic, TypeVar

from benchmarks.kept import Came

P = TypeVar("P")


class Budget(Generic[P]):
    """The time that there is, and what runs of each kind take."""

    def __init__(
        self, minutes: float, jobs: int, kind: Callable[[P], tuple[str, float]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`kind`: of a run, a name of its kind and a guess at the seconds that it takes."""
        self._ends, self._jobs, self._kind, self._clock = clock() + minutes * 60, jobs, kind, clock
        self._longest_s: dict[str, float] = {}
        self._took_s = self._guessed_s = 0.0

    def learn(self, row: Came) -> None:
        """What a run took on the clock."""
        kind, guess = self._kind(row.run)
        self._longest_s[kind] = max(row.took_s, self._longest_s.get(kind, 0.0))
        self._took_s += row.took_s
        self._guessed_s += guess

    def fits(self, run: P) -> bool:
        """Would it be done in time, if it took as long as the longest of its kind?"""
        kind, guess = self._kind(run)
        slower = self._took_s / self._guessed_s if self._guessed_s > 0 else 1.0
        return self._clock() + self._longest_s.get(kind, guess * slower) <= self._ends

    def said(self, planned: Iterable[tuple[object, list[P]]]) -> Iterator[str]:
        """What is planned, a line a part of it: how many runs, and whether they will fit if guesses hold."""
        left_s = self._ends - self._clock()
        left = "No end" if left_s == float("inf") else str(timedelta(seconds=max(0, round(left_s))))
        yield f"{left} of time, {self._jobs} processes; in order of worth:"
        needed_s = 0.0
        for part, runs in planned:
            mine_s = sum(self._kind(run)[1] for run in runs)
            needed_s += mine_s / self._jobs
            fits = "" if needed_s <= left_s else "; will hardly fit"
            yield f"- {part}: {len(runs)} runs, {mine_s / 60:.1f} minutes of a processor{fits}"
