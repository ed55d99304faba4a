"""What `--json` prints that rests on types of the library; imported where one of these is printed or asked for (printed.py)."""

from __future__ import annotations

from typing import Any

import msgspec

from batchsched.carbon.hardware import Estimate, Range
from batchsched.carbon.modes import Verdict
from batchsched.carbon.presets import Charge
from batchsched.carbon.storage import Keeping
from batchsched.carbon.whatif import Hour, Terms
from batchsched.catalogue import Gpu
from batchsched.profiles.modes import Side
from batchsched.profiles.phases import Phases
from batchsched.profiles.trials import Summary


class Column(msgspec.Struct, frozen=True):
    """One GPU of `carbon compare`."""

    gpu: Gpu
    embodied: dict[str, Estimate]
    """By model."""
    model: str
    """The one that `hour` goes by."""
    hour: Hour | None


class Crossing(msgspec.Struct, frozen=True):
    """`carbon crossover`. `crossover`: by model, and by source in brackets."""

    gpu: str
    terms: Terms
    crossover: dict[str, Hour]


class Listed(msgspec.Struct, frozen=True):
    """One GPU of the catalogue."""

    gpu: Gpu
    embodied: Estimate


class Hardware(msgspec.Struct, frozen=True):
    """One GPU, server or part."""

    hardware: dict[str, Any]
    embodied: tuple[Estimate, ...]
    crossover: dict[str, Any] | None
    sources: dict[str, str]


class Supposed(msgspec.Struct, frozen=True):
    """An hour of a GPU under some terms. `grid`: as it was asked for. What the power is not known of has no grams."""

    gpu: str
    model: str
    grid: str
    terms: Terms
    power_w: float | None = None
    operational_g: float | None = None
    embodied_g: Range | None = None
    crossover_g_per_kwh: Range | None = None
    storage: Keeping | None = None


class AsPaper(Charge, frozen=True, kw_only=True):
    """The same as a paper charges it."""

    gpu: str
    preset: str
    intensity_g_per_kwh: float
    utilisation: float


class Measured(msgspec.Struct, frozen=True):
    """`profile run`. `kept_in`: the file of every trial."""

    probes: tuple[Summary, ...]
    phases: Phases
    kept_in: str


class MeasuredWay(msgspec.Struct, frozen=True):
    """One way to serve a model under one load, and whether it saved carbon against the plain one; null: that cannot be told."""

    name: str
    load: str
    side: Side
    verdict: Verdict | None


class Ways(msgspec.Struct, frozen=True):
    """`profile compare --modes`: load by load, the plain way first."""

    ways: tuple[MeasuredWay, ...]
