"""The best meter that this machine has for a pool's hardware: of its GPUs, and of the host beside them.

The host's part of a replica is its processors' and memory's energy by the replica's share of the machine's GPUs. What board
controllers know (IPMI, Redfish) is not asked for: without RAPL the processors are modelled; fans, disks and power supplies are in
neither figure.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from batchsched.catalogue import builtin
from batchsched.executors.meters import nvml
from batchsched.executors.meters.increment import Increment
from batchsched.executors.meters.modelled import BusySeconds, CpuSeconds, Modelled, Unmeasured
from batchsched.executors.meters.port import Choice, EnergyMeter, Reading
from batchsched.executors.meters.rapl import Rapl
from batchsched.fleet import GPU_TYPES, IDLE_SHARE_OF_TDP, VCPU_IDLE_W, VCPU_MAX_W, Pool, ServedModel, replica_gpus
from batchsched.settings import Worker
from batchsched.wire import EnergyMark

_MODEL = f"{VCPU_IDLE_W:g} W idle to {VCPU_MAX_W:g} W busy for each vCPU, by CPU time used"
_MARKED: dict[EnergyMark, str] = {
    "mig": "; the boards are cut up (MIG), and only whole boards can be measured: our part by its size",
    "shared": "; the boards compute for others too, and all that they draw is counted",
}


class WithHost:
    """GPUs, and that share of what the host's meter says."""

    def __init__(self, gpus: EnergyMeter, host: EnergyMeter, share: float = 1.0) -> None:
        self._gpus, self._host, self._share = gpus, host, share

    def read(self) -> Reading:
        """Both, each with its source."""
        host = self._host.read()
        return self._gpus.read()._replace(host_j=host.energy_j * self._share, host_source=host.source)

    def close(self) -> None:
        """Close both."""
        self._gpus.close()
        self._host.close()


def choose_meter(
    pool: Pool,
    settings: Worker,
    pids: Callable[[], list[int]] = list,
    *,
    busy: Callable[[], bool] = lambda: True,
    models: Iterable[ServedModel] = (),
    here: bool = True,
    shared: bool = False,
) -> Choice:
    """The best meter that this machine has for the pool's hardware.

    `models`: those that the engine may come to serve; a replica is as many GPUs as the largest takes. `pids`: the engine's
    processes, where they are ours. `busy`: are requests in flight? What is modelled draws idle watts while none are, and must
    be read whenever this is about to change. `here`: False for an engine on another machine, which no meter of this one sees.
    `shared`: the engine may have other users; where it counts tokens, only our share will be charged.
    """
    pool = msgspec.structs.replace(pool, engine_args=["-tp", str(replica_gpus(pool, models))])
    if here and pool.gpu == "cpu" and pool.cpu is not None and pool.cpu.shared and not shared:
        return _added(settings, pids)  # of an engine that is not ours nobody knows the processes
    meter, why = _choose(pool, settings, pids, busy, here)
    return Choice(meter, f"{why}; of this our share by the tokens that the engine counts" if shared else why)


def _choose(pool: Pool, settings: Worker, pids: Callable[[], list[int]], busy: Callable[[], bool], here: bool) -> Choice:
    if here and pool.gpu != "cpu" and (found := nvml.find(pool.gpus)):
        return _measured(pool, settings, pids, busy, found)
    if here and pool.gpu == "cpu" and (rapl := Rapl.find(Path(settings.rapl_dir))):
        return Choice(rapl, f"measured by {_counters(settings, rapl)}")
    return _modelled(pool, settings, pids, busy, here)


def _modelled(pool: Pool, settings: Worker, pids: Callable[[], list[int]], busy: Callable[[], bool], here: bool) -> Choice:
    if pool.power_w is not None:
        return _declared(pool, pool.power_w, busy)
    if gpu := GPU_TYPES.get(pool.gpu):
        # Without NVML nothing tells the utilisation; batch work keeps a GPU full, and more is safer than less.
        most_w = min(gpu.tdp_w, pool.power_cap_w or gpu.tdp_w)
        what = f"the TDP of {gpu.name}," if most_w == gpu.tdp_w else "as they are capped,"
        choice = _by_use(pool, most_w * pool.gpus, f"{pool.gpus} x {most_w:g} W, {what}", busy)
        return _with_host(choice, settings, pids, 1.0) if here else choice
    if not here:
        return Choice(Unmeasured(), "unmeasured: the engine runs on another machine, and the pool declares no power_w")
    if pool.gpu == "cpu":
        return Choice(_cpu_model(pids), f"modelled: {_MODEL}")
    return _with_host(Choice(Unmeasured(), f"unmeasured: nothing is known of the GPU type {pool.gpu}"), settings, pids, 1.0)


