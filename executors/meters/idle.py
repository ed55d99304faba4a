"""What a replica draws while it does nothing: measured before a model is loaded."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from batchsched.executors.meters.port import EnergyMeter, Reading
from batchsched.wire import EnergySource, IdlePower

IDLE_S = 3.0
_MEASURED: frozenset[EnergySource] = frozenset({"nvml_counter", "nvml_power", "rapl"})


async def idle_power(meter: EnergyMeter, sleep: Callable[[float], Awaitable[object]]) -> IdlePower | None:
    """Watts over some seconds; None where nothing measures, or where others use the GPU, who may not be idle."""
    before, began = meter.read(), time.monotonic()
    if not _tells(before):
        return None
    await sleep(IDLE_S)
    after, elapsed_s = meter.read(), time.monotonic() - began
    power_w = (after.total_j - before.total_j) / elapsed_s
    return IdlePower(power_w, after.source) if _tells(after) and power_w > 0 else None


def _tells(reading: Reading) -> bool:
    return reading.source in _MEASURED and not reading.mark
