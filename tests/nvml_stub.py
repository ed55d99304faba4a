"""A libnvidia-ml made here, in C, for the real nvidia-ml-py to call: boards whose counters and powers a test sets.

Loaded into this process under the real library's name, it is what pynvml finds; after `Stub.gone()` it answers as a machine
without a driver does, so that it troubles no other test.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BOARDS = 8
NOT_SUPPORTED, NO_PERMISSION, NOT_FOUND, GPU_IS_LOST = 3, 4, 6, 15
SOURCE = """
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#define BOARDS 8
typedef unsigned long long u64;
typedef struct { unsigned pid; u64 used; unsigned gi, ci; } proc;
typedef struct { unsigned a[6]; unsigned slices, ci; u64 mb; } attrs;
/* energy in mJ and power in mW; each with the error that it answers instead; slices: the first MIG device's size, of 7 */
struct board { u64 energy, energy_error, power, power_error, slices, processes, first_pid, watts,
  cap, cap_error, lock, lock_error, app_clock, throttle, uncorrected, ecc_error, temperature, lost; } boards[BOARDS];
u64 count = 0, calls = 0;
/* In a process that a test only starts, the environment says how many boards there are; what is set is told in a file. */
__attribute__((constructor)) static void begin(void) {
  int i;
  const char *n = getenv("NVML_STUB_BOARDS"), *clocks = getenv("NVML_STUB_NO_LOCK");
  if (!n) return;
  count = atoi(n);
  for (i = 0; i < BOARDS; i++) {
    boards[i].energy = 1000000; boards[i].power = 200000; boards[i].cap = 250000; boards[i].app_clock = 1200;
    boards[i].lock_error = clocks ? 3 : 0;
  }
}
static int tell(void *h, const char *what, unsigned value) {
  const char *name = getenv("NVML_STUB_LOG");
  FILE *file = name ? fopen(name, "a") : 0;
  if (file) { fprintf(file, "%zu %s %u\\n", (size_t)h & 0xff, what, value); fclose(file); }
  return 0;
}
static struct board *at(void *h) { return &boards[((size_t)h & 0xff) - 1]; }
static int lost(void *h) { return at(h)->lost ? 15 : 0; }
static int mig(void *h) { return (size_t)h >> 8; }
int nvmlInitWithFlags(unsigned f) { return count ? 0 : 9; }
int nvmlInit_v2(void) { return count ? 0 : 9; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *n) { *n = count; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **h) { *h = (void *)(size_t)(i + 1); return i < count ? 0 : 2; }
int nvmlDeviceGetHandleByUUID(const char *u, void **h) {
  if (!strncmp(u, "GPU-", 4)) { *h = (void *)(size_t)(atoi(u + 4) + 1); return 0; }
  if (!strncmp(u, "MIG-", 4)) { *h = (void *)(size_t)(0x100 | (atoi(u + 4) + 1)); return 0; }
  return 6;
}
int nvmlDeviceGetTotalEnergyConsumption(void *h, u64 *mj) {
  struct timespec t;
  calls++;
  if (mig(h)) return 3;
  clock_gettime(CLOCK_MONOTONIC, &t);
  *mj = at(h)->energy + at(h)->watts * (t.tv_sec * 1000ULL + t.tv_nsec / 1000000);
  return at(h)->energy_error;
}
int nvmlDeviceGetPowerUsage(void *h, unsigned *mw) {
  calls++;
  if (mig(h)) return 3;
  *mw = at(h)->power;
  return at(h)->power_error;
}
int nvmlDeviceIsMigDeviceHandle(void *h, unsigned *yes) { *yes = mig(h); return 0; }
int nvmlDeviceGetMigMode(void *h, unsigned *now, unsigned *next) { *now = *next = at(h)->slices > 0; return 0; }
int nvmlDeviceGetMigDeviceHandleByIndex(void *h, unsigned i, void **m) { *m = (void *)((size_t)h | 0x100); return i ? 6 : 0; }
int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(void *m, void **h) { *h = (void *)((size_t)m & 0xff); return 0; }
int nvmlDeviceGetMaxMigDeviceCount(void *h, unsigned *n) { *n = 7; return 0; }
int nvmlDeviceGetAttributes_v2(void *h, attrs *a) {
  memset(a, 0, sizeof *a);
  a->slices = at(h)->slices;
  return 0;
}
int nvmlDeviceGetUUID(void *h, char *u, unsigned n) { snprintf(u, n, "GPU-%d", (int)((size_t)h & 0xff) - 1); return lost(h); }
int nvmlDeviceGetName(void *h, char *u, unsigned n) { snprintf(u, n, "Stub V100"); return lost(h); }
int nvmlDeviceGetPowerManagementLimit(void *h, unsigned *mw) {
  *mw = at(h)->cap;
  return at(h)->cap_error == 4 ? 0 : at(h)->cap_error;
}
int nvmlDeviceGetPowerManagementDefaultLimit(void *h, unsigned *mw) { *mw = 250000; return at(h)->cap_error; }
int nvmlDeviceSetPowerManagementLimit(void *h, unsigned mw) {
  if (at(h)->cap_error) return at(h)->cap_error;
  at(h)->cap = mw;
  return tell(h, "cap", mw);
}
int nvmlDeviceSetGpuLockedClocks(void *h, unsigned low, unsigned high) {
  if (at(h)->lock_error) return at(h)->lock_error;
  at(h)->lock = high;
  return tell(h, "lock", high);
}
int nvmlDeviceResetGpuLockedClocks(void *h) {
  if (at(h)->lock_error) return at(h)->lock_error;
  at(h)->lock = 0;
  return tell(h, "unlock", 0);
}
int nvmlDeviceGetApplicationsClock(void *h, int kind, unsigned *mhz) { *mhz = kind == 2 ? 877 : at(h)->app_clock; return 0; }
int nvmlDeviceSetApplicationsClocks(void *h, unsigned memory, unsigned mhz) {
  at(h)->app_clock = mhz;
  return tell(h, "clock", mhz);
}
int nvmlDeviceGetCurrentClocksThrottleReasons(void *h, u64 *bits) { *bits = at(h)->throttle; return lost(h); }
int nvmlDeviceGetTotalEccErrors(void *h, int kind, int counter, u64 *n) {
  *n = kind ? at(h)->uncorrected : 7;
  return lost(h) ? 15 : at(h)->ecc_error;
}
int nvmlDeviceGetTemperature(void *h, int sensor, unsigned *c) { *c = at(h)->temperature; return lost(h); }
int nvmlDeviceGetClockInfo(void *h, int kind, unsigned *mhz) { *mhz = at(h)->lock ? at(h)->lock : 1380; return 0; }
int nvmlDeviceGetMaxClockInfo(void *h, int kind, unsigned *mhz) { *mhz = 1380; return 0; }
int nvmlDeviceGetComputeRunningProcesses_v3(void *h, unsigned *n, proc *p) {
  unsigned i, have = at(h)->processes;
  if (have && (!p || *n < have)) { *n = have; return 7; }
  for (i = 0; i < have; i++) p[i].pid = at(h)->first_pid + i;
  *n = have;
  return 0;
}
"""


class Board(ctypes.Structure):
    """What one board answers. `watts`: let the counter run by itself."""

    _fields_ = [
        (name, ctypes.c_ulonglong)
        for name in (
            *("energy", "energy_error", "power", "power_error", "slices", "processes", "first_pid", "watts"),
            *(
                "cap",
                "cap_error",
                "lock",
                "lock_error",
                "app_clock",
                "throttle",
                "uncorrected",
                "ecc_error",
                "temperature",
                "lost",
            ),
        )
    ]
    energy: int
    energy_error: int
    power: int
    power_error: int
    slices: int
    processes: int
    first_pid: int
    watts: int
    cap: int
    cap_error: int
    lock: int
    lock_error: int
    app_clock: int
    throttle: int
    uncorrected: int
    ecc_error: int
    temperature: int
    lost: int


def compiled(folder: Path) -> Path | None:
    """The library, made in `folder`; None where there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    library = folder / "libnvidia-ml.so.1"
    (folder / "nvml.c").write_text(SOURCE, "utf-8")
    name = "-Wl,-soname,libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-w", name, "-o", library, folder / "nvml.c"], check=True)
    return library


