"""Did a mode of serving save carbon? GreenLLM's equations 4 to 6 (arXiv 2412.20322, section 5) on what was measured of it.

greenllm.py has the equations as they hold exactly; here they are evaluated for one piece of work that was run both ways.
"""

from __future__ import annotations

import msgspec

from batchsched.carbon.greenllm import Split
from batchsched.carbon.hardware import Range
from batchsched.carbon.models import Hardware
from batchsched.units import kwh


class Verdict(msgspec.Struct, frozen=True):
    """What the equations say of one split at one grid. `modelled`: no meter saw all of the energy.

    `energy_saved_j`: equation 4, NA - (N'A + NB), of the piece of work; above 0 is what it asks for. `share`: equation 5, grams
    of the mode over those of the GPU alone. `old_term`: the last term of equation 6 as it is printed, (tB B / TB) over
    (NA alpha + t'A A / TA): what the old GPU's making weighs.
    """

    rho: float
    energy_saved_j: float
    share: float
    old_term: float
    g_per_kwh: float
    modelled: bool
    saved: bool
    sentence: str


def judge(split: Split, g_per_kwh: float, *, modelled: bool = False) -> Verdict:
    """`g_per_kwh`: the grid's intensity times the PUE, 0 or above."""
    energy_saved_j = split.alone.energy_j - split.new.energy_j - split.old.energy_j
    share = split.split_g(g_per_kwh) / split.alone_g(g_per_kwh)
    below = kwh(split.alone.energy_j) * g_per_kwh + split.new_gpu.charge_g(split.new.time_s)
    old_term = split.old_gpu.charge_g(split.old.time_s) / below
    return Verdict(
        rho=split.rho,
        energy_saved_j=energy_saved_j,
        share=share,
        old_term=old_term,
        g_per_kwh=g_per_kwh,
        modelled=modelled,
        saved=share < 1.0,
        sentence=_sentence(split.rho, share, g_per_kwh, modelled=modelled),
    )


def making(gpu: str) -> Range | None:
    """What is charged for making what computes, kgCO2e: the GPU alone, as in the paper; without one, the machine's share."""
    hardware = Hardware()
    return (hardware.host_share() if gpu == "cpu" else hardware.gpu(gpu)).kg


def _sentence(rho: float, share: float, g_per_kwh: float, *, modelled: bool) -> str:
    """The verdict in words."""
    energy = f"takes {1 - rho:.0%} less energy" if rho < 1 else f"takes {rho - 1:.0%} more energy"
    grams = f"saves {1 - share:.1%} of the grams" if share < 1 else f"saves nothing: {share - 1:.1%} more grams"
    source = ", by modelled energy" if modelled else ""
    return f"{energy} and {grams} at {g_per_kwh:.0f} g/kWh, making included{source}"
