"""Runs of a benchmark in processes, none of which costs another when it fails."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Generic, TypeVar

import msgspec

P = TypeVar("P")
R = TypeVar("R")


class Failed(msgspec.Struct, Generic[P], frozen=True):
    """A run that came to nothing."""

    run: P
    why: str


def tried(attempt: Callable[[P], R], one: P) -> R | Failed[P]:
    """What a run came to, or what went wrong in it."""
    try:
        return attempt(one)
    except Exception as problem:  # whatever it is, an AssertionError of a simulation included
        return Failed(one, f"{type(problem).__name__}: {problem}")


def ran(attempt: Callable[[P], R], plan: Iterable[P], jobs: int) -> Iterator[R | Failed[P]]:
    """All of them, in order. Where a process is killed the first that had not come back is given up, and the rest goes on."""
    left = deque(plan)
    while left:
        with ProcessPoolExecutor(jobs) as workers:
            try:
                for future in [workers.submit(partial(tried, attempt), one) for one in left]:
                    came = future.result()
                    left.popleft()
                    yield came
            except BrokenProcessPool as problem:
                yield Failed(left.popleft(), f"a process died: {problem}")
