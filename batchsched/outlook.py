"""What each pool has until a deadline: open seconds, and what they cost by the prices that a plan has."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from batchsched.planner import PoolState, Problem, Slot
from batchsched.planner.price import price
from batchsched.profiles.candidates import Outlook


class Outlooks:
    """Of all pools of a plan, for any deadline. What lies beyond the plan's horizon is not known, and not counted."""

    def __init__(self, slots: Sequence[Slot], pools: Sequence[PoolState]) -> None:
        self._edges = [0.0, *(slot.end_s for slot in slots)]
        self._prices = prices = price(Problem(list(slots), list(pools), []))
        self._open: dict[str, list[float]] = {}
        self._grams: dict[str, list[float]] = {}
        for pool in pools:
            of_slots = [slot.length_s * share / max(1, pool.replicas) for slot, share in zip(slots, pool.capacity, strict=True)]
            grid = prices.intensity[pool.name]
            self._open[pool.name] = list(accumulate(of_slots, initial=0.0))
            self._grams[pool.name] = list(accumulate((s * g for s, g in zip(of_slots, grid, strict=True)), initial=0.0))

    def until(self, deadline_s: float) -> dict[str, Outlook]:
        """By pool. The grid is that of the hours in which the pool is open; where it is not open at all, that of now."""
        return {name: self._of(name, deadline_s) for name in self._open}

    def _of(self, name: str, deadline_s: float) -> Outlook:
        open_s = self._total(self._open[name], deadline_s)
        grid = self._total(self._grams[name], deadline_s) / open_s if open_s > 0 else self._prices.intensity[name][0]
        return Outlook(open_s, grid, self._prices.embodied_g_per_s[name])

    def _total(self, sums: Sequence[float], until_s: float) -> float:
        """The sum up to an instant, where `sums` are those up to each edge."""
        edges, at = self._edges, min(max(until_s, 0.0), self._edges[-1])
        i = min(bisect_right(edges, at), len(edges) - 1)
        return sums[i - 1] + (sums[i] - sums[i - 1]) * (at - edges[i - 1]) / (edges[i] - edges[i - 1])
