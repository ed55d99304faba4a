"""When splitting work between a new and an old GPU saves carbon: section 5 of GreenLLM (arXiv 2412.20322), with exact conditions.

A is the new GPU and B the old one. The work runs either on A alone (time tA, energy NA) or on both (t'A, N'A on A; tB, NB on B).
Both burn the same grid of intensity alpha; a GPU's embodied carbon is charged by busy time over its life (the paper's equation 1:
EA = A tA / TA, with A the total and TA the life), the PUE is 1, hosts, network and idle time cost nothing. With

    rho = (N'A + NB) / NA

what the split emits, as a share of what A alone emits, is the paper's equation 5:

    share = rho + (E'A + EB - rho EA) / (NA alpha + EA)

and the saving is 1 - share. The three implications that the paper draws hold under conditions that it does not state; each is a
function here, and says what it needs. All of them are about this relative saving. The grams saved follow other rules: they grow
with the intensity where rho < 1, and with a shorter life of A where t'A < tA.
"""

from __future__ import annotations

import msgspec

from batchsched.units import HOURS_PER_YEAR, kwh


class Use(msgspec.Struct, frozen=True):
    """What one way of running the work asks of one GPU."""

    time_s: float
    energy_j: float


class Device(msgspec.Struct, frozen=True):
    """A GPU: what making it emitted, and the years over which busy time pays that back."""

    embodied_kg: float
    life_years: float

    def charge_g(self, time_s: float) -> float:
        """Equation 1: the share of busy time in the life. Idle time is charged to nobody, so charges fall short of the total."""
        return self.embodied_kg * 1000 * time_s / (self.life_years * HOURS_PER_YEAR * 3600)


class Split(msgspec.Struct, frozen=True):
    """One piece of work, run on the new GPU alone (`alone`; energy above zero) or on `new` and `old` together."""

    alone: Use
    new: Use
    old: Use
    new_gpu: Device
    old_gpu: Device

    @property
    def rho(self) -> float:
        """Energy of the split as a share of the energy of the new GPU alone."""
        return (self.new.energy_j + self.old.energy_j) / self.alone.energy_j

    @property
    def embodied_alone_g(self) -> float:
        """EA."""
        return self.new_gpu.charge_g(self.alone.time_s)

    @property
    def embodied_split_g(self) -> float:
        """E'A + EB."""
        return self.new_gpu.charge_g(self.new.time_s) + self.old_gpu.charge_g(self.old.time_s)

    def alone_g(self, intensity_g_per_kwh: float) -> float:
        """Grams of the new GPU alone: equation 3."""
        return kwh(self.alone.energy_j) * intensity_g_per_kwh + self.embodied_alone_g

    def split_g(self, intensity_g_per_kwh: float) -> float:
        """Grams of both GPUs together."""
        return kwh(self.new.energy_j + self.old.energy_j) * intensity_g_per_kwh + self.embodied_split_g

    def saving(self, intensity_g_per_kwh: float) -> float:
        """The share of the grams that the split saves, below zero where it costs more. Nears 1 - rho as the intensity rises."""
        return 1 - self.split_g(intensity_g_per_kwh) / self.alone_g(intensity_g_per_kwh)


def saving_needs_less_energy(split: Split) -> bool:
    """Implication 1: a split can only save carbon if it takes less energy (rho < 1). True where E'A + EB > EA.

    Outside that condition any split that takes more energy still saves, on a grid that is clean enough. The paper takes the
    condition from its assumption A.3, which is about times alone (tA - t'A well below tB); what is needed is
    (tA - t'A) A / TA < tB B / TB, and an old GPU that was cheap to make or that lives long can break it. Less energy is necessary
    under the condition, never sufficient: the energy saved must also outweigh the added embodied carbon. The last lines of the
    paper's equation 4 write E, its sign for embodied carbon, where energy (N) is meant.
    """
    return split.embodied_split_g > split.embodied_alone_g


def saving_grows_with_intensity(split: Split) -> bool:
    """Implication 2: the dirtier the grid, the larger the saving. True where E'A + EB > rho EA, at every intensity alike.

    The paper states it without condition. It follows from implication 1's condition where rho <= 1. It fails where the old GPU
    relieves the new one of most of its time for little embodied carbon, or where the split takes far more energy. Whichever way
    the saving goes as the intensity rises, it goes towards 1 - rho.
    """
    return split.embodied_split_g > split.rho * split.embodied_alone_g


def shorter_new_life_helps(split: Split, intensity_g_per_kwh: float) -> bool:
    """Implication 3, the new GPU: the shorter its life, the larger the saving. True where NA alpha (t'A - rho tA) < tA tB B / TB.

    The life of A itself is not in the condition: at one intensity the saving rises or falls over all lives. It holds at every
    intensity where the split shortens A's time at least as much as it lowers the energy (t'A <= rho tA), and only below
    `new_life_turns_at_g_per_kwh` otherwise. The paper states it without condition: equation 6 calls a term constant that depends
    on the life of A, and has t'A in the denominator where equation 5 gives tA. Its own measurements (section 7.6) go the other
    way, which is what this condition gives for a split that leaves A about as busy as before.
    """
    relief = split.new.time_s - split.rho * split.alone.time_s
    operational_alone_g = kwh(split.alone.energy_j) * intensity_g_per_kwh
    return operational_alone_g * relief < split.alone.time_s * split.old_gpu.charge_g(split.old.time_s)


def new_life_turns_at_g_per_kwh(split: Split) -> float | None:
    """The intensity above which a shorter life of the new GPU lowers the saving; None where it helps at every intensity."""
    relief = split.new.time_s - split.rho * split.alone.time_s
    if relief <= 0:
        return None
    return split.alone.time_s * split.old_gpu.charge_g(split.old.time_s) / (kwh(split.alone.energy_j) * relief)


def longer_old_life_helps(split: Split) -> bool:
    """Implication 3, the old GPU: the longer its life, the larger the saving. Always, if it is used and was not free to make."""
    return split.old_gpu.charge_g(split.old.time_s) > 0
