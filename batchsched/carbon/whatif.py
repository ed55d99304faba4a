"""An hour of one GPU under terms that somebody asks about: grams of running and of making, and where the two are equal."""

from __future__ import annotations

import msgspec

from batchsched.carbon.embodied import Policy, charge_g
from batchsched.carbon.hardware import Range
from batchsched.catalogue import Gpu
from batchsched.fleet import IDLE_SHARE_OF_TDP


class Terms(msgspec.Struct, frozen=True):
    """What holds. `power_w`: while busy, the GPU's limit where None; `idle_w`: likewise, as the catalogue has it."""

    intensity_g_per_kwh: float
    lifetime_years: float = 5.0
    pue: float = 1.2
    policy: Policy = "whole_life"
    utilisation: float = 1.0
    """Share of the time in which it is busy; the rest it idles, and is paid for all the same."""
    power_w: float | None = None
    idle_w: float | None = None
    age_years: float = 0.0
    second_life_years: float | None = None
    """Of a reused device, whose second life began at `age_years`."""


class Hour(msgspec.Struct, frozen=True):
    """An hour of a GPU that is held. None is unknown."""

    terms: Terms
    power_w: float
    """On average, idle time included."""
    operational_g: float
    embodied_g: Range | None
    total_g: Range | None
    embodied_share: Range | None
    crossover_g_per_kwh: Range | None
    """The intensity at which making the GPU weighs as much as running it."""


def hour(gpu: Gpu, kg: Range | None, terms: Terms) -> Hour | None:
    """An hour of `gpu`, which took `kg` to make; None where neither the terms nor the catalogue say what it draws."""
    busy_w = terms.power_w if terms.power_w is not None else gpu.tdp_w.value if gpu.tdp_w else None
    if busy_w is None:
        return None
    power_w = terms.utilisation * busy_w + (1 - terms.utilisation) * min(busy_w, _idle_w(gpu, busy_w, terms))
    facility_kwh = power_w / 1000 * terms.pue
    operational = facility_kwh * terms.intensity_g_per_kwh
    if kg is None:
        return Hour(terms, power_w, operational, None, None, None, None)
    embodied = kg.scaled(
        charge_g(
            1.0,
            3600,
            terms.lifetime_years,
            terms.policy,
            age_years=terms.age_years,
            second_life_years=terms.second_life_years,
        )
    )
    total = Range(operational + embodied.low, operational + embodied.mid, operational + embodied.high)
    shares = [e / t if t else 0.0 for e, t in zip(msgspec.structs.astuple(embodied), msgspec.structs.astuple(total), strict=True)]
    return Hour(terms, power_w, operational, embodied, total, Range(*shares), embodied.scaled(1 / facility_kwh))


def _idle_w(gpu: Gpu, busy_w: float, terms: Terms) -> float:
    if terms.idle_w is not None:
        return terms.idle_w
    return gpu.idle_w.value if gpu.idle_w else IDLE_SHARE_OF_TDP * busy_w
