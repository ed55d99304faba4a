"""`ecoserve`: the component model of GPU and host, as its authors coded it (repository S4AI-CornellTech/EServe, server_carb.py).

The paper's own equations and tables were not to be had: this is the calculator, in the two versions that were published of it.
The host's board, power supply, chassis and fans are called placeholders there.
"""

from __future__ import annotations

from typing import Literal

from batchsched.carbon.hardware import Estimate, Range, Term, lacking, unknown
from batchsched.catalogue import Catalogue, Figure, Gpu, Host

Version = Literal["current", "original"]

_OF_BOTH = {"GDDR6": 0.36, "GDDR5": 0.29, "DDR4": 0.29, "LPDDR5": 0.29, "HBM2": 0.28}
MEMORY_KG_PER_GB: dict[Version, dict[str, float]] = {
    "current": {**_OF_BOTH, "HBM2e": 0.24, "HBM3": 0.24, "HBM3e": 0.24},
    "original": {**_OF_BOTH, "HBM2e": 0.85, "HBM3": 0.85, "HBM3e": 0.85},
}
"""GDDR5 is from hpides/gpu-lifecycle-analysis, which otherwise has the same set."""
SSD_KG_PER_GB: dict[Version, float] = {"current": 0.010, "original": 0.10999}
PCB_KG_PER_CM2 = 0.048 / 12
PSU_KG, PSU_W = 28.75, 1100
"""Power delivery of an H100 HGX board, scaled by watts."""
CONNECTORS_KG = 7.4 / 8
MARGIN = 1.05

HOST_PARTS_KG = {
    "board": 118.0,
    "peripherals": 0.056 * 969.4,
    "processor": 27.0,
    "power supply": 30.016,
    "chassis": 34.304,
    "fans": 12.864,
}
"""What every host has, whatever its memory and disks."""


def cooling(memory_kind: str) -> tuple[float, float]:
    """A heat sink in kg, and the watts it is scaled from; boards with HBM3 have another one."""
    return (6.5, 700) if memory_kind in {"HBM3", "HBM3e"} else (23.63, 300)


def gpu_parts_kg(
    memory_gb: float, memory_kind: str, tdp_w: float, pcb_cm2: float, psu_w: float, soc_kg: float, version: Version = "current"
) -> dict[str, float]:
    """The parts of a GPU, without the margin. Raises KeyError for a kind of memory that the calculator does not know."""
    sink_kg, sink_w = cooling(memory_kind)
    return {
        "memory": MEMORY_KG_PER_GB[version][memory_kind] * memory_gb,
        "board": PCB_KG_PER_CM2 * pcb_cm2,
        "power delivery": psu_w / PSU_W * PSU_KG,
        "cooling": tdp_w / sink_w * sink_kg,
        "die": soc_kg,
        "connectors": CONNECTORS_KG,
    }


def gpu_kg(
    memory_gb: float, memory_kind: str, tdp_w: float, pcb_cm2: float, psu_w: float, soc_kg: float, version: Version = "current"
) -> float:
    """A GPU, with the margin of 5 %."""
    return MARGIN * sum(gpu_parts_kg(memory_gb, memory_kind, tdp_w, pcb_cm2, psu_w, soc_kg, version).values())


def host_parts_kg(dram_gb: float, ssd_gb: float, version: Version = "current") -> dict[str, float]:
    """The parts of a host with DDR4, without its GPUs."""
    memory = MEMORY_KG_PER_GB[version]["DDR4"] * dram_gb
    return {**HOST_PARTS_KG, "memory": memory, "disks": SSD_KG_PER_GB[version] * ssd_gb}


def host_kg(dram_gb: float, ssd_gb: float, version: Version = "current") -> float:
    """A host without its GPUs."""
    return sum(host_parts_kg(dram_gb, ssd_gb, version).values())


def ecoserve(gpu: Gpu, _catalogue: Catalogue) -> Estimate:
    """The calculator's GPU model, where its inputs are published."""
    memory, kind, tdp, board, psu, die = gpu.memory_gb, gpu.memory_kind, gpu.tdp_w, gpu.pcb_cm2, gpu.psu_w, gpu.soc_kg
    if not (memory and kind and tdp and board and psu and die):
        named = {"memory_gb": memory, "memory_kind": kind, "tdp_w": tdp, "pcb_cm2": board, "psu_w": psu, "soc_kg": die}
        return lacking("ecoserve", gpu.name, **named)
    if kind.value not in MEMORY_KG_PER_GB["current"]:
        return unknown("ecoserve", f"no factor for {kind.value} memory")

    def kg(version: Version, soc: Figure) -> float:
        return gpu_kg(memory.value, kind.value, tdp.value, board.value, psu.value, soc.value, version)

    both: tuple[Version, Version] = ("current", "original")
    every = [kg(version, soc) for version in both for soc in die.all]
    found = Range(min(every), kg("current", die), max(every))
    factor, (sink_kg, sink_w) = MEMORY_KG_PER_GB["current"][kind.value], cooling(kind.value)
    return Estimate(
        "ecoserve",
        found,
        "EcoServe authors' calculator; low and high: over both published versions of its memory factors and all its figures for "
        "the die",
        f"{MARGIN:g} x ({factor:g} kg/GB x {memory.value:g} GB + {PCB_KG_PER_CM2:g} kg/cm2 x {board.value:g} cm2 + "
        f"{psu.value:g} W / {PSU_W} W x {PSU_KG:g} kg + {tdp.value:g} W / {sink_w:g} W x {sink_kg:g} kg + {die.value:g} kg + "
        f"{CONNECTORS_KG:g} kg) = {found.mid:.2f} kg",
        [
            Term("memory factor", factor, "kg/GB", "eserve", f"{kind.value}, current version"),
            Term.of("memory", memory, "GB"),
            Term("board factor", PCB_KG_PER_CM2, "kg/cm2", "eserve"),
            Term.of("board", board, "cm2"),
            Term("power delivery", PSU_KG, "kg", "eserve", f"for {PSU_W} W"),
            Term.of("suggested power supply", psu, "W"),
            Term("heat sink", sink_kg, "kg", "eserve", f"for {sink_w:g} W"),
            Term.of("power limit", tdp, "W"),
            Term.of("die", die, "kg"),
            Term("connectors", CONNECTORS_KG, "kg", "eserve"),
            Term("margin", MARGIN, "", "eserve"),
        ],
    )


def ecoserve_host(host: Host, _catalogue: Catalogue) -> Estimate:
    """The calculator's host model, where memory and disks are known."""
    if not (host.dram_gb and host.ssd_gb):
        return lacking("ecoserve", host.name, dram_gb=host.dram_gb, ssd_gb=host.ssd_gb)
    sizes = (host.dram_gb.value, host.ssd_gb.value)
    now, before = host_kg(*sizes), host_kg(*sizes, "original")
    parts = host_parts_kg(*sizes)
    return Estimate(
        "ecoserve",
        Range(now, now, before),
        "EcoServe authors' calculator; high: with its former factor for disks",
        f"{' + '.join(f'{part:.1f} {name}' for name, part in parts.items())} = {now:.1f} kg",
        [
            *(Term(name, kg, "kg", "eserve") for name, kg in HOST_PARTS_KG.items()),
            Term("memory factor", MEMORY_KG_PER_GB["current"]["DDR4"], "kg/GB", "eserve"),
            Term.of("memory", host.dram_gb, "GB"),
            Term("disk factor", SSD_KG_PER_GB["current"], "kg/GB", "eserve", "bare NAND, current version"),
            Term.of("disks", host.ssd_gb, "GB"),
        ],
    )