class Stub:
    """The library in this process."""

    def __init__(self, library: Path) -> None:
        self.folder = library.parent
        self._library = ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        self.boards: Any = (Board * BOARDS).in_dll(self._library, "boards")
        self._count = ctypes.c_ulonglong.in_dll(self._library, "count")
        self._calls = ctypes.c_ulonglong.in_dll(self._library, "calls")

    @property
    def calls(self) -> int:
        """Readings of counters and powers so far."""
        return self._calls.value

    def has(self, count: int) -> None:
        """This many boards, each as new: at 200 W, 1 kJ on its counter."""
        self._count.value = count
        for index in range(BOARDS):
            self.boards[index] = Board(energy=1_000_000, power=200_000, cap=250_000, app_clock=1200, temperature=60)

    def gone(self) -> None:
        """No driver."""
        self._count.value = 0


@functools.cache
def shared() -> Stub | None:
    """The one of this process: pynvml keeps the first library that it meets. None where there is no C compiler."""
    folder = Path(tempfile.mkdtemp(prefix="nvml-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    library = compiled(folder)
    return Stub(library) if library else None


@pytest.fixture(scope="session")
def library() -> Stub:
    made = shared()
    if made is None:
        pytest.skip("there is no C compiler here, so what asks NVML is NOT tested")
    return made


@pytest.fixture
def stub(library: Stub, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    """Two boards, in this process and in those that are started from it."""
    import pynvml

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(library.folder))
    monkeypatch.setenv("NVML_STUB_BOARDS", "2")
    library.has(2)
    pynvml.nvmlInit()
    yield library
    library.gone()
