"""What is to happen, by the virtual clock: one heap, one thing after another."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from datetime import datetime, timedelta

from batchsched.clock import ManualClock

Act = Callable[[], None]


class Events:
    """Seconds count from `start`. Of what is due at the same instant, what was asked for first happens first."""

    def __init__(self, start: datetime, now_s: float) -> None:
        self.start = start
        self.clock = ManualClock(start + timedelta(seconds=now_s))
        self.now_s = now_s
        self._heap: list[tuple[float, int, Act]] = []
        self._count = 0

    def at(self, at_s: float, act: Act) -> None:
        """Let it happen then; what should have happened before happens next."""
        self._count += 1
        heapq.heappush(self._heap, (max(at_s, self.now_s), self._count, act))

    def instant(self, at_s: float) -> datetime:
        """Of so many seconds from the start."""
        return self.start + timedelta(seconds=at_s)

    def seconds(self, at: datetime) -> float:
        """From the start to an instant."""
        return (at - self.start).total_seconds()

    def run(self, end_s: float = math.inf) -> bool:
        """Let the next thing happen; False where there is none before the end."""
        if not self._heap or self._heap[0][0] >= end_s:
            return False
        at_s, _, act = heapq.heappop(self._heap)
        self.clock.advance((self.instant(at_s) - self.clock.now()).total_seconds())
        self.now_s = at_s
        act()
        return True
