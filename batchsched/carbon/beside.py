"""What a batch causes beside its work: data on its way and at rest, its part of idle pools. Apart from the sums of its report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from batchsched.carbon.hardware import Range
from batchsched.carbon.operational import operational_g
from batchsched.carbon.provenance import known_by, listed
from batchsched.carbon.report import Beside, Intensity, Report
from batchsched.units import JOULES_PER_KWH


def metered(part: Literal["loading", "waste", "idle"], report: Report, how: str, share: float = 1.0) -> Beside:
    """A share of what a report says. Hardware that was held for nothing is charged like hardware that worked."""
    whole = not (report.unknown_energy_j or report.unmeasured_s) and report.operational_g is not None
    grams = (report.operational_g or 0.0) * share if whole else None
    embodied = report.embodied_g.scaled(share) if report.embodied_g and not report.embodied_unknown_s else None
    return Beside(part, report.energy_j * share, grams, embodied, how, listed(known_by(report.rows)))


def scaled(part: Beside, share: float) -> Beside:
    """That share of it."""
    grams = None if part.operational_g is None else part.operational_g * share
    embodied = part.embodied_g.scaled(share) if part.embodied_g else None
    return msgspec.structs.replace(part, energy_j=part.energy_j * share, operational_g=grams, embodied_g=embodied)


def added(parts: Sequence[Beside], how: str) -> Beside:
    """Parts of one kind, at least one, as one; grams that are unknown of one are unknown of all."""
    grams = [part.operational_g for part in parts]
    making = [part.embodied_g for part in parts]
    operational = None if None in grams else sum(each for each in grams if each is not None)
    embodied = None if None in making else sum((each for each in making if each is not None), Range(0, 0, 0))
    return Beside(parts[0].part, sum(part.energy_j for part in parts), operational, embodied, how)


def network(transferred_bytes: int, kwh_per_gb: float, ends: tuple[Intensity, Intensity], how: str) -> Beside:
    """Data between two sites, at the mean intensity of both (as Caribou counts it, SOSP 2024), without PUE."""
    energy_j = transferred_bytes / 1e9 * kwh_per_gb * JOULES_PER_KWH
    means = [end.mean_g_per_kwh for end in ends if end.mean_g_per_kwh is not None]
    grams = operational_g(energy_j, 1.0, sum(means) / 2) if len(means) == len(ends) else None
    return Beside("network", energy_j, grams, None, how, "grids " + " and ".join(dict.fromkeys(end.source for end in ends)))
