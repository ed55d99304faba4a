"""What came of the runs that a benchmark planned: rows, failures, and what there was no time for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from benchmarks.attempts import Failed, LeftOut, ran
from benchmarks.budget import Budget
from benchmarks.forecast_ours import Remaining
from benchmarks.kept import Came, Kept

P = TypeVar("P")
R = TypeVar("R", bound=Came)


class Taken(Generic[P, R]):
    """Of all that was planned so far. `attempt` runs one of it, in a process of its own; `kept` rows need not be run again."""

    def __init__(self, attempt: Callable[[P], R], budget: Budget[P], jobs: int, kept: Kept[R] | None) -> None:
        self.rows: list[R] = []
        self.failed: list[Failed[P]] = []
        self.left_out: list[P] = []
        self._attempt, self._budget, self._jobs, self._kept = attempt, budget, jobs, kept

    def add(self, plan: Iterable[P], done: str, of: str) -> int:
        """Run these, as far as there is time, and say on the way how many are `done` `of` them; how many there were that had not
        been run before."""
        known: dict[Any, R] = self._kept.rows if self._kept else {}
        plan = list(plan)
        for row in [known[one] for one in plan if one in known]:
            self._came(row)
        todo = [one for one in plan if one not in known]
        told = Remaining(done, len(todo), of)
        for one in ran(self._attempt, todo, self._jobs, self._budget.fits):
            self._take(one)
            told.done()
        return len(todo)

    def _take(self, one: R | Failed[P] | LeftOut[P]) -> None:
        if isinstance(one, Failed):
            self.failed.append(one)
        elif isinstance(one, LeftOut):
            self.left_out.append(one.run)
        else:
            self._came(one)
            if self._kept:
                self._kept.add(one)

    def _came(self, row: R) -> None:
        self.rows.append(row)
        self._budget.learn(row)
