"""Joules from a hardware counter, which may wrap, restart or stand still.

A counter that falls has wrapped or begun anew. Which of the two is told by what is possible: no board draws more than `most_w`. A
rise that is possible neither way, and a counter of hardware that is on and yet does not move, are no measurements.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

STALL_S = 10.0
"""Hardware that is on draws power, so that its counter moves every fraction of a second."""
_SLACK_S = 1.0
"""Counters are brought up to date now and then, so that a rise may belong to a slightly longer time."""


class Counter:
    """Follows one counter. `read` gives its units; `ranges`: the values past which it may wrap, in units."""

    def __init__(
        self,
        read: Callable[[], int],
        joules_per_unit: float,
        ranges: Sequence[int],
        most_w: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read, self._unit_j, self._ranges, self._most_w, self._clock = read, joules_per_unit, ranges, most_w, clock
        self._last, self.moved_at = read(), clock()

    def rise(self) -> float | None:
        """Joules since the last look that saw it move, at `moved_at`; 0 until it moves, None where it is not to be believed."""
        now, at = self._read(), self._clock()
        elapsed_s = at - self.moved_at
        if now == self._last:
            return 0.0 if elapsed_s < STALL_S else None
        most = self._most_w * (elapsed_s + _SLACK_S) / self._unit_j
        last, self._last, self.moved_at = self._last, now, at
        # Risen; or wrapped at one of the ranges; or begun anew at zero.
        rises = (now - last, *(now + size - last for size in self._ranges if now < last < size), now)
        return next((units * self._unit_j for units in rises if 0 <= units <= most), None)
