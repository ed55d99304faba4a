"""`act`: ACT's equation with ACT's own defaults (Gupta et al., ISCA 2022): 97 % gas abatement, yield 0.875, a fab in Taiwan.

ACT knows neither HBM nor GDDR, and has no 12 or 16 nm row: its newest DDR4 and its 14 nm stand in, and each result says so.
"""

from __future__ import annotations

from batchsched.carbon.hardware import Estimate, Range, Term, lacking, unknown
from batchsched.carbon.recipe import FAB_G_PER_KWH, GPU_PACKAGES, LATER_FAB_G_PER_KWH, MATERIALS_G_PER_CM2, PACKAGE_G, YIELD
from batchsched.catalogue import Catalogue, Gpu

# Process node in nm: fab energy (kWh per cm2), gases at 95 and at 99 % abatement (g per cm2).
NODES: dict[int, tuple[float, float, float]] = {
    28: (0.900, 175, 100),
    20: (1.200, 190, 110),
    14: (1.200, 200, 125),
    10: (1.475, 240, 150),
    8: (1.520, 240, 150),
    7: (2.150, 350, 200),
    5: (2.750, 430, 225),
    3: (3.250, 470, 275),
}
IMEC_KG_PER_CM2 = {28: 0.91, 20: 0.91, 14: 0.97, 10: 1.09, 8: 1.09, 7: 1.44, 5: 1.54, 3: 1.75}
"""The repository's second table, of imec.netzero; it has no 8 nm, so 10 nm's stands in."""
DRAM_G_PER_GB = Range(48, 65, 600)
"""lpddr4, ddr4_10nm, ddr3_50nm: the range of ACT's rows."""
_STANDS_IN = {16: 14, 12: 14, 6: 7}


def kg_per_cm2(node_nm: int, fab_g_per_kwh: float = FAB_G_PER_KWH) -> float:
    """A square centimetre of die, at the mean of both abatements. Raises KeyError for a node that ACT does not have."""
    kwh, at95, at99 = NODES[node_nm]
    return (fab_g_per_kwh * kwh + (at95 + at99) / 2 + MATERIALS_G_PER_CM2) / YIELD / 1000


def act(gpu: Gpu, _catalogue: Catalogue) -> Estimate:
    """ACT's defaults for any GPU whose die, node and memory are known."""
    die, node, memory = gpu.die_mm2, gpu.node_nm, gpu.memory_gb
    if not (die and node and memory):
        return lacking("act", gpu.name, die_mm2=die, node_nm=node, memory_gb=memory)
    row = _STANDS_IN.get(int(node.value), int(node.value))
    if not node.value.is_integer() or row not in NODES:
        return unknown("act", f"no parameters for a node of {node.value:g} nm")

    def kg(per_cm2: float, dram_g: float, packages: int) -> float:
        return die.value / 100 * per_cm2 + (dram_g * memory.value + PACKAGE_G * packages) / 1000

    found = Range(
        kg(IMEC_KG_PER_CM2[row], DRAM_G_PER_GB.low, 1),
        kg(kg_per_cm2(row), DRAM_G_PER_GB.mid, GPU_PACKAGES),
        kg(kg_per_cm2(row, LATER_FAB_G_PER_KWH), DRAM_G_PER_GB.high, GPU_PACKAGES),
    )
    per_cm2_g = 1000 * kg_per_cm2(row)
    return Estimate(
        "act",
        found,
        "ACT's defaults; low: the imec.netzero die figures of its repository, LPDDR4, one package; high: Taiwan's grid of 2023 "
        "and ACT's oldest DRAM",
        f"{die.value / 100:g} cm2 x {per_cm2_g:.1f} g/cm2 + {DRAM_G_PER_GB.mid:g} g/GB x {memory.value:g} GB + "
        f"{GPU_PACKAGES} x {PACKAGE_G:g} g = {found.mid * 1000:.0f} g = {found.mid:.3f} kg",
        [
            Term.of("die", die, "mm2"),
            Term.of("process node", node, "nm"),
            Term.of("memory", memory, "GB"),
            Term("a cm2 of die", round(per_cm2_g, 1), "g/cm2", "act", f"{row} nm, 97 % abatement, {FAB_G_PER_KWH:g} g/kWh"),
            Term("memory factor", DRAM_G_PER_GB.mid, "g/GB", "act", "DDR4 of 10 nm stands in for HBM and GDDR"),
            Term("packages", GPU_PACKAGES, "", "sc23", "ACT names no count"),
            Term("a package", PACKAGE_G, "g", "act"),
        ],
    )
