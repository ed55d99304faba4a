"""Energy meters: the real nvidia-ml-py over a stub library in C, RAPL over a made folder, and the model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from batchsched.executors.meter import CpuSeconds, Modelled, Rapl, choose_meter
from batchsched.executors.share import EnergyShare
from batchsched.fleet import GPU_TYPES, VCPU_IDLE_W, VCPU_MAX_W, Pool
from batchsched.settings import Worker
from batchsched.wire import EnergySource

# A board at 200 W. MODE: counter (Volta and newer), power (no counter: NOT_SUPPORTED is 3), zero (a board that measures nothing).
NVML = """
#include <stdlib.h>
#include <string.h>
#include <time.h>
static int is(const char *mode) { const char *m = getenv("MODE"); return m && !strcmp(m, mode); }
int nvmlInitWithFlags(unsigned f) { return 0; }
int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *n) { *n = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **h) { *h = (void *)(size_t)(i + 1); return i < 2 ? 0 : 2; }
int nvmlDeviceGetTotalEnergyConsumption(void *h, unsigned long long *mj) {
  struct timespec t;
  if (is("power")) return 3;
  clock_gettime(CLOCK_MONOTONIC, &t);
  *mj = is("zero") ? 0 : 200ULL * (t.tv_sec * 1000ULL + t.tv_nsec / 1000000);
  return 0;
}
int nvmlDeviceGetPowerUsage(void *h, unsigned *mw) { *mw = 200000; return 0; }
"""
READ = """
import json, sys, time
from batchsched.executors.meter import choose_meter
from batchsched.fleet import Pool
from batchsched.settings import Worker
pool = Pool(gpu="A100-40", engine_args=sys.argv[1:])
meter, why = choose_meter(pool, Worker())
began, (before_j, _) = time.monotonic(), meter.read()
time.sleep(0.5)
joules, source = meter.read()
print(json.dumps([(joules - before_j) / (time.monotonic() - began), source, why]))
meter.close()
"""


@pytest.fixture(scope="module")
def nvml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the stub library."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler here, so the NVML meters are NOT tested")
    folder = tmp_path_factory.mktemp("nvml")
    (folder / "nvml.c").write_text(NVML, "utf-8")
    subprocess.run([compiler, "-shared", "-fPIC", "-w", "-o", folder / "libnvidia-ml.so.1", folder / "nvml.c"], check=True)
    return folder


def watts(nvml: Path, mode: str, *engine_args: str, **env: str) -> tuple[float, str, str]:
    """Power as a meter sees it over half a second, in a process of its own (the library is found when it starts)."""
    environment = {**os.environ, "LD_LIBRARY_PATH": str(nvml), "MODE": mode, **env}
    answer = subprocess.run(
        [sys.executable, "-c", READ, *engine_args], env=environment, capture_output=True, text=True, check=True
    )
    power_w, source, why = json.loads(answer.stdout)
    return power_w, source, why


def test_the_gpus_own_counter_comes_first(nvml: Path) -> None:
    power_w, source, why = watts(nvml, "counter")
    assert source == "nvml_counter"
    assert power_w == pytest.approx(200, rel=0.05)
    assert "1 GPU" in why


def test_power_is_integrated_where_there_is_no_counter(nvml: Path) -> None:
    power_w, source, _ = watts(nvml, "power")
    assert source == "nvml_power"
    assert power_w == pytest.approx(200, rel=0.05)


def test_a_gpu_that_reports_zero_is_unmeasured_never_zero(nvml: Path) -> None:
    assert watts(nvml, "zero")[1] == "unmeasured"


def test_only_the_engines_gpus_are_counted(nvml: Path) -> None:
    assert watts(nvml, "counter", "--tensor-parallel-size=2")[0] == pytest.approx(400, rel=0.05)
    assert watts(nvml, "counter", "-tp", "2", CUDA_VISIBLE_DEVICES="1")[0] == pytest.approx(200, rel=0.05)


def rapl(folder: Path, name: str, uj: int, range_uj: int = 1_000_000) -> Path:
    zone = folder / name
    zone.mkdir()
    (zone / "energy_uj").write_text(f"{uj}\n")
    (zone / "max_energy_range_uj").write_text(f"{range_uj}\n")
    return zone / "energy_uj"


def test_rapl_adds_packages_up_over_wraps_and_leaves_their_parts_out(tmp_path: Path) -> None:
    first, second = rapl(tmp_path, "intel-rapl:0", 900_000), rapl(tmp_path, "intel-rapl:1", 0)
    core = rapl(tmp_path, "intel-rapl:0:0", 0)  # a part of package 0: counted there already
    meter = Rapl.find(tmp_path)
    assert meter is not None
    assert meter.read() == (0.0, "rapl")
    first.write_text("100000\n")
    second.write_text("50000\n")
    core.write_text("70000\n")
    joules, source = meter.read()
    assert joules == pytest.approx(0.25)
    assert source == "rapl"


def test_rapl_is_chosen_for_a_cpu_pool_where_the_host_has_it(tmp_path: Path) -> None:
    rapl(tmp_path, "intel-rapl:0", 0)
    assert isinstance(choose_meter(Pool(), Worker(rapl_dir=str(tmp_path))).meter, Rapl)
    assert isinstance(choose_meter(Pool(), Worker(rapl_dir=str(tmp_path / "absent"))).meter, Modelled)


@pytest.mark.parametrize(
    ("pool", "power_w"),
    [
        (Pool(gpu="T4", power_w=50.0), 50.0),
        (Pool(gpu="T4"), GPU_TYPES["T4"].tdp_w),
        (Pool(gpu="L4", engine_args=["-tp=2"]), 144.0),
    ],
)
def test_without_a_meter_watts_are_modelled_and_marked(pool: Pool, power_w: float, tmp_path: Path) -> None:
    meter, why = choose_meter(pool, Worker(rapl_dir=str(tmp_path)))
    began = time.monotonic()
    before_j = meter.read()[0]
    time.sleep(0.05)
    joules, source = meter.read()
    assert source == "modelled"
    assert "modelled" in why
    assert joules - before_j == pytest.approx(power_w * (time.monotonic() - began), rel=0.2)


def test_what_is_here_says_nothing_about_an_engine_elsewhere(tmp_path: Path) -> None:
    rapl(tmp_path, "intel-rapl:0", 0)
    settings = Worker(rapl_dir=str(tmp_path))
    assert choose_meter(Pool(), settings, here=False).meter.read() == (0.0, "unmeasured")
    assert isinstance(choose_meter(Pool(power_w=90.0), settings, here=False).meter, Modelled)


def test_cpu_time_of_the_engines_processes_decides_the_model_of_a_cpu(tmp_path: Path) -> None:
    meter, _ = choose_meter(Pool(), Worker(rapl_dir=str(tmp_path)), lambda: [os.getpid()])
    began, before_j, cpu_s = time.monotonic(), meter.read()[0], time.process_time()
    while time.process_time() < cpu_s + 0.3:
        pass
    joules = meter.read()[0] - before_j
    idle_j = (os.cpu_count() or 1) * VCPU_IDLE_W * (time.monotonic() - began)
    assert joules == pytest.approx(idle_j + 0.3 * (VCPU_MAX_W - VCPU_IDLE_W), rel=0.25)


def test_cpu_seconds_never_fall_when_processes_come_and_go() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        pids = [os.getpid(), child.pid]
        used = CpuSeconds(lambda: pids)
        before = used()
        child.communicate(b"\n")
    assert used() >= before


class SetMeter:
    """A meter that shows what it is told."""

    joules = 0.0
    source: EnergySource = "rapl"

    def read(self) -> tuple[float, EnergySource]:
        return self.joules, self.source

    def close(self) -> None:
        pass


def test_energy_is_split_by_tokens_and_none_is_lost_or_given_twice() -> None:
    meter = SetMeter()
    share = EnergyShare(meter, lambda: datetime.now(UTC))
    meter.joules = 100.0  # nobody's: before any chunk
    share.open("a")
    share.open("b")
    share.busy(True)
    share.add("a", 30)
    share.add("b", 10)
    meter.joules = 140.0
    first = share.take("a")
    meter.joules = 150.0  # no answers in this interval: halved
    share.close("a")
    other = share.take("b")
    assert first is not None
    assert other is not None
    assert (first.energy_j, other.energy_j) == (30.0, 15.0)
    assert first.energy_source == "rapl"
    assert min(first.busy_s, other.busy_s) > 0
    meter.joules = 170.0
    share.add("b", 1)
    last = share.take("b")
    assert last is not None
    assert last.energy_j == 20.0
    assert last.started_at == other.ended_at
    assert share.take("a") is None


def test_what_an_engine_of_many_users_takes_is_charged_by_tokens_late_but_once() -> None:
    meter = SetMeter()
    share = EnergyShare(meter, lambda: datetime.now(UTC))
    share.saw(1000)
    share.open("a")
    share.busy(True)

    def taken_j(joules: float, counted: float, tokens: int) -> float:
        meter.joules += joules
        share.add("a", tokens)
        share.saw(counted)
        taken = share.take("a")
        assert taken is not None
        return taken.energy_j

    assert taken_j(100.0, 1400, 0) == 0.0  # what we asked for is not ready: who used it is not known yet
    assert taken_j(100.0, 1800, 200) == pytest.approx(50.0)  # 200 of 800, of 200 J
    assert taken_j(100.0, 2200, 400) == pytest.approx(100.0)  # 600 of 1200, of 300 J, less what was charged
    assert taken_j(100.0, 100, 10_000) == pytest.approx(250.0)  # the engine began anew; never more than all
    share.close("a")
    share.saw(5100)  # others only
    share.open("b")
    meter.joules += 10.0
    share.add("b", 5)
    share.saw(5105)
    taken = share.take("b")
    assert taken is not None
    assert taken.energy_j == pytest.approx(10.0)


def test_a_failed_start_is_charged_with_the_next_one_and_forgotten_with_an_engine_that_nobody_used() -> None:
    meter = SetMeter()
    share = EnergyShare(meter, lambda: datetime.now(UTC))
    share.starting()
    meter.joules = 30.0  # and it failed
    share.starting()
    meter.joules = 50.0
    started = share.started(2.0)
    assert started is not None
    assert (started.energy_j, started.startup_s) == (50.0, 2.0)
    share.starting()
    meter.joules = 70.0
    share.stopped()
    assert share.started(2.0) is None
