"""GPUs by NVML: by their own energy counters (Volta and newer), else by their power, sampled and integrated."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from batchsched.executors.meters.counter import Counter
from batchsched.executors.meters.port import Reading
from batchsched.executors.meters.ticker import Ticker
from batchsched.wire import EnergyMark, EnergySource

SAMPLE_S = 0.2
_MARK_EVERY_S = 10.0
_MOST_W = 3000.0
"""More than any board draws."""
_WRAPS = (2**32, 2**64)  # mJ; NVML counts in 64 bits, the hardware below it in fewer


class Device(NamedTuple):
    """A GPU that the engine uses, and how much of it: less than 1 for a slice (MIG)."""

    handle: Any
    share: float = 1.0


class Board:
    """One GPU, by its counter while that can be believed, by its power from then on."""

    def __init__(self, nvml: Any, device: Device, clock: Callable[[], float]) -> None:
        self.source: EnergySource = "unmeasured"
        self._nvml, self._device, self._clock = nvml, device, clock
        self._total_j = 0.0
        self._last_w: float | None = None
        self._at = clock()
        self._counter: Counter | None = None
        with contextlib.suppress(nvml.NVMLError):
            if self._count() > 0:
                self._counter = Counter(self._count, 1e-3, _WRAPS, _MOST_W, clock)
                self.source = "nvml_counter"
        if self._counter is None:
            self._by_power()

    def look(self) -> float:
        """Joules so far, of our share."""
        if self._counter is None:
            self._by_power()
        else:
            with contextlib.suppress(self._nvml.NVMLError):  # what a failed look missed, the next one counts
                self._by_counter(self._counter)
        return self._total_j * self._device.share

    def _by_counter(self, counter: Counter) -> None:
        since = counter.moved_at
        rise_j = counter.rise()
        if rise_j is not None:
            self._total_j += rise_j
            return
        self._counter, self._at = None, since  # it jumped or stands still: the time since then goes by power
        self._by_power()

    def _by_power(self) -> None:
        """Trapezoids between samples; one that failed is bridged by the next."""
        power_w, now = self._power_w(), self._clock()
        if power_w is None:
            return
        if power_w > 0:
            self._total_j += (power_w + (self._last_w or power_w)) / 2 * (now - self._at)
        self.source = "nvml_power" if power_w > 0 else "unmeasured"
        self._last_w, self._at = power_w, now

    def _power_w(self) -> float | None:
        """None where this sample failed; 0 where the board does not say: one that is on draws power."""
        try:
            return float(self._nvml.nvmlDeviceGetPowerUsage(self._device.handle)) / 1000
        except self._nvml.NVMLError_NotSupported:
            return 0.0
        except self._nvml.NVMLError:
            return None

    def _count(self) -> int:
        return int(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._device.handle))


class Gpus:
    """The sum over an engine's GPUs. `pids`: the engine's processes, where they are ours to see."""

    def __init__(
        self,
        nvml: Any,
        devices: Sequence[Device],
        mark: EnergyMark = "",
        pids: Callable[[], list[int]] = list,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._nvml, self._devices, self._pids, self._clock = nvml, devices, pids, clock
        self._mark: EnergyMark = mark
        self._lock = threading.Lock()
        self._boards = [Board(nvml, device, clock) for device in devices]
        self._ticker: Ticker | None = None
        self._sliced, self._checked_at = bool(mark), -_MARK_EVERY_S
        self.read()

    @property
    def source(self) -> EnergySource:
        """Of the sum: measured only where every board is, and by the weaker of two ways."""
        sources = {board.source for board in self._boards}
        weakest: tuple[EnergySource, ...] = ("unmeasured", "nvml_power", "nvml_counter")
        return next(source for source in weakest if source in sources)

    def read(self) -> Reading:
        """By counters as of now; by power as of now, with a sample each 200 ms before."""
        joules = self._look()
        if self._ticker is None and any(board.source != "nvml_counter" for board in self._boards):
            self._ticker = Ticker("gpu-power", SAMPLE_S, self._look)
        now = self._clock()
        if not self._sliced and now - self._checked_at >= _MARK_EVERY_S:
            self._checked_at = now
            self._mark = "shared" if self._has_others() else ""
        return Reading(joules, self.source, mark=self._mark)

    def close(self) -> None:
        """End the sampling."""
        if self._ticker:
            self._ticker.close()

    def _look(self) -> float:
        with self._lock:
            return sum(board.look() for board in self._boards)

    def _has_others(self) -> bool:
        """Does a board compute for others too?

        Where none of the processes on it is known to be the engine's (PID namespaces hide them), one is taken for it.
        """
        ours = set(self._pids())
        for device in self._devices:
            with contextlib.suppress(self._nvml.NVMLError):
                there = {int(process.pid) for process in self._nvml.nvmlDeviceGetComputeRunningProcesses(device.handle)}
                if len(there - ours) > (0 if there & ours else 1):
                    return True
        return False


class Found(NamedTuple):
    """The GPUs of an engine on this machine. `part`: of all the machine's GPUs."""

    nvml: Any
    devices: list[Device]
    mark: EnergyMark
    part: float


def find(wanted: int) -> Found | None:
    """The GPUs that an engine takes here: the first `wanted` of CUDA_VISIBLE_DEVICES, or of all; None without NVML or GPUs."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
        handles = _handles(pynvml, count)[:wanted]
        slices = [_slice(pynvml, handle) for handle in handles]
    except pynvml.NVMLError:
        return None
    if not slices:
        return None
    devices = [device for device, _ in slices]
    mark: EnergyMark = "mig" if any(mig for _, mig in slices) else ""
    return Found(pynvml, devices, mark, min(1.0, sum(device.share for device in devices) / max(1, count)))


def _handles(nvml: Any, count: int) -> list[Any]:
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
    names = [name.strip() for name in named.split(",") if name.strip()]
    return [
        nvml.nvmlDeviceGetHandleByIndex(int(name)) if name.isdigit() else nvml.nvmlDeviceGetHandleByUUID(name) for name in names
    ]


def _slice(nvml: Any, handle: Any) -> tuple[Device, bool]:
    """The board to measure, and whether it is cut up (MIG): NVML counts whole boards only, so a slice gets its part by size."""
    mig, board = None, handle
    with contextlib.suppress(nvml.NVMLError):  # older GPUs and drivers know nothing of it
        if nvml.nvmlDeviceIsMigDeviceHandle(handle):
            mig, board = handle, nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)
        elif nvml.nvmlDeviceGetMigMode(handle)[0]:
            mig = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, 0)  # what CUDA takes of such a board
    if mig is None:
        return Device(board), False
    with contextlib.suppress(nvml.NVMLError):
        size, whole = nvml.nvmlDeviceGetAttributes(mig).gpuInstanceSliceCount, nvml.nvmlDeviceGetMaxMigDeviceCount(board)
        if 0 < size <= whole:
            return Device(board, size / whole), True
    return Device(board), True
