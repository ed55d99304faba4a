"""How long each pool is open until a deadline."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from batchsched.planner import PoolState, Slot


class Outlooks:
    """Of all pools of a plan, for any deadline. What lies beyond the plan's horizon is not known, and not counted."""

    def __init__(self, slots: Sequence[Slot], pools: Sequence[PoolState]) -> None:
        self._edges = [0.0, *(slot.end_s for slot in slots)]
        self._open: dict[str, list[float]] = {}
        for pool in pools:
            of_slots = [slot.length_s * share / max(1, pool.replicas) for slot, share in zip(slots, pool.capacity, strict=True)]
            self._open[pool.name] = list(accumulate(of_slots, initial=0.0))

    def until(self, deadline_s: float) -> dict[str, float]:
        """Seconds by pool."""
        edges, at = self._edges, min(max(deadline_s, 0.0), self._edges[-1])
        i = min(bisect_right(edges, at), len(edges) - 1)
        part = (at - edges[i - 1]) / (edges[i] - edges[i - 1])
        return {name: sums[i - 1] + (sums[i] - sums[i - 1]) * part for name, sums in self._open.items()}
