"""What the ledger is given and what it gives back: plain data."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal

import msgspec

from batchsched.carbon.embodied import NEW, Held, Policy
from batchsched.carbon.hardware import Range
from batchsched.wire import EnergyMark, EnergySource

Reserved = tuple[str, Held, float]
"""A replica: its GPU type, what stands behind it, and for how many seconds."""


class Entry(msgspec.Struct, frozen=True):
    """What one chunk took on one pool for a while. `busy_s`: seconds of one replica reserved for it; `energy_j`: IT energy."""

    chunk_id: str
    pool: str
    site: str
    zone: str
    simulated: bool
    gpu: str
    started_at: datetime
    ended_at: datetime
    busy_s: float
    energy_j: float
    energy_source: EnergySource
    requests: int
    input_tokens: int
    output_tokens: int
    pue: float
    mark: EnergyMark = ""
    market_g_per_kwh: float | None = None
    """The factor of the site's power contract."""
    attributed_j: float | None = None
    """In spare capacity of an online service: our full share of the energy, where `energy_j` is only what we added to it."""
    held: Held = NEW
    power_model: str = ""
    """Where `energy_j` is modelled: by which figures."""
    model: str = ""
    """That served it; empty where that is of no account."""
    beside_gpu: str = ""
    """In a mode of two pools: that of the other pool, a replica of which was there for `beside_s` seconds; else empty."""
    beside_held: Held = NEW
    beside_s: float = 0.0
    beside_adds_only: bool = False
    """Its machine is on for others anyway."""

    @property
    def reserved(self) -> list[Reserved]:
        """The replicas that were reserved for it."""
        return [(self.gpu, self.held, self.reserved_s), *([] if self.beside_adds_only else self.beside)]

    @property
    def lent(self) -> bool:
        """Did machines that are on for others anyway do it, or a part of it?"""
        return self.attributed_j is not None or (self.beside_adds_only and self.beside_s > 0)

    @property
    def beside(self) -> list[Reserved]:
        """Of these that of another pool, where there was one."""
        return [(self.beside_gpu, self.beside_held, self.beside_s)] if self.beside_s > 0 else []

    @property
    def reserved_s(self) -> float:
        """Replica seconds that hardware was kept for it alone: none in spare capacity."""
        return self.busy_s if self.attributed_j is None else 0.0


class Intensity(msgspec.Struct, frozen=True):
    """The grid over a span: grams per kWh, None where unknown; who says so ("realised, provider X"); which signal it is."""

    mean_g_per_kwh: float | None
    source: str
    signal: str


Truth = Callable[[str, datetime, datetime], Intensity]
"""What is known by now of a zone between two instants."""


class Baseline(msgspec.Struct, frozen=True):
    """The run that was not made: everything at `start` (submission) on the newest GPUs of the home region.

    `busy_s`: replica seconds; `duration_s`: how long it lasts by the clock, `busy_s` where absent (one replica).
    """

    pool: str
    site: str
    zone: str
    gpu: str
    pue: float
    start: datetime
    energy_j: float
    energy_source: EnergySource
    busy_s: float
    simulated: bool = False
    duration_s: float | None = None
    held: Held = NEW
    model: str = ""
    """That the batch's requests name."""
    borrowed: bool = False
    """Only machines that are on for others anyway could serve it: they are charged as if they were its own."""


class Row(msgspec.Struct, frozen=True):
    """Neighbouring work of one model on one pool at one intensity: a line of the report, a bar of the plot."""

    pool: str
    model: str
    site: str
    zone: str
    started_at: datetime
    ended_at: datetime
    busy_s: float
    requests: int
    energy_j: float
    energy_source: EnergySource
    energy_how: str
    pue: float | None
    """None where the pool is declared no more, and so its site is unknown."""
    intensity: Intensity
    operational_g: float | None


class RunNow(msgspec.Struct, frozen=True):
    """The baseline and what it would have cost; `description` names its terms."""

    terms: Baseline
    ends_at: datetime
    intensity: Intensity
    operational_g: float | None
    embodied_g: Range | None
    description: str


class Saving(msgspec.Struct, frozen=True):
    """Where a saving comes from, in grams; the four add up to it. A choice may have cost something: then it is negative.

    `gpu_g`: of other GPUs, and of the model that served on them; `spare_g`: that an online service's idle power is not ours.
    """

    time_g: float
    place_g: float
    gpu_g: float
    spare_g: float

    def __add__(self, other: Saving) -> Saving:
        mine, others = msgspec.structs.astuple(self), msgspec.structs.astuple(other)
        return Saving(*(a + b for a, b in zip(mine, others, strict=True)))


class Beside(msgspec.Struct, frozen=True):
    """What a batch caused beside its own work, apart from the report's sums; `how` says how it was counted, and by whose figures.

    `loading` is the exception: the part of the sums that starting engines took.
    """

    part: Literal["loading", "waste", "idle", "network", "storage"]
    energy_j: float
    operational_g: float | None
    embodied_g: Range | None
    how: str
    source: str = ""
    """Whose figures: how its energy is known, and the grid's intensity."""


class Attributed(msgspec.Struct, frozen=True):
    """What a report would say did the work in an online service's spare capacity bear its full share of that service's servers:
    of what they draw when idle, too, and of what it took to make them."""

    energy_j: float
    operational_g: float | None
    embodied_g: Range | None

    def __add__(self, other: Attributed) -> Attributed:
        grams = [g for g in (self.operational_g, other.operational_g) if g is not None]
        made = [kg for kg in (self.embodied_g, other.embodied_g) if kg is not None]
        return Attributed(self.energy_j + other.energy_j, sum(grams) if grams else None, sum(made[1:], made[0]) if made else None)


class Factor(msgspec.Struct, frozen=True):
    """A number that entered the result, and who says so."""

    factor: str
    value: float | str | None
    unit: str
    source: str


class Report(msgspec.Struct, frozen=True):
    """What a batch, or several, cost. Grams are of what is known: `unknown_energy_j`, `unmeasured_s` and `embodied_unknown_s`
    say how much is missing from them; None means that nothing is known."""

    requests: int
    """Answers that work was charged for: of a request that was answered again, after it had failed, each."""
    input_tokens: int
    output_tokens: int
    busy_s: float
    energy_j: float
    energy_by_source: dict[str, float]
    operational_g: float | None
    unknown_energy_j: float
    unmeasured_s: float
    embodied_g: Range | None
    embodied_unknown_s: float
    policy: Policy
    lifetime_years: float
    signal: str | None
    simulated: bool
    baseline: RunNow | None
    """None in a total over several batches."""
    baseline_g: float | None
    saved_g: float | None
    """Operational grams of the baseline less those of the batch; None unless both are known whole."""
    saved_fraction: float | None
    models_accepted: list[str]
    """Where batches let others than the model that their requests name serve them: then `gpu_g` is of GPU and model."""
    saving: Saving | None
    """`saved_g` by what it came from; None where that takes intensities that nobody knows."""
    saved_with_embodied_g: Range | None
    """`saved_g` and what less hardware was used up: by the low, mid and high published figures. None where one is missing."""
    market_g: float | None
    """Operational grams by the factors of the sites' own power contracts; None unless each of its sites declares one."""
    attributed: Attributed | None
    """Beside the figures above, which hold only what was added to an online service's servers; None where none served it."""
    beside: list[Beside]
    """Empty in a total over several batches."""
    rows: list[Row]
    provenance: list[Factor]
    notes: list[str]

    def to_plain(self) -> dict[str, Any]:
        """Plain JSON-able data."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain
