"""Energy where nothing measures it: a model, or the word that it is not known."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from batchsched.executors.meters.port import Reading


class Modelled:
    """`idle_w` at all times plus `work_j` for what was done."""

    def __init__(self, idle_w: float, work_j: Callable[[], float] = lambda: 0.0) -> None:
        self._idle_w, self._work_j = idle_w, work_j
        self._began = time.monotonic()

    def read(self) -> Reading:
        """Watts times seconds, and the work."""
        return Reading(self._idle_w * (time.monotonic() - self._began) + self._work_j(), "modelled")

    def close(self) -> None:
        """Nothing runs."""


class BusySeconds:
    """Seconds with requests in flight. It looks only when asked, and so has to be asked whenever `busy` is about to change."""

    def __init__(self, busy: Callable[[], bool]) -> None:
        self._busy = busy
        self._total_s, self._at = 0.0, time.monotonic()

    def __call__(self) -> float:
        """The sum, never falling."""
        now = time.monotonic()
        self._total_s += (now - self._at) * self._busy()
        self._at = now
        return self._total_s


class Unmeasured:
    """No figure at all, and marked so: better than an invented one."""

    def read(self) -> Reading:
        """Nothing known."""
        return Reading(0.0, "unmeasured")

    def close(self) -> None:
        """Nothing runs."""


class CpuSeconds:
    """CPU seconds used since it was made: by the given processes; where none are known, `share` of the whole machine's."""

    def __init__(self, pids: Callable[[], list[int]], share: float = 1.0) -> None:
        self._pids, self._share = pids, share
        self._seen: dict[int, float] = {}
        self._total_s = 0.0
        self._machine_s = _machine_cpu_s()

    def __call__(self) -> float:
        """The sum, never falling, whatever processes come and go."""
        import psutil

        now_s = _machine_cpu_s()
        machine_s, self._machine_s = now_s - self._machine_s, now_s
        pids = self._pids()
        if not pids:
            self._total_s += max(0.0, machine_s) * self._share
        for pid in pids:
            with contextlib.suppress(psutil.Error):
                used = psutil.Process(pid).cpu_times()
                used_s = used.user + used.system
                self._total_s += max(0.0, used_s - self._seen.get(pid, 0.0))
                self._seen[pid] = used_s
        return self._total_s


def _machine_cpu_s() -> float:
    import psutil

    used = psutil.cpu_times()
    return float(sum(used) - used.idle - getattr(used, "iowait", 0.0) - getattr(used, "guest", 0.0))
