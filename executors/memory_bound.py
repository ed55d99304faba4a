"""Ends an engine that takes more memory than it may, and says so in its log.

An address-space limit would not do: torch and vLLM reserve many times what they use. So what its processes really hold is looked
at twice a second: each one's proportional share (PSS), in which pages that several of them share count once. A control group of
systemd (`MemoryMax=` of the worker's unit) is the harder bound where there is one; this one needs no rights.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

log = logging.getLogger(__name__)
LOOK_S = 0.5
_GB = 1e9


class MemoryBound:
    """Watches one engine from a thread, from its launch to `close`."""

    def __init__(self, pgid: int, pids: Callable[[], Sequence[int]], most_gb: float, file: Path, look_s: float = LOOK_S) -> None:
        """`pgid`: the engine's process group, which is ended whole."""
        self._pgid, self._pids, self._most_gb, self._file, self._look_s = pgid, pids, most_gb, file, look_s
        self.broken = False
        """Was the engine ended here?"""
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory-bound", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._closed.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._closed.wait(self._look_s):
            held_gb = self._held_gb()
            if held_gb > self._most_gb:
                self.broken = True
                log.error("%s.", complaint(held_gb, self._most_gb))
                with contextlib.suppress(OSError), self._file.open("a") as file:
                    file.write(f"\n{complaint(held_gb, self._most_gb)}\n")
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._pgid, signal.SIGKILL)
                return

    def _held_gb(self) -> float:
        """What counts shared pages once takes long to ask, so only where the quick figure, which is larger, is too large."""
        pids = self._pids()
        quick_gb = sum(held_bytes(pid, exact=False) for pid in pids) / _GB
        return quick_gb if quick_gb <= self._most_gb else sum(held_bytes(pid) for pid in pids) / _GB


def complaint(held_gb: float, most_gb: float) -> str:
    """In the form of an error that a log ends with."""
    return (
        f"MemoryError: it held {held_gb:.2f} GB, more than the {most_gb:g} GB of the pool's cpu.memory_gb, and was ended. "
        "Raise cpu.memory_gb, or lower VLLM_CPU_KVCACHE_SPACE, --max-model-len or max_in_flight"
    )


def held_bytes(pid: int, *, exact: bool = True) -> int:
    """Memory that a process holds, its part of what is shared, or, where that need not be exact, all of it; 0 for one that is
    gone."""
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        process = psutil.Process(pid)
        held = process.memory_full_info() if exact else process.memory_info()
        return int(getattr(held, "pss", held.rss))
    return 0
