"""Filling a fleet backwards from the deadlines: how late can things be?

Going back in time, the job with the latest deadline takes replicas first, which is earliest-deadline-first seen forwards: when
work starts at the instants found here and the earliest deadline always goes first, everything fits.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Collection
from functools import cached_property

import msgspec

_EPS = 1e-9


class Need(msgspec.Struct, frozen=True):
    """Work that must fit before a deadline."""

    batch_id: str
    deadline_s: float
    work_on: dict[str, float]
    """Replica-seconds on each pool, were all of it done there."""
    width: int
    startup_s: float = 0.0
    """Seconds for which its replicas are taken before the work begins."""


class Span(msgspec.Struct, frozen=True):
    """A stretch of time with the replicas open in each pool."""

    start_s: float
    end_s: float
    replicas: dict[str, float]


class Filled(msgspec.Struct, frozen=True, dict=True):
    """`starts`: the latest start of each need, -inf where no time is enough. `full`: stretches, the last first, and the pools
    without room."""

    starts: dict[str, float]
    full: list[tuple[float, float, frozenset[str]]]

    def busy_since(self, at: float, pools: Collection[str]) -> float:
        """Going back from `at`, the first instant before which one of the pools had room."""
        begins, sets = self._by_pools
        index = bisect_left(begins, _EPS - at, key=lambda start: -start)
        group = frozenset(pools)
        if group not in sets:
            sets[group] = self._since(group)
        since = sets[group][index] if index < len(begins) else None
        return at if since is None else since

    @cached_property
    def _by_pools(self) -> tuple[list[float], dict[frozenset[str], list[float | None]]]:
        return [start for start, _, _ in self.full], {}

    def _since(self, pools: frozenset[str]) -> list[float | None]:
        """Of each stretch, since when all of these pools have had no room without a gap; None where one has."""
        out: list[float | None] = []
        since: float | None = None
        for start, end, taken in reversed(self.full):
            if end - start > 2 * _EPS:
                since = (start if since is None else since) if pools <= taken else None
            out.append(since)
        return out[::-1]

    def busy_until(self, at: float, pools: Collection[str]) -> float:
        """Going on from `at`, the first instant after which one of the pools has room."""
        for _, end, taken in reversed(self.full):
            if end > at + _EPS:
                if not taken.issuperset(pools):
                    break
                at = end
        return at


class _Open(msgspec.Struct):
    """A need while it is being placed: the share of its work and the seconds of start-up that are left."""

    need: Need
    work: float
    startup_s: float
    fastest: list[str]
    """Its pools, the fastest first."""

    def longest(self, rate: float) -> float:
        """Seconds until its present phase ends."""
        return self.work / rate if self.work > _EPS else self.startup_s

    def pass_by(self, seconds: float, rate: float) -> bool:
        """Time in which it has replicas that do `rate` of it a second; whether all of it is placed then."""
        if self.work > _EPS:
            self.work -= seconds * rate
        else:
            self.startup_s -= seconds
        return self.placed

    @property
    def placed(self) -> bool:
        """Is all of it placed?"""
        return self.work <= _EPS and self.startup_s <= _EPS


def fill_backward(needs: list[Need], spans: list[Span]) -> Filled:
    """Place every need as late as it can be. `spans`: in order of time, without overlap; what lies outside is closed."""
    starts = {need.batch_id: -math.inf for need in needs}
    full: list[tuple[float, float, frozenset[str]]] = []
    waiting = sorted(needs, key=lambda n: (n.deadline_s, n.batch_id))
    held: list[_Open] = []
    for span in reversed(spans):
        t = span.end_s
        open_ = {pool: count for pool, count in span.replicas.items() if count > _EPS}
        closed = frozenset(span.replicas.keys() - open_.keys())
        while t > span.start_s + _EPS:
            while waiting and waiting[-1].deadline_s >= t - _EPS:
                need = waiting.pop()
                held.append(_Open(need, 1.0, need.startup_s, sorted(need.work_on, key=lambda p: (need.work_on[p], p))))
            floor = max(span.start_s, waiting[-1].deadline_s) if waiting else span.start_s
            rates, filled = _allot(held, open_)
            step = t - floor
            for state, rate in zip(held, rates, strict=False):
                if rate > 0:
                    step = min(step, state.longest(rate))
            step = max(step, _EPS)
            full.append((t - step, t, closed | filled if filled else closed))
            t -= step
            placed = [state for state, rate in zip(held, rates, strict=False) if rate > 0 and state.pass_by(step, rate)]
            if placed:
                starts.update((state.need.batch_id, t) for state in placed)
                held[: len(rates)] = [state for state in held[: len(rates)] if not state.placed]
    return Filled(starts, full)


def _allot(held: list[_Open], replicas: dict[str, float]) -> tuple[list[float], set[str]]:
    """Share of its work that each need does in a second, served in order, fastest pool first, as far down the line as anything
    is left to serve; and the pools that this fills."""
    used: dict[str, float] = {}
    filled: set[str] = set()
    rates: list[float] = []
    for state in held:
        if len(filled) == len(replicas):
            break
        width, rate = float(state.need.width), 0.0
        for pool in state.fastest:
            if pool in replicas and pool not in filled:
                taken = used.get(pool, 0.0)
                take = min(width, replicas[pool] - taken)
                rate += take / max(state.need.work_on[pool], _EPS)
                used[pool] = taken + take
                width -= take
                if taken + take >= replicas[pool] - _EPS:
                    filled.add(pool)
                if width <= _EPS:
                    break
        rates.append(rate)
    return rates, filled
