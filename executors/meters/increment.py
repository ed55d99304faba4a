"""What an engine adds to a host that is on for others anyway, by the host's energy counters.

The host's draw without us is looked for in stretches in which the engine did next to nothing: of these the one with the least
watts is the baseline, with the load that others had then. What is above it later is ours by our part of the CPU time that is
above that load. Where no such stretch was seen, the whole draw is shared by CPU time: more rather than less.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from batchsched.executors.meters.port import EnergyMeter, Reading

LEAST_S = 1.0
"""A shorter stretch tells nothing: counters of energy and of CPU time move in steps."""
QUIET = 0.02
"""Of a core: an engine that took less was not at work."""


class Increment:
    """`host`: the host's meter; `ours_s`, `all_s`: CPU seconds so far of the engine and of the machine, neither ever falling."""

    def __init__(
        self,
        host: EnergyMeter,
        ours_s: Callable[[], float],
        all_s: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._host, self._ours_s, self._all_s, self._clock = host, ours_s, all_s, clock
        self._total_j = 0.0
        self._base_w = self._base_load = 0.0
        self._based = False
        self._at, self._before = clock(), (host.read().energy_j, ours_s(), all_s())
        self._said = Reading(0.0, "rapl")

    def read(self) -> Reading:
        """Joules added so far; stretches of less than a second are added with the next."""
        now = self._clock()
        elapsed_s = now - self._at
        if elapsed_s < LEAST_S:
            return self._said
        host = self._host.read()
        after = (host.energy_j, self._ours_s(), self._all_s())
        spent_j, ours_s, all_s = (max(0.0, new - old) for new, old in zip(after, self._before, strict=True))
        self._at, self._before = now, after
        if ours_s <= QUIET * elapsed_s:
            self._learn(spent_j / elapsed_s, max(0.0, all_s - ours_s) / elapsed_s)
        above_j = max(0.0, spent_j - self._base_w * elapsed_s)
        above_s = max(ours_s, all_s - self._base_load * elapsed_s)
        self._total_j += above_j * ours_s / above_s if above_s > 0 else 0.0
        self._said = Reading(self._total_j, host.source)
        return self._said

    def close(self) -> None:
        """Close the host's meter."""
        self._host.close()

    def _learn(self, watts: float, load: float) -> None:
        if not self._based or watts < self._base_w:
            self._base_w, self._base_load, self._based = watts, load, True
