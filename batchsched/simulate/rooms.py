"""What online users leave of a server, as it comes true: more at night, less by day, at times nothing."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

STEP_S = 600.0


class Room:
    """The share of a server that is left, 0 to 1, in steps of ten minutes. Before the first and after the last it is ours alone.

    Seconds count from the start of the simulation; those of work are what it would take alone.
    """

    def __init__(self, first_s: float, left: Sequence[float]) -> None:
        """`first_s`: when the first step begins."""
        self.first_s = first_s
        self.left = [min(1.0, max(0.0, share)) for share in left]
        self._done_s = [0.0, *accumulate(share * STEP_S for share in self.left)]

    def worked_s(self, from_s: float, to_s: float) -> float:
        """The work that is done in a stretch of time."""
        return self._until(to_s) - self._until(from_s)

    def when(self, from_s: float, work_s: float) -> float:
        """When so much more is done."""
        target = self._until(from_s) + work_s
        if target >= self._done_s[-1]:
            return max(from_s, self._end_s + (target - self._done_s[-1]))
        step = bisect_left(self._done_s, target)
        if step == 0:
            return max(from_s, self.first_s + target)
        at_s = self.first_s + (step - 1) * STEP_S + (target - self._done_s[step - 1]) / self.left[step - 1]
        return max(from_s, at_s)

    def mean(self, from_s: float, to_s: float) -> float:
        """The share that is left over a stretch of time."""
        return self.worked_s(from_s, to_s) / (to_s - from_s)

    @property
    def _end_s(self) -> float:
        return self.first_s + len(self.left) * STEP_S

    def _until(self, at_s: float) -> float:
        since_s = at_s - self.first_s
        if since_s <= 0:
            return since_s
        step = int(since_s // STEP_S)
        if step >= len(self.left):
            return self._done_s[-1] + (at_s - self._end_s)
        return self._done_s[step] + (since_s - step * STEP_S) * self.left[step]


ALONE = Room(0.0, [])
"""Of a server that has no other users."""
