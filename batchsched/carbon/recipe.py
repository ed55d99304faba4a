"""`sc23`: the embodied carbon of a GPU from its die, its memory and its packages: the ACT equation with the SC'23 parameters.

Equation: Gupta et al., ACT (ISCA 2022). Parameters: the spreadsheet of Li et al., "Toward Sustainable HPC" (SC 2023): fab in
Taiwan, 95 % gas abatement, yield 0.875; 12, 16 and 6 nm interpolated as there; the other nodes are ACT's own.
"""

from __future__ import annotations

from batchsched.carbon.hardware import Estimate, Range, Term, lacking, unknown
from batchsched.catalogue import Catalogue, Gpu

FAB_G_PER_KWH = 583.0
LATER_FAB_G_PER_KWH = 642.0
"""Taiwan's grid in ACT's table of 2023."""
MATERIALS_G_PER_CM2 = 500.0
YIELD = 0.875
MEMORY_G_PER_GB = 65.0
PACKAGE_G = 150.0
GPU_PACKAGES = 26

# Process node in nm: fab energy (kWh per cm2), gases at 95 % abatement (g per cm2).
NODES: dict[int, tuple[float, float]] = {
    28: (0.900, 175),
    20: (1.200, 190),
    16: (1.200, 200),
    14: (1.200, 200),
    12: (1.3375, 220),
    10: (1.475, 240),
    8: (1.520, 240),
    7: (2.150, 350),
    6: (2.450, 390),
    5: (2.750, 430),
    3: (3.250, 470),
}


def embodied_kg(
    die_mm2: float, node_nm: int, memory_gb: float, packages: int = GPU_PACKAGES, fab_g_per_kwh: float = FAB_G_PER_KWH
) -> float:
    """kgCO2e of die, memory and packages: no board, cooling, power supply or transport, so on the low side."""
    fab_kwh_per_cm2, gases_g_per_cm2 = NODES[node_nm]
    die_g = die_mm2 / 100 * (fab_g_per_kwh * fab_kwh_per_cm2 + gases_g_per_cm2 + MATERIALS_G_PER_CM2) / YIELD
    return (die_g + MEMORY_G_PER_GB * memory_gb + PACKAGE_G * packages) / 1000


def sc23(gpu: Gpu, _catalogue: Catalogue) -> Estimate:
    """The spreadsheet's recipe for any GPU whose die, node and memory are known."""
    die, node, memory = gpu.die_mm2, gpu.node_nm, gpu.memory_gb
    if not (die and node and memory):
        return lacking("sc23", gpu.name, die_mm2=die, node_nm=node, memory_gb=memory)
    nm = int(node.value)
    if nm != node.value or nm not in NODES:
        return unknown("sc23", f"no parameters for a node of {node.value:g} nm")
    args = (die.value, nm, memory.value)
    kg = Range(embodied_kg(*args, 0), embodied_kg(*args), embodied_kg(*args, fab_g_per_kwh=LATER_FAB_G_PER_KWH))
    kwh, gases = NODES[nm]
    return Estimate(
        "sc23",
        kg,
        "the recipe of Toward Sustainable HPC (SC 2023): die, memory and packages only; low: without packages; high: with "
        "Taiwan's grid as in ACT's later table",
        f"{die.value / 100:g} cm2 x ({FAB_G_PER_KWH:g} g/kWh x {kwh:g} kWh/cm2 + {gases:g} g/cm2 + {MATERIALS_G_PER_CM2:g} "
        f"g/cm2) / {YIELD:g} + {MEMORY_G_PER_GB:g} g/GB x {memory.value:g} GB + {GPU_PACKAGES} x {PACKAGE_G:g} g "
        f"= {kg.mid * 1000:.0f} g = {kg.mid:.3f} kg",
        [
            Term.of("die", die, "mm2"),
            Term.of("process node", node, "nm"),
            Term.of("memory", memory, "GB"),
            Term("fab's grid", FAB_G_PER_KWH, "g/kWh", "act", "Taiwan"),
            Term("fab's energy", kwh, "kWh/cm2", "sc23" if nm in {6, 12, 16} else "act"),
            Term("gases, 95 % abated", gases, "g/cm2", "sc23" if nm in {6, 12, 16} else "act"),
            Term("materials", MATERIALS_G_PER_CM2, "g/cm2", "act"),
            Term("yield", YIELD, "", "act"),
            Term("memory factor", MEMORY_G_PER_GB, "g/GB", "sc23"),
            Term("packages", GPU_PACKAGES, "", "sc23"),
            Term("a package", PACKAGE_G, "g", "act"),
        ],
    )
