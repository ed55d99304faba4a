"""The search for the line that ends engines: the suspects of a chunk, half of them at a time, with the engine for themselves.

What is left always holds the guilty line, if there is one. A round that comes through is answered and thereby cleared; one that
ends the engine leaves its own lines as the suspects. So each round halves them, and a line is convicted only where it ended an
engine that had nothing else to do. The likeliest come last, since a round without a death costs no start of an engine.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Hunt(Generic[T]):
    """Of the lines of one chunk. Those of a round are taken one by one with `coming` and `sent`."""

    def __init__(self) -> None:
        self._suspects: deque[T] = deque()
        self._round: deque[T] = deque()

    def __len__(self) -> int:
        """Lines not yet sent."""
        return len(self._suspects) + len(self._round)

    def __iter__(self) -> Iterator[T]:
        """They, in the order in which they go."""
        yield from self._round
        yield from self._suspects

    def suspect(self, lines: Iterable[T]) -> None:
        """To be tried, in this order."""
        self._suspects.extend(lines)

    def begin(self) -> None:
        """The next round: half of those that are left."""
        for _ in range(max(1, len(self._suspects) // 2) if self._suspects else 0):
            self._round.append(self._suspects.popleft())

    @property
    def coming(self) -> T | None:
        """The line of this round that goes next; None where all of them went."""
        return self._round[0] if self._round else None

    def sent(self) -> T:
        """It goes."""
        return self._round.popleft()

    def put_back(self, line: T) -> None:
        """It was in flight when the engine went for a reason of its own."""
        self._suspects.extendleft(reversed(self._round))
        self._round.clear()
        self._suspects.appendleft(line)

    def acquit(self) -> list[T]:
        """The guilty one was found: what is left goes with the others again."""
        freed = [*self._round, *self._suspects]
        self._round.clear()
        self._suspects.clear()
        return freed
