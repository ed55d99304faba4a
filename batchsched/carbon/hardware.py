"""Manufacturing carbon of hardware, as published: low, mid and high, because sources for one GPU differ by ten times."""

from __future__ import annotations

import msgspec

_RECIPE = "SC'23/ACT recipe: die, memory and packages only (Li et al., SC 2023)"
_ECOSERVE = "EcoServe authors' calculator (memory factors of its Table 1)"
_TEADS = "Teads and Cloud Carbon Footprint: a flat 150 kg a GPU"
_BOAVIZTA = "Boavizta API's factors, applied to the published die and memory"


class Range(msgspec.Struct, frozen=True):
    """A quantity by its low, mid and high published figure."""

    low: float
    mid: float
    high: float

    def __add__(self, other: Range) -> Range:
        return Range(self.low + other.low, self.mid + other.mid, self.high + other.high)

    def scaled(self, factor: float) -> Range:
        """Each of the three times a factor."""
        return Range(self.low * factor, self.mid * factor, self.high * factor)


class Embodied(msgspec.Struct, frozen=True):
    """kgCO2e to make one device; None where no published figure was found. `source` says whose figure each of the three is."""

    kg: Range | None
    source: str


GPU_EMBODIED: dict[str, Embodied] = {
    "T4": Embodied(Range(10, 27, 150), f"low: {_RECIPE}, without packages, as GreenLLM has it; mid: {_ECOSERVE}; high: {_TEADS}"),
    "L4": Embodied(Range(14, 31, 114), f"low: {_RECIPE}; mid: {_ECOSERVE}; high: {_BOAVIZTA}"),
    "V100": Embodied(Range(20, 59, 150), f"low: {_RECIPE}; mid: {_ECOSERVE}; high: {_TEADS}"),
    "A100-40": Embodied(
        Range(26, 100, 276),
        f"low: {_RECIPE}; mid: a round figure between the {_ECOSERVE}, 95, and its summary table, 112; high: {_BOAVIZTA}",
    ),
    "A100-80": Embodied(
        Range(28.96, 99.0, 150.2), f"low: {_RECIPE}; mid: {_ECOSERVE}; high: the same calculator with its former memory factor"
    ),
    "H100": Embodied(
        Range(33, 164, 575),
        f"low: {_RECIPE}; mid: NVIDIA's product carbon footprint of HGX H100, as EcoLogits quotes it, a GPU; high: {_BOAVIZTA}",
    ),
    "H200": Embodied(None, "no published figure was found"),
}

# The rest of the server, for one GPU slot of eight; for a pool without GPUs, the machine's share.
HOST_SHARE = Embodied(
    Range(50, 136, 712),
    "low: this project's own lower bound, below every published host; mid: EcoServe authors' reference host, 1,084 kg for 8 "
    "GPUs; high: Boavizta's p5.48xlarge without GPUs, 5,700 kg for 8 (by EcoLogits)",
)


def gpu_embodied(gpu: str) -> Embodied:
    """The accelerator alone. A `cpu` replica has none: zero; a type that is not in the table is unknown."""
    if gpu == "cpu":
        return Embodied(Range(0, 0, 0), "no accelerator")
    return GPU_EMBODIED.get(gpu, Embodied(None, "no published figure is known here"))


def replica_kg(gpu: str) -> Range | None:
    """One replica: its accelerator and its share of the host; None where the accelerator's figure is unknown."""
    kg = gpu_embodied(gpu).kg
    return kg + HOST_SHARE.kg if kg and HOST_SHARE.kg else None
