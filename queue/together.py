"""Many threads' work done as one: what comes in while a round runs is the next round, done by whichever thread has its turn."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Work = TypeVar("Work")
Outcome = TypeVar("Outcome")


class _Waiting(Generic[Work, Outcome]):
    """One thread's work, and what became of it."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.outcome: Outcome | BaseException | None = None
        self.over = False


class Together(Generic[Work, Outcome]):
    """`all_of` does a round: an outcome for each piece of work, in its order; an exception among them is raised to that thread
    alone, one that `all_of` raises to every thread of the round."""

    def __init__(self, all_of: Callable[[Sequence[Work]], Sequence[Outcome | BaseException]]) -> None:
        self._all_of = all_of
        self._turn = threading.Lock()
        self._waiting: deque[_Waiting[Work, Outcome]] = deque()

    def do(self, work: Work) -> Outcome:
        """Returns, or raises, once this work is done."""
        mine = _Waiting[Work, Outcome](work)
        self._waiting.append(mine)
        with self._turn:
            if not mine.over:
                self._round()
        if isinstance(mine.outcome, BaseException):
            raise mine.outcome
        return mine.outcome  # type: ignore[return-value]  # pyright: ignore[reportReturnType]

    @property
    def waiting(self) -> int:
        """How many wait for the next round."""
        return len(self._waiting)

    def _round(self) -> None:
        everyone: list[_Waiting[Work, Outcome]] = []
        while self._waiting:
            everyone.append(self._waiting.popleft())
        outcomes: Sequence[Outcome | BaseException]
        try:
            outcomes = self._all_of([waiting.work for waiting in everyone])
        except BaseException as problem:
            outcomes = [problem] * len(everyone)
        for waiting, outcome in zip(everyone, outcomes, strict=True):
            waiting.outcome, waiting.over = outcome, True
