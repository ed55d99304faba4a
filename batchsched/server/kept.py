"""Answers that are kept for a while, since they are dear to make and seldom change."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from batchsched.clock import Clock

T = TypeVar("T")


class Kept(Generic[T]):
    """At most `most` answers, each for `for_s` seconds. Thread-safe; two that ask at once may both make it."""

    def __init__(self, clock: Clock, *, for_s: float, most: int) -> None:
        self._clock = clock
        self._for_s = for_s
        self._most = most
        self._answers: OrderedDict[Hashable, tuple[float, T]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The answer that is kept, or a new one."""
        now = self._clock.monotonic()
        until, answer = self._answers.get(key, (now, None))
        if answer is None or until <= now:
            answer = make()
            with self._lock:
                self._answers[key] = now + self._for_s, answer
                self._answers.move_to_end(key)
                while len(self._answers) > self._most:
                    self._answers.popitem(last=False)
        return answer
