"""What keeping data costs, apart from computing: energy and manufacturing of the disks that hold it, by gigabyte and time.

After Ding and Shi, who name what LLM serving keeps: weights, offloaded caches, inputs, outputs, logs, archives. A gigabyte pays
for the share of a full disk that it takes; what disks hold beside it is not known here, so a half-empty disk's other half is the
operator's to allocate (`used`).
"""

from __future__ import annotations

from typing import Literal

import msgspec

from batchsched.carbon.embodied import charge_g
from batchsched.carbon.hardware import Range, three
from batchsched.carbon.operational import operational_g
from batchsched.catalogue import Catalogue, builtin

What = Literal["weights", "kv_cache", "input", "output", "log", "archive"]
Medium = Literal["ssd", "hdd", "dram"]


class Stored(msgspec.Struct, frozen=True):
    """Data that was kept for a while. `gb`: one copy; `used`: how full its disks are."""

    what: What
    gb: float
    held_s: float
    medium: Medium = "ssd"
    copies: int = 1
    used: float = 1.0

    @property
    def disk_gb(self) -> float:
        """The part of disks that it takes up."""
        return self.gb * self.copies / self.used


class Keeping(msgspec.Struct, frozen=True):
    """What that cost. `energy_j`: at the disks, before the facility's overhead; None where no source says what the medium draws.
    Grams are None without it, and without an intensity."""

    stored: Stored
    energy_j: float | None
    operational_g: float | None
    embodied_g: Range
    source: str


def keeping(
    stored: Stored,
    intensity_g_per_kwh: float | None,
    *,
    pue: float = 1.2,
    lifetime_years: float = 5.0,
    catalogue: Catalogue | None = None,
) -> Keeping | None:
    """What keeping it cost; None where the catalogue lacks a figure of the medium."""
    known = catalogue or builtin()
    disk = known.parts.get(stored.medium)
    found = three(disk.low_kg, disk.mid_kg, disk.high_kg, known) if disk else None
    if disk is None or found is None:
        return None
    watts = disk.w_per_unit
    energy_j = watts.value * stored.disk_gb * stored.held_s if watts else None
    kg_per_gb, said = found
    share = charge_g(1.0, stored.held_s, lifetime_years, "whole_life")
    return Keeping(
        stored,
        energy_j,
        None if intensity_g_per_kwh is None or energy_j is None else operational_g(energy_j, pue, intensity_g_per_kwh),
        kg_per_gb.scaled(stored.disk_gb * share),
        f"{f'{watts.value * 1000:g} W a TB: {known.reference(watts.source)}' if watts else 'energy not known'}; embodied, {said}",
    )