def _declared(pool: Pool, power_w: float, busy: Callable[[], bool]) -> Choice:
    return _by_use(pool, power_w, f"{power_w:g} W, as the pool declares,", busy)


def _by_use(pool: Pool, busy_w: float, said: str, busy: Callable[[], bool]) -> Choice:
    """Busy watts while requests are in flight, idle watts while none are."""
    idle_w, source = _idle(pool, busy_w)
    busy_s = BusySeconds(busy)
    meter = Modelled(idle_w, lambda: busy_s() * (busy_w - idle_w))
    return Choice(meter, f"modelled: {said} while requests are in flight, else {idle_w:g} W: {source}")


def _idle(pool: Pool, busy_w: float) -> tuple[float, str]:
    """Watts of a replica of which `busy_w` are known, while it does nothing, and who says so."""
    if pool.gpu == "cpu":
        return busy_w * VCPU_IDLE_W / VCPU_MAX_W, f"the share that an idle vCPU takes of a busy one's {VCPU_MAX_W:g} W"
    share = f"{IDLE_SHARE_OF_TDP:.0%}, the median of the catalogue's GPUs"
    if (gpu := GPU_TYPES.get(pool.gpu)) is None:
        return busy_w * IDLE_SHARE_OF_TDP, share
    catalogue = builtin()
    known = catalogue.gpus[gpu.name].idle_w
    source = f"{pool.gpus} x {gpu.idle_w:g} W, " + (catalogue.reference(known.source) if known else f"{share}, of the TDP")
    return min(busy_w, gpu.idle_w * pool.gpus), source


def _measured(pool: Pool, settings: Worker, pids: Callable[[], list[int]], busy: Callable[[], bool], found: nvml.Found) -> Choice:
    gpus = nvml.Gpus(found.nvml, found.devices, found.mark, pids)
    reading = gpus.read()
    count = f"{len(found.devices)} GPU(s)"
    if reading.source == "unmeasured" and pool.power_w is not None:
        gpus.close()
        return _declared(pool, pool.power_w, busy)
    why = {
        "nvml_counter": f"measured by the energy counter of {count}",
        "nvml_power": f"measured: power of {count} every {nvml.SAMPLE_S * 1000:.0f} ms",
    }.get(reading.source, f"unmeasured: {count} report(s) no power, and the pool declares no power_w")
    return _with_host(Choice(gpus, why + _MARKED.get(reading.mark, "")), settings, pids, found.part)


def _with_host(gpus: Choice, settings: Worker, pids: Callable[[], list[int]], part: float) -> Choice:
    """`part`: of the machine's GPUs, and so of the machine."""
    if rapl := Rapl.find(Path(settings.rapl_dir)):
        return Choice(WithHost(gpus.meter, rapl, part), f"{gpus.why}; {part:.0%} of the host by {_counters(settings, rapl)}")
    return Choice(WithHost(gpus.meter, _cpu_model(pids, part)), f"{gpus.why}; {part:.0%} of the host modelled: {_MODEL}")


def _added(settings: Worker, pids: Callable[[], list[int]]) -> Choice:
    """Of a host that is on for others: what the engine adds."""
    ours_s = CpuSeconds(pids, 0.0)
    if rapl := Rapl.find(Path(settings.rapl_dir)):
        meter = Increment(rapl, ours_s, CpuSeconds(list))
        return Choice(meter, f"measured by {_counters(settings, rapl)}, above what the host draws without the engine")
    added_w = VCPU_MAX_W - VCPU_IDLE_W
    why = f"modelled: {added_w:.2f} W for each vCPU of CPU time used, the host's idle watts left to what it is on for"
    return Choice(Modelled(0.0, lambda: ours_s() * added_w), why)


def _counters(settings: Worker, rapl: Rapl) -> str:
    return f"its counters in {settings.rapl_dir} ({' and '.join(rapl.by_domain_j)})"


def _cpu_model(pids: Callable[[], list[int]], part: float = 1.0) -> Modelled:
    """Idle watts of that part of the machine, and what the engine's own CPU time takes beyond them."""
    used_s = CpuSeconds(pids, part)
    return Modelled((os.cpu_count() or 1) * VCPU_IDLE_W * part, lambda: used_s() * (VCPU_MAX_W - VCPU_IDLE_W))
