"""An hour of one GPU under terms that somebody asks about: grams of running and of making, and where the two are equal."""

from __future__ import annotations

import msgspec

from batchsched.carbon.embodied import Policy, charge_g
from batchsched.carbon.hardware import Range
from batchsched.catalogue import Gpu
from batchsched.fleet import IDLE_SHARE_OF_TDP


class Terms(msgspec.Struct, frozen=True):
    """What holds."""

    intensity_g_per_kwh: float
    lifetime_years: float = 5.0
    pue: float = 1.2
    policy: Policy = "whole_life"
    utilisation: float = 1.0
    """Share of the time in which it is busy; the rest it idles, and is paid for all the same."""
    power_w: float | None = None
    """While busy; the GPU's limit where None."""
    age_years: float = 0.0
    second_life_years: float | None = None
    """Of a reused device, whose second life began at `age_years`."""


class Hour(msgspec.Struct, frozen=True):
    """An hour of a GPU that is held. None is unknown."""

    terms: Terms
    power_w: float
    """On average, idle time included."""
    operational_g: float
    embodied_g: Range | None = None
    crossover_g_per_kwh: Range | None = None
    """The intensity at which making the GPU weighs as much as running it; None also where it draws nothing."""

    @property
    def total_g(self) -> Range | None:
        """Running and making."""
        making, running = self.embodied_g, self.operational_g
        return Range(running + making.low, running + making.mid, running + making.high) if making else None


def powers_w(gpu: Gpu, power_w: float | None = None) -> tuple[float, float] | None:
    """Watts while busy and while idle; None where nobody says what the GPU draws.

    An idle figure that was not found is 12 % of the limit, as for priors.
    """
    limit_w = gpu.tdp_w.value if gpu.tdp_w else power_w
    if limit_w is None:
        return None
    busy_w = limit_w if power_w is None else power_w
    return busy_w, min(busy_w, gpu.idle_w.value if gpu.idle_w else IDLE_SHARE_OF_TDP * limit_w)


def hour(gpu: Gpu, kg: Range | None, terms: Terms) -> Hour | None:
    """An hour of `gpu`, which took `kg` to make; None where neither the terms nor the catalogue say what it draws."""
    watts = powers_w(gpu, terms.power_w)
    if watts is None:
        return None
    power_w = terms.utilisation * watts[0] + (1 - terms.utilisation) * watts[1]
    facility_kwh = power_w / 1000 * terms.pue
    operational = facility_kwh * terms.intensity_g_per_kwh
    if kg is None:
        return Hour(terms, power_w, operational)
    share = charge_g(
        1.0, 3600, terms.lifetime_years, terms.policy, age_years=terms.age_years, second_life_years=terms.second_life_years
    )
    embodied = kg.scaled(share)
    return Hour(terms, power_w, operational, embodied, embodied.scaled(1 / facility_kwh) if facility_kwh else None)
