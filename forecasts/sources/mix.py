"""From generation by fuel to carbon intensity: what is generated within the zone, imports left out.

Factors in g/kWh. Direct: the ones of DACF and CarbonCast (combustion at the power station; other fuels their mean guess).
Lifecycle: the medians of IPCC AR5 WG3 annex III where it has one (coal 820, gas 490, biomass 230, geothermal 38, hydro 24,
nuclear 12, wind 11, marine 17), else as CarbonCast has them (oil 650, solar 45, other 700). On hours of EIA-930 they give
CarbonCast's figures to the last digit, and so the same signal as the built-in climatology. Brown coal, oil shale and peat count
as coal.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from datetime import datetime
from typing import Final

from batchsched.forecasts.port import Signal

STORAGE = "storage"
"""What a store gives back was generated before."""

FACTORS: Final[Mapping[str, tuple[float, float]]] = {  # fuel: direct, lifecycle
    "coal": (760.0, 820.0),
    "gas": (370.0, 490.0),
    "oil": (406.0, 650.0),
    "biomass": (0.0, 230.0),
    "geothermal": (0.0, 38.0),
    "hydro": (0.0, 24.0),
    "marine": (0.0, 17.0),
    "nuclear": (0.0, 12.0),
    "solar": (0.0, 45.0),
    "wind": (0.0, 11.0),
    "other": (575.0, 700.0),
}
# A fuel below this share of the generation may be missing without making the slot unknown.
NEGLIGIBLE_SHARE = 0.01

Mix = Mapping[datetime, Mapping[str, float]]
"""Of each slot, by its start: megawatts by the provider's code of a fuel, reported ones only."""


def intensities(mix: Mix, fuels: Mapping[str, str], signal: Signal) -> dict[datetime, float | None]:
    """Grams per kWh of each slot. Unknown where nothing was generated, or a fuel is missing that most slots report.

    `fuels`: the provider's codes as keys of FACTORS, or STORAGE; a code that is not there is "other".
    """
    column = 0 if signal.scope == "direct" else 1
    needed = _needed(mix)
    found: dict[datetime, float | None] = {}
    for start, by_code in mix.items():
        produced = [(fuels.get(code, "other"), max(mw, 0.0)) for code, mw in by_code.items()]
        generated = [(FACTORS[fuel][column], mw) for fuel, mw in produced if fuel != STORAGE]
        total = sum(mw for _, mw in generated)
        whole = total > 0 and needed <= by_code.keys()
        found[start] = sum(factor * mw for factor, mw in generated) / total if whole else None
    return found


def _needed(mix: Mix) -> set[str]:
    slots, mw_of = Counter[str](), defaultdict[str, float](float)
    for by_code in mix.values():
        for code, mw in by_code.items():
            slots[code] += 1
            mw_of[code] += max(mw, 0.0)
    total = sum(mw_of.values())
    return {code for code in slots if slots[code] > len(mix) / 2 and mw_of[code] > NEGLIGIBLE_SHARE * total}
