"""Runs of a benchmark in processes, none of which costs another when it fails."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Generic, TypeVar

import msgspec

from batchsched.simulate import Outcome

P = TypeVar("P")
R = TypeVar("R")


class Failed(msgspec.Struct, Generic[P], frozen=True):
    """A run that came to nothing."""

    run: P
    why: str


class LeftOut(msgspec.Struct, Generic[P], frozen=True):
    """A run for which there was no time."""

    run: P


class Incomplete(Exception):
    """Work was left undone: its grams are not those of the work that others did."""


def complete(outcome: Outcome) -> Outcome:
    """The same. Raises Incomplete where not all of the work was done."""
    if not outcome.complete:
        given_up = sum(outcome.given_up.values())
        raise Incomplete(f"{len(outcome.unfinished)} batches were left undone, {given_up:.0f} requests given up")
    return outcome


def tried(attempt: Callable[[P], R], one: P) -> R | Failed[P]:
    """What a run came to, or what went wrong in it."""
    try:
        return attempt(one)
    except Exception as problem:  # whatever it is, an AssertionError of a simulation included
        return Failed(one, f"{type(problem).__name__}: {problem}")


def ran(
    attempt: Callable[[P], R], plan: Iterable[P], jobs: int, may_begin: Callable[[P], bool] = lambda _: True
) -> Iterator[R | Failed[P] | LeftOut[P]]:
    """All of them, begun in order, as they come back. Where a process is killed, those that were under way are run again one by
    one, each in a process of its own, so that only who dies there too is given up. `may_begin`: is there time for another?"""
    left, broken = deque(plan), deque[P]()
    while left or broken:
        if broken:
            one = broken.popleft()
            yield _alone(attempt, one) if may_begin(one) else LeftOut(one)
            continue
        under_way: dict[Future[R | Failed[P]], P] = {}
        with ProcessPoolExecutor(jobs) as workers:
            while (left or under_way) and not broken:
                while left and len(under_way) < jobs:
                    one = left.popleft()
                    if may_begin(one):
                        _begin(workers, attempt, one, under_way, broken)
                    else:
                        yield LeftOut(one)
                for future in wait(under_way, return_when=FIRST_COMPLETED).done if under_way else ():
                    one = under_way.pop(future)
                    try:
                        yield future.result()
                    except BrokenProcessPool:
                        broken.append(one)
        yield from _rest(under_way, broken)


def _begin(
    workers: ProcessPoolExecutor,
    attempt: Callable[[P], R],
    one: P,
    under_way: dict[Future[R | Failed[P]], P],
    broken: deque[P],
) -> None:
    try:
        under_way[workers.submit(partial(tried, attempt), one)] = one
    except BrokenProcessPool:
        broken.append(one)


def _rest(under_way: dict[Future[R | Failed[P]], P], broken: deque[P]) -> Iterator[R | Failed[P]]:
    """Of processes that are gone: what had come back by then; the others are to be run again."""
    for future, one in under_way.items():
        try:
            yield future.result()
        except BrokenProcessPool:
            broken.append(one)


def _alone(attempt: Callable[[P], R], one: P) -> R | Failed[P]:
    with ProcessPoolExecutor(1) as worker:
        try:
            return worker.submit(partial(tried, attempt), one).result()
        except BrokenProcessPool as problem:
            return Failed(one, f"a process died: {problem}")
