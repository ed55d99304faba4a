"""What work caused beside itself, divided among who worked: parts of engine starts, idle pools, transfers, stored files, waste.

However finely they are divided, the parts add up to the whole.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from batchsched.carbon.hardware import Range
from batchsched.carbon.provenance import listed
from batchsched.carbon.report import Beside


class Part(msgspec.Struct, frozen=True):
    """Joules and operational grams (`g`) of what is known; None where nothing is. `complete`: that is all.

    `how`: by which rule it was divided, and whose figures it rests on.
    """

    energy_j: float | None
    g: float | None
    embodied_g: Range | None
    complete: bool
    how: str

    def scaled(self, share: float) -> Part:
        """That share of it."""
        return msgspec.structs.replace(
            self,
            energy_j=None if self.energy_j is None else self.energy_j * share,
            g=None if self.g is None else self.g * share,
            embodied_g=self.embodied_g.scaled(share) if self.embodied_g else None,
        )


class Parts(NamedTuple):
    """All of them. `loading` is in the sums of the work, the others stand apart. None: not known at this level."""

    loading: Part | None = None
    idle: Part | None = None
    network: Part | None = None
    storage: Part | None = None
    waste: Part | None = None


def together(rule: str, shares: Sequence[Beside], missing: str = "") -> Part:
    """Shares of one kind as one part, none where there are none. `missing`: what is unknown beside them, in words."""
    none = not shares and not missing
    joules = [each.energy_j for each in shares if each.energy_j or each.operational_g is not None]
    grams = [each.operational_g for each in shares if each.operational_g is not None]
    making = [each.embodied_g for each in shares if each.embodied_g is not None]
    lacking = [each for each in shares if each.embodied_g is None and each.part != "network"]
    return Part(
        math.fsum(joules) if joules or none else None,
        math.fsum(grams) if grams or none else None,
        sum(making, Range(0, 0, 0)) if making or none else None,
        not missing and not lacking and len(grams) == len(shares),
        "; ".join(each for each in (rule, listed(_joules(shares)), missing) if each),
    )


def _joules(shares: Sequence[Beside]) -> dict[str, float]:
    sums: dict[str, float] = {}
    for each in shares:
        sums[each.source] = sums.get(each.source, 0.0) + each.energy_j
    return sums
