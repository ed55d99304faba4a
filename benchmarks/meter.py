"""What metering costs: the CPU time of each meter as a share of one core. The last line is JSON.

`python -m benchmarks.meter [--seconds 20]`. Each meter runs as in a worker: it samples by itself, and is read four times a
second, as often as results are sent. What the same loop takes without a meter is taken off. GPUs: this machine's own where it has
some, else eight boards of a stand-in for libnvidia-ml, which answers at once, so that only our side is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pynvml

from batchsched.executors.meters.choice import choose_meter
from batchsched.executors.meters.modelled import Unmeasured
from batchsched.executors.meters.nvml import Device, Gpus
from batchsched.executors.meters.port import EnergyMeter
from batchsched.executors.meters.rapl import Rapl
from batchsched.fleet import Pool
from batchsched.settings import Worker
from tests.nvml_stub import BOARDS, NOT_SUPPORTED, Stub, compiled

READS_PER_S = 4
GOAL_PCT = 0.5


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each meter")
    seconds = parser.parse_args().seconds
    print(f"{os.cpu_count()} CPUs, {platform.system()} {platform.release()}, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory(prefix="bench-meter-") as folder, _children(3) as pids:
        meters = dict(_meters(Path(folder), pids))
        bare = core_pct(Unmeasured, seconds)
        print(f"{'meter':<34}{'% of a core':>12}")
        figures: dict[str, float] = {}
        for name, make in meters.items():
            figures[name] = max(0.0, core_pct(make, seconds) - bare)
            print(f"{name:<34}{figures[name]:>12.3f}", flush=True)
    print(f"The loop alone took {bare:.3f} %. Goal: below {GOAL_PCT} %.")
    print(json.dumps({f"{name}_core_pct": round(value, 4) for name, value in figures.items()}))
    return 0


def core_pct(make: Callable[[], EnergyMeter], seconds: float) -> float:
    """CPU time of this process, all its threads, while a meter of that kind runs, in per cent of one core."""
    meter = make()
    meter.read()
    began, used_s = time.monotonic(), time.process_time()
    while time.monotonic() - began < seconds:
        time.sleep(1 / READS_PER_S)
        meter.read()
    share = (time.process_time() - used_s) / (time.monotonic() - began)
    meter.close()
    return 100 * share


def _meters(folder: Path, pids: list[int]) -> Iterator[tuple[str, Callable[[], EnergyMeter]]]:
    yield from _gpus(folder, pids)
    yield "rapl", lambda: _rapl(folder)
    yield "modelled", lambda: choose_meter(Pool(), Worker(rapl_dir=str(folder / "none")), lambda: pids).meter


def _gpus(folder: Path, pids: list[int]) -> Iterator[tuple[str, Callable[[], EnergyMeter]]]:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield from _stub_gpus(folder, pids)
        return
    devices = [Device(pynvml.nvmlDeviceGetHandleByIndex(index)) for index in range(pynvml.nvmlDeviceGetCount())]
    print(f"GPUs: {len(devices)} of this machine.")
    yield "nvml_counter", lambda: Gpus(pynvml, devices, pids=lambda: pids)
    yield "nvml_power", lambda: Gpus(_WithoutCounters(pynvml), devices, pids=lambda: pids)


class _WithoutCounters:
    """NVML as an older board's."""

    def __init__(self, nvml: object) -> None:
        self._nvml = nvml

    def __getattr__(self, name: str) -> object:
        if name == "nvmlDeviceGetTotalEnergyConsumption":
            return self._refuse
        return getattr(self._nvml, name)

    def _refuse(self, _device: object) -> int:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)


def _stub_gpus(folder: Path, pids: list[int]) -> Iterator[tuple[str, Callable[[], EnergyMeter]]]:
    library = compiled(folder)
    if library is None:
        print("GPUs: none here, and no C compiler for a stand-in; they are NOT measured.")
        return
    stub = Stub(library)
    stub.has(BOARDS)
    pynvml.nvmlInit()
    devices = [Device(pynvml.nvmlDeviceGetHandleByIndex(index)) for index in range(BOARDS)]
    print(f"GPUs: {BOARDS} boards of a stand-in that answers at once.")

    def make(error: int) -> Gpus:
        for board in stub.boards:
            board.energy_error, board.watts = error, 200
        return Gpus(pynvml, devices, pids=lambda: pids)

    yield "nvml_counter", lambda: make(0)
    yield "nvml_power", lambda: make(NOT_SUPPORTED)


def _rapl(folder: Path) -> EnergyMeter:
    """The host's own counters, or files that look like those of two processors and their memory."""
    if real := Rapl.find(Path(Worker().rapl_dir)):
        return real
    made = folder / "powercap"
    for name, domain in (("0", "package-0"), ("0:0", "dram"), ("1", "package-1"), ("1:0", "dram")):
        zone = made / f"intel-rapl:{name}"
        zone.mkdir(parents=True, exist_ok=True)
        for file, text in (("name", domain), ("energy_uj", "1"), ("max_energy_range_uj", "262143328850")):
            (zone / file).write_text(text)
    found = Rapl.find(made)
    assert found is not None
    return found


@contextmanager
def _children(count: int) -> Iterator[list[int]]:
    """Processes that stand for an engine's; all they do is wait."""
    children = [subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) for _ in range(count)]
    try:
        yield [child.pid for child in children]
    finally:
        for child in children:
            child.communicate(b"\n")


if __name__ == "__main__":
    sys.exit(main())
