"""Which sequence a row of the engine's batch is: vLLM's proposer is told rows, and rows change places.

A row is the sequence whose tokens it begins with: looked for at the same place first, then, by its last tokens, among those that
have moved or were out of the batch for a while. What is not found is new. Two requests with the same tokens are one to a drafter,
so taking one for the other does no harm; a wrong draft would only be rejected.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_TAIL = 8
Tokens = npt.NDArray[np.int32]


class Known:
    """A sequence as it was seen last. `sent`: how many of its tokens the draft service has been sent."""

    __slots__ = ("draft", "length", "sent", "sequence", "tokens")

    def __init__(self, sequence: int) -> None:
        self.sequence = sequence
        self.tokens: Tokens = np.empty(0, np.int32)
        self.length = self.sent = 0
        self.draft: list[int] = []

    def begins(self, row: Tokens) -> bool:
        """Does a row begin with these tokens?"""
        return len(row) >= self.length and np.array_equal(self.tokens[: self.length], row[: self.length])

    def grow(self, row: Tokens) -> None:
        """Become the whole row, which begins with what is here."""
        if len(row) > len(self.tokens):
            larger = np.empty(max(64, 2 * len(row)), np.int32)
            larger[: self.length] = self.tokens[: self.length]
            self.tokens = larger
        self.tokens[self.length : len(row)] = row[self.length :]
        self.length = len(row)

    def key(self) -> tuple[int, bytes]:
        """What it is looked for by."""
        return self.length, self.tokens[max(0, self.length - _TAIL) : self.length].tobytes()


class Rows:
    """The sequences of a batch from step to step; at most `spare` of those that left it are remembered."""

    def __init__(self, spare: int = 256) -> None:
        self._rows: list[Known] = []
        self._away: dict[int, Known] = {}
        self._spare = spare
        self._free: list[int] = []
        self._numbers = 0

    def follow(self, lengths: Sequence[int], news: Sequence[int], table: Tokens) -> list[Known]:
        """The sequence of each row: `lengths` tokens of the `table` are its own, and the last `news` of them are new."""
        rows = [table[index, :length] for index, length in enumerate(lengths)]
        found = [self._at(index, row) for index, row in enumerate(rows)]
        if None in found:
            self._look_elsewhere(found, rows, news)
        followed = [known or self._new() for known in found]
        for known, row in zip(followed, rows, strict=True):
            known.grow(row)
        self._leave(followed)
        return followed

    def forget_sent(self) -> None:
        """The service knows nothing any more."""
        for known in (*self._rows, *self._away.values()):
            known.sent = 0

    def _at(self, index: int, row: Tokens) -> Known | None:
        known = self._rows[index] if index < len(self._rows) else None
        return known if known and known.begins(row) else None

    def _look_elsewhere(self, found: list[Known | None], rows: list[Tokens], news: Sequence[int]) -> None:
        taken = {known.sequence for known in found if known}
        others = {known.key(): known for known in (*self._away.values(), *self._rows) if known.sequence not in taken}
        for index, row in enumerate(rows):
            if found[index] is not None:
                continue
            for length in {len(row) - news[index], len(row)}:
                known = others.get((length, row[max(0, length - _TAIL) : length].tobytes()))
                if known and known.length and known.begins(row):
                    found[index] = known
                    del others[known.key()]
                    break

    def _new(self) -> Known:
        """Numbers of those that were forgotten are used again: all of a new one is sent, and the service forgets the old one."""
        if self._free:
            return Known(self._free.pop())
        self._numbers += 1
        return Known(self._numbers - 1)

    def _leave(self, followed: list[Known]) -> None:
        """Those that are in the batch no more are kept for a while: a request that had to wait may come back."""
        here = {known.sequence for known in followed}
        for known in self._rows:
            if known.sequence not in here:
                known.draft = []
                self._away[known.sequence] = known
        for sequence in here & self._away.keys():
            del self._away[sequence]
        while len(self._away) > self._spare:
            self._free.append(self._away.pop(next(iter(self._away))).sequence)
        self._rows = followed
