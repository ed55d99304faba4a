"""`greenllm`: what GreenLLM (arXiv 2412.20322) charges a request, by its equations 1 to 3 as printed, with its own numbers.

Busy time over the life of the GPU alone; no host, no PUE, no idle time. Charges therefore add up to utilisation x total, not to
the total: what is left over is returned as unallocated, and this is the one way of charging that does not add up over a life.
"""

from __future__ import annotations

import msgspec

from batchsched.carbon.embodied import charge_g
from batchsched.carbon.models import greenllm_table1
from batchsched.carbon.operational import operational_g
from batchsched.catalogue import builtin

LIFETIME_YEARS = 7.0
INTENSITY_G_PER_KWH = 261.0
"""California's grid (CISO), the paper's default; 17 and 501 are its northern Sweden and MISO."""
PUE = 1.0
GRIDS_G_PER_KWH = {"North Central Sweden": 17.0, "CISO": 261.0, "MISO": 501.0}
"""Its section 7.5."""


class Charge(msgspec.Struct, frozen=True):
    """A request's grams, and what of a held GPU nobody is charged for."""

    embodied_g: float
    operational_g: float
    unallocated_embodied_g: float = 0.0
    unallocated_operational_g: float = 0.0

    @property
    def total_g(self) -> float:
        """Equation 3."""
        return self.embodied_g + self.operational_g


def greenllm(
    gpu: str,
    busy_s: float,
    energy_j: float,
    *,
    held_s: float | None = None,
    held_energy_j: float | None = None,
    intensity_g_per_kwh: float = INTENSITY_G_PER_KWH,
    lifetime_years: float = LIFETIME_YEARS,
) -> Charge | None:
    """What work costs that kept a GPU of Table 1 busy for `busy_s`, taking `energy_j`; None for one that the table does not have.

    `held_s`, `held_energy_j`: how long the GPU was held for it and all that it drew meanwhile, the busy part included.
    """
    found = builtin().gpus.get(gpu)
    kg = greenllm_table1(found, builtin()).kg if found else None
    if kg is None:
        return None
    idle_s = 0.0 if held_s is None else held_s - busy_s
    idle_j = 0.0 if held_energy_j is None else held_energy_j - energy_j
    return Charge(
        charge_g(kg.mid, busy_s, lifetime_years, "whole_life"),
        operational_g(energy_j, PUE, intensity_g_per_kwh),
        charge_g(kg.mid, idle_s, lifetime_years, "whole_life"),
        operational_g(idle_j, PUE, intensity_g_per_kwh),
    )
