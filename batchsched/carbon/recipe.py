"""The embodied carbon of a GPU from its die, its memory and its packages: the ACT equation with the SC'23 parameters.

Equation: Gupta et al., ACT (ISCA 2022). Parameters: the spreadsheet of Li et al., "Toward Sustainable HPC" (SC 2023): fab in
Taiwan, 95 % gas abatement, yield 0.875; 12, 16 and 6 nm interpolated as there; the other nodes are ACT's own.
"""

from __future__ import annotations

FAB_G_PER_KWH = 583.0
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


def embodied_kg(die_mm2: float, node_nm: int, memory_gb: float, packages: int = GPU_PACKAGES) -> float:
    """kgCO2e of die, memory and packages: no board, cooling, power supply or transport, so on the low side."""
    fab_kwh_per_cm2, gases_g_per_cm2 = NODES[node_nm]
    die_g = die_mm2 / 100 * (FAB_G_PER_KWH * fab_kwh_per_cm2 + gases_g_per_cm2 + MATERIALS_G_PER_CM2) / YIELD
    return (die_g + MEMORY_G_PER_GB * memory_gb + PACKAGE_G * packages) / 1000
