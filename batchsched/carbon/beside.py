"""What a batch causes beside its work: data on its way and at rest, its part of idle pools. Apart from the sums of its report."""

from __future__ import annotations

from typing import Literal

from batchsched.carbon.operational import operational_g
from batchsched.carbon.report import Beside, Intensity, Report

JOULES_PER_KWH = 3.6e6


def metered(part: Literal["loading", "waste", "idle"], report: Report, how: str, share: float = 1.0) -> Beside:
    """A share of what a report says. `idle` and `waste` have no embodied part: idle hardware is charged where it is reserved."""
    whole = not (report.unknown_energy_j or report.unmeasured_s) and report.operational_g is not None
    grams = (report.operational_g or 0.0) * share if whole else None
    embodied = report.embodied_g.scaled(share) if report.embodied_g and part == "loading" else None
    return Beside(part, report.energy_j * share, grams, embodied, how)


def network(transferred_bytes: int, kwh_per_gb: float, ends: tuple[Intensity, Intensity], how: str) -> Beside:
    """Data between two sites, at the mean intensity of both (as Caribou counts it, SOSP 2024), without PUE."""
    energy_j = transferred_bytes / 1e9 * kwh_per_gb * JOULES_PER_KWH
    means = [end.mean_g_per_kwh for end in ends if end.mean_g_per_kwh is not None]
    grams = operational_g(energy_j, 1.0, sum(means) / 2) if len(means) == len(ends) else None
    return Beside("network", energy_j, grams, None, how)
