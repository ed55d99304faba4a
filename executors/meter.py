"""How many joules the engine's hardware has used: measured where there is a meter, modelled and marked so elsewhere."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from batchsched.fleet import GPU_TYPES, VCPU_IDLE_W, VCPU_MAX_W, Pool
from batchsched.settings import Worker
from batchsched.wire import EnergySource

SAMPLE_S = 0.2
_PARALLEL_FLAGS = ("--tensor-parallel-size", "-tp", "--pipeline-parallel-size", "-pp", "--data-parallel-size", "-dp")


class EnergyMeter(Protocol):
    """Joules since the meter was made."""

    def read(self) -> tuple[float, EnergySource]:
        """Joules so far, never falling, and where the figure comes from."""
        ...

    def close(self) -> None:
        """Stop sampling."""
        ...


class Choice(NamedTuple):
    """A meter, and why this one."""

    meter: EnergyMeter
    why: str


class NvmlCounter:
    """The GPUs' own energy counters (mJ since the driver loaded; Volta or newer)."""

    def __init__(self, nvml: Any, devices: Sequence[Any]) -> None:
        self._nvml, self._devices = nvml, devices
        self._last_mj = [self._read_mj(device) for device in devices]
        self._total_mj = 0

    def read(self) -> tuple[float, EnergySource]:
        """The sum over the devices; a counter that restarts with the driver is picked up from its new zero."""
        for index, device in enumerate(self._devices):
            now_mj = self._read_mj(device)
            before_mj, self._last_mj[index] = self._last_mj[index], now_mj
            self._total_mj += now_mj - before_mj if now_mj >= before_mj else now_mj
        return self._total_mj / 1000, _unless_zero(self._total_mj, "nvml_counter")

    def close(self) -> None:
        """Nothing runs."""

    def _read_mj(self, device: Any) -> int:
        return int(self._nvml.nvmlDeviceGetTotalEnergyConsumption(device))


class NvmlPower:
    """The GPUs' power, read every 200 ms and integrated by the trapezoid rule in a thread of its own."""

    def __init__(self, nvml: Any, devices: Sequence[Any], sample_s: float = SAMPLE_S) -> None:
        self._nvml, self._devices, self._sample_s = nvml, devices, sample_s
        self._total_j = 0.0
        self._last_w, self._last_at = self._power_w(), time.monotonic()
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._sample, name="nvml-power", daemon=True)
        self._thread.start()

    def read(self) -> tuple[float, EnergySource]:
        """Integrated up to now."""
        self._integrate()
        return self._total_j, _unless_zero(self._total_j, "nvml_power")

    def close(self) -> None:
        """End the sampling thread."""
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(self._sample_s):
            self._integrate()

    def _integrate(self) -> None:
        with self._lock, contextlib.suppress(self._nvml.NVMLError):  # a failed sample is bridged by the next one
            power_w, now = self._power_w(), time.monotonic()
            self._total_j += (power_w + self._last_w) / 2 * (now - self._last_at)
            self._last_w, self._last_at = power_w, now

    def _power_w(self) -> float:
        return float(sum(self._nvml.nvmlDeviceGetPowerUsage(device) for device in self._devices)) / 1000


class Rapl:
    """The host's package counters (µJ; each wraps at its max_energy_range_uj, at full load after a minute or more)."""

    def __init__(self, zones: Sequence[Path]) -> None:
        self._zones = [(zone / "energy_uj", _number(zone / "max_energy_range_uj")) for zone in zones]
        self._last_uj = [_number(counter) for counter, _ in self._zones]
        self._total_uj = 0

    @classmethod
    def find(cls, folder: Path) -> Rapl | None:
        """A meter over the readable package zones (`intel-rapl:N`, AMD too); None where there is none."""
        zones = [zone for zone in sorted(folder.glob("intel-rapl:*")) if zone.name.count(":") == 1]
        readable = [zone for zone in zones if os.access(zone / "energy_uj", os.R_OK)]
        return cls(readable) if readable else None

    def read(self) -> tuple[float, EnergySource]:
        """The sum over the packages. Must be called more often than a counter wraps."""
        for index, (counter, range_uj) in enumerate(self._zones):
            now_uj = _number(counter)
            before_uj, self._last_uj[index] = self._last_uj[index], now_uj
            self._total_uj += now_uj - before_uj if now_uj >= before_uj else now_uj + range_uj - before_uj
        return self._total_uj / 1e6, "rapl"

    def close(self) -> None:
        """Nothing runs."""


class Modelled:
    """`idle_w` at all times plus `work_j` for what was done: the model where nothing measures."""

    def __init__(self, idle_w: float, work_j: Callable[[], float] = lambda: 0.0) -> None:
        self._idle_w, self._work_j = idle_w, work_j
        self._began = time.monotonic()

    def read(self) -> tuple[float, EnergySource]:
        """Watts times seconds, and the work."""
        return self._idle_w * (time.monotonic() - self._began) + self._work_j(), "modelled"

    def close(self) -> None:
        """Nothing runs."""


