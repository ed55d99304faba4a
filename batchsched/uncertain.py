"""How sure a look at the fleet is: of its capacity, its energy, and what it took to make it. Scenarios of the grid come from the
forecasts (forecasts/futures.py), the errors of speeds and lengths with the profiles."""

from __future__ import annotations

import math
from collections.abc import Mapping

from batchsched.carbon.hardware import Range
from batchsched.planner.problem import Supply
from batchsched.profiles.profile import Profile
from batchsched.settings import Planner

METERED_SIGMA = 0.05
"""Of joules by meters, or by watts that the operator declared."""
MODELLED_SIGMA = 0.25
"""Of joules by the model of a GPU."""
_WIDTH_90 = 2 * 1.645


def supply(limits: Planner, seen: tuple[int, float]) -> Supply:
    """`seen`: how many workers of the pool fell silent, and in how many hours. The settings' rate counts like one failure."""
    declared = limits.failures_per_replica_h
    if declared <= 0:
        return Supply()
    failures, hours = seen
    return Supply(failures_per_replica_h=(1 + failures) / (1 / declared + max(0.0, hours)), repair_s=limits.repair_s)


def energy_sigmas(profiles: Mapping[tuple[str, str], Profile]) -> dict[str, float]:
    """Of each pool, by the least known of its models."""
    found: dict[str, float] = {}
    for (_, pool), profile in profiles.items():
        known = METERED_SIGMA + (MODELLED_SIGMA - METERED_SIGMA) * (1.0 - profile.with_host)
        found[pool] = max(found.get(pool, 0.0), known)
    return found


def making_sigma(kg: Range | None) -> float:
    """Published figures are taken to span nine cases in ten; one figure alone says nothing of how wrong it is."""
    return math.log(kg.high / kg.low) / _WIDTH_90 if kg and kg.low > 0 else 0.0
