"""From generation by fuel to carbon intensity: what is generated within the zone, imports left out.

Factors in g/kWh. Direct: the ones of DACF and CarbonCast (combustion at the power station; other fuels their mean guess).
Lifecycle: the medians of IPCC AR5 WG3 annex III where it has one (coal 820, gas 490, biomass 230, geothermal 38, hydro 24,
nuclear 12, wind 11, marine 17), else as CarbonCast has them (oil 650, solar 45, other 700). On hours of EIA-930 they give
CarbonCast's figures to the last digit, and so the same signal as the built-in climatology. Brown coal, oil shale and peat count
as coal.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

from batchsched.forecasts.port import Signal

STORAGE = "storage"
"""What a store gives back was generated before: it counts in no intensity."""

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
# A fuel of which no more than this share of the generation is expected may be missing.
NEGLIGIBLE_SHARE = 0.01
DAY = timedelta(days=1)
CONTEXT = 2 * DAY
"""How much is asked for at least, so that a missing fuel is seen to be missing."""

Mix = Mapping[datetime, Mapping[str, float]]
"""Of each slot, by its start: megawatts by the provider's code of a fuel, reported ones only."""


def intensities(mix: Mix, fuels: Mapping[str, str], signal: Signal) -> dict[datetime, float | None]:
    """Grams per kWh of each slot. Unknown where nothing was generated, or where a fuel is missing that was there a day away.

    `fuels`: the provider's codes as keys of FACTORS, or STORAGE; a code that is not there is "other".
    """
    column = 0 if signal.scope == "direct" else 1
    codes = {code for by_code in mix.values() for code in by_code if fuels.get(code) != STORAGE}
    found: dict[datetime, float | None] = {}
    for start, by_code in mix.items():
        generated = [(FACTORS[fuels.get(code, "other")][column], max(by_code[code], 0.0)) for code in codes & by_code.keys()]
        total = sum(mw for _, mw in generated)
        missing = sum(_a_day_away(mix, start, code) for code in codes - by_code.keys())
        whole = total > 0 and missing <= NEGLIGIBLE_SHARE * total
        found[start] = sum(factor * mw for factor, mw in generated) / total if whole else None
    return found


def by_fuel(mix: Mix, fuels: Mapping[str, str]) -> dict[datetime, dict[str, float]]:
    """Megawatts by fuel of each slot, stores too (negative while they fill); a fuel of which some is missing is left out."""
    codes = {code for by_code in mix.values() for code in by_code}
    found: dict[datetime, dict[str, float]] = {}
    for start, by_code in mix.items():
        most = NEGLIGIBLE_SHARE * sum(max(mw, 0.0) for mw in by_code.values())
        missing = {fuels.get(code, "other") for code in codes - by_code.keys() if _a_day_away(mix, start, code) > most}
        sums: dict[str, float] = {}
        for code, mw in by_code.items():
            fuel = fuels.get(code, "other")
            if fuel not in missing:
                sums[fuel] = sums.get(fuel, 0.0) + (mw if fuel == STORAGE else max(mw, 0.0))
        found[start] = sums
    return found


def _a_day_away(mix: Mix, start: datetime, code: str) -> float:
    """Megawatts of a fuel at the same time a day before or after: some leave out the sun at night."""
    return max(mix.get(start + days * DAY, {}).get(code, 0.0) for days in (-1, 1))