class Unmeasured:
    """No figure at all, and marked so: better than an invented one."""

    def read(self) -> tuple[float, EnergySource]:
        """Nothing known."""
        return 0.0, "unmeasured"

    def close(self) -> None:
        """Nothing runs."""


class CpuSeconds:
    """CPU seconds used since it was made: by the given processes, or by the whole machine where none are known."""

    def __init__(self, pids: Callable[[], list[int]]) -> None:
        self._pids = pids
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
            self._total_s += max(0.0, machine_s)
        for pid in pids:
            with contextlib.suppress(psutil.Error):
                used = psutil.Process(pid).cpu_times()
                used_s = used.user + used.system
                self._total_s += max(0.0, used_s - self._seen.get(pid, 0.0))
                self._seen[pid] = used_s
        return self._total_s


def choose_meter(
    pool: Pool, settings: Worker, pids: Callable[[], list[int]] = list, *, here: bool = True, shared: bool = False
) -> Choice:
    """The best meter that this machine has for the pool's hardware.

    `pids`: the engine's processes, where they are ours. `here`: False for an engine on another machine, which no meter of this
    one sees. `shared`: the engine may have other users; where it counts tokens, only our share will be charged.
    """
    meter, why = _choose(pool, settings, pids, here)
    return Choice(meter, f"{why}; of this our share by the tokens that the engine counts" if shared else why)


def _choose(pool: Pool, settings: Worker, pids: Callable[[], list[int]], here: bool) -> Choice:
    if here and pool.gpu != "cpu" and (choice := _nvml(pool)):
        return choice
    if here and pool.gpu == "cpu" and (rapl := Rapl.find(Path(settings.rapl_dir))):
        return Choice(rapl, f"measured by the host's counters in {settings.rapl_dir}")
    if pool.power_w is not None:
        return Choice(Modelled(pool.power_w), f"modelled: {pool.power_w:g} W, as the pool declares")
    if gpu := GPU_TYPES.get(pool.gpu):
        # Without NVML nothing tells the utilisation; batch work keeps a GPU full, and more is safer than less.
        return Choice(Modelled(gpu.tdp_w * _gpus(pool)), f"modelled: {_gpus(pool)} x {gpu.tdp_w:g} W, the TDP of {gpu.name}")
    if not here:
        return Choice(Unmeasured(), "unmeasured: the engine runs on another machine, and the pool declares no power_w")
    cores = os.cpu_count() or 1
    used_s = CpuSeconds(pids)
    meter = Modelled(cores * VCPU_IDLE_W, lambda: used_s() * (VCPU_MAX_W - VCPU_IDLE_W))
    return Choice(meter, f"modelled: {cores} vCPUs, {VCPU_IDLE_W:g} W idle to {VCPU_MAX_W:g} W busy each, by CPU time used")


def _nvml(pool: Pool) -> Choice | None:
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        devices = _devices(pynvml, _gpus(pool))
    except pynvml.NVMLError:
        return None
    if not devices:
        return None
    with contextlib.suppress(pynvml.NVMLError):
        return Choice(NvmlCounter(pynvml, devices), f"measured by the energy counter of {len(devices)} GPU(s)")
    with contextlib.suppress(pynvml.NVMLError):
        return Choice(NvmlPower(pynvml, devices), f"measured: power of {len(devices)} GPU(s) every {SAMPLE_S * 1000:.0f} ms")
    return None


def _devices(nvml: Any, wanted: int) -> list[Any]:
    """The GPUs that the engine takes: the first `wanted` of CUDA_VISIBLE_DEVICES, or of all."""
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    if not named:
        return [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(min(wanted, nvml.nvmlDeviceGetCount()))]
    by_name = [
        nvml.nvmlDeviceGetHandleByIndex(int(name)) if name.isdigit() else nvml.nvmlDeviceGetHandleByUUID(name) for name in named
    ]
    return by_name[:wanted]


def _gpus(pool: Pool) -> int:
    """GPUs of one replica, by its parallelism flags."""
    count = 1
    words = [word for arg in pool.engine_args for word in arg.split("=", 1)]
    for flag, value in itertools.pairwise(words):
        if flag in _PARALLEL_FLAGS and value.isdigit():
            count *= int(value)
    return count


def _unless_zero(total: float, source: EnergySource) -> EnergySource:
    """A board that is on draws power: one that says zero (old, shared, partitioned) does not measure."""
    return source if total > 0 else "unmeasured"


def _machine_cpu_s() -> float:
    import psutil

    used = psutil.cpu_times()
    return float(sum(used) - used.idle - getattr(used, "iowait", 0.0) - getattr(used, "guest", 0.0))


def _number(path: Path) -> int:
    return int(path.read_text().strip())
