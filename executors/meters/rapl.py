"""The host's processors and memory by RAPL, as Linux shows it under /sys/class/powercap.

What is assumed, by the kernel's and Intel's descriptions of the domains:
- A `package` zone counts all of one processor; its `core` and `uncore` are parts of it and are left out.
- A `dram` zone stands below its package in the tree, but counts the memory beside it, which the package does not: both are added.
- `psys` counts the whole platform, packages included, and only some machines have it: left out.
- `intel-rapl-mmio` shows the same packages by another way: left out. AMD's packages appear as `intel-rapl` too, without dram.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from batchsched.executors.meters.counter import Counter
from batchsched.executors.meters.port import Reading
from batchsched.executors.meters.ticker import Ticker

_ZONE = re.compile(r"intel-rapl:\d+(:\d+)?")
_COUNTED = re.compile(r"(package)-\d+|(dram)\b")
_MOST_W = 1500.0
"""More than any package draws, or the memory beside it."""
_LONGEST_PAUSE_S = 60.0


class Rapl:
    """Zones by domain, `package` or `dram`. Looked at often enough, by a thread, that no counter wraps twice unseen."""

    def __init__(self, zones: Sequence[tuple[str, Path]], clock: Callable[[], float] = time.monotonic) -> None:
        self.by_domain_j = dict.fromkeys((domain for domain, _ in zones), 0.0)
        """Joules so far of packages and memory apart."""
        self._lock, self._believed = threading.Lock(), True
        self._counters: list[tuple[str, Counter]] = []
        soonest_s = _LONGEST_PAUSE_S
        for domain, zone in zones:
            counter, range_uj = zone / "energy_uj", _number(zone / "max_energy_range_uj")
            self._counters.append((domain, Counter(partial(_number, counter), 1e-6, (range_uj,), _MOST_W, clock)))
            soonest_s = min(soonest_s, range_uj / 1e6 / _MOST_W / 2)
        self._ticker = Ticker("rapl", max(1.0, soonest_s), self.read)

    @classmethod
    def find(cls, folder: Path) -> Rapl | None:
        """A meter over the readable packages and their memory; None where no package can be read."""
        zones = [(domain, zone) for zone in sorted(folder.glob("intel-rapl:*")) if (domain := _domain(zone))]
        readable = [(domain, zone) for domain, zone in zones if os.access(zone / "energy_uj", os.R_OK)]
        if not any(domain == "package" for domain, _ in readable):
            return None
        with contextlib.suppress(OSError, ValueError):
            return cls(readable)
        return None

    def read(self) -> Reading:
        """Packages and memory together. A package's counter that cannot be believed leaves the whole unmeasured."""
        with self._lock:
            for domain, counter in self._counters:
                with contextlib.suppress(OSError, ValueError):  # what a failed look missed, the next one counts
                    rise_j = counter.rise()
                    self.by_domain_j[domain] += rise_j or 0.0
                    if rise_j is None and domain == "package":  # memory that does not count is left out, as where it is not shown
                        self._believed = False
            return Reading(sum(self.by_domain_j.values()), "rapl" if self._believed else "unmeasured")

    def close(self) -> None:
        """End the thread."""
        self._ticker.close()


def _domain(zone: Path) -> str | None:
    """`package` or `dram`; None for what is part of another or is not known."""
    if not _ZONE.fullmatch(zone.name):
        return None
    try:
        named = _COUNTED.match((zone / "name").read_text().strip())
    except OSError:
        return None
    return named[1] or named[2] if named else None


def _number(path: Path) -> int:
    return int(path.read_text().strip())
