"""The assignment problem as arrays: what a whole fleet's solver works on.

P pools (or links between them), K configurations, C classes, A arcs (a class on a configuration that it accepts), B batches,
T slots. A class is all batches that go equally well everywhere: they differ in size, release and deadline only. Work is counted
in units of the class; a replica of a configuration does `rate` of them a second.

What is decided: `run[A, T]`, replica-seconds worked; `starts[K, T]`, engines begun, whole; `held[K, T]`, replicas that hold their
model when a slot ends, whole. Under these rules, for every slot t:
- ready replicas: run of k + load seconds of k <= (held[k, t-1] + starts[k, t]) * slot_s[t];
- what is held was held before or begun now: held[k, t] <= held[k, t-1] + starts[k, t];
- GPUs in time: over k, gpus[k, p] * (run + load seconds) <= capacity[p, t] * slot_s[t]; a start that takes longer than its slot
  goes on in the next ones;
- GPUs at a slot's end: over k, gpus[k, p] * held[k, t] <= room[p, t];
- what is run for a class can be dealt to its batches between their releases and deadlines; the rest of a batch is late.
Cost: run_g, hold_g, load_g, and late_g for late work. A replica that is ready but has nothing to do costs hold_g only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class FleetModel:
    """One instance. Shapes stand behind each field; grams are whatever the plan weighs (carbon, money, energy) in one unit."""

    slot_s: Floats
    """[T] seconds of each slot."""
    capacity: Floats
    """[P, T] GPUs (of a link: its bandwidth) open, a fraction where a slot is open in part."""
    room: Floats
    """[P, T] GPUs that may hold a model when a slot ends."""
    gpus: Floats
    """[K, P] what one replica takes of each pool."""
    loaded: Ints
    """[K] replicas that hold their model before the first slot."""
    load_s: Floats
    """[K] seconds for which a start takes its GPUs before it can work."""
    load_g: Floats
    """[K, T] grams of one start."""
    hold_g: Floats
    """[K, T] grams of holding one replica at the end of a slot, whether it works or not."""
    arc_class: Ints
    """[A] class of each arc."""
    arc_config: Ints
    """[A] configuration of each arc."""
    rate: Floats
    """[A] units of the class's work in a replica-second, above 0."""
    run_g: Floats
    """[A, T] grams of a replica-second."""
    late_g: Floats
    """[C] grams of a unit of late work; far above what any way to do it costs."""
    batch_class: Ints
    """[B] class of each batch."""
    release: Ints
    """[B] first slot in which it may run."""
    due: Ints
    """[B] first slot that is too late; a batch with due <= release is late whole."""
    work: Floats
    """[B] units of work."""
    batch_late_g: Floats | None = None
    """[B] grams of a unit of a batch's late work, at least those of its class, where they differ within it. Bounds go by the
    class's."""

    def __post_init__(self) -> None:
        """Raises ValueError where shapes do not agree or a number makes no sense."""
        t, k, a, b = len(self.slot_s), len(self.loaded), len(self.arc_class), len(self.batch_class)
        p, c = self.capacity.shape[0], len(self.late_g)
        shapes: dict[str, tuple[int, ...]] = {
            "capacity": (p, t), "room": (p, t), "gpus": (k, p), "load_s": (k,), "load_g": (k, t), "hold_g": (k, t),
            "arc_config": (a,), "rate": (a,), "run_g": (a, t), "release": (b,), "due": (b,), "work": (b,),
        }  # fmt: skip
        for name, shape in shapes.items():
            array: npt.NDArray[Any] = getattr(self, name)
            if array.shape != shape:
                raise ValueError(f"{name} has the shape {array.shape}, not {shape}.")
            if not np.all(np.isfinite(array)) or np.any(array < 0):
                raise ValueError(f"{name} has a value that is negative or not finite.")
        if np.any(self.rate <= 0) or np.any(self.slot_s <= 0) or not np.all(self.gpus.any(axis=1)):
            raise ValueError("A rate or a slot's length is 0, or a configuration takes nothing of any pool.")
        for name, index, count in (("arc_class", self.arc_class, c), ("arc_config", self.arc_config, k),
                                   ("batch_class", self.batch_class, c)):  # fmt: skip
            if index.size and (index.min() < 0 or index.max() >= count):
                raise ValueError(f"{name} names one that does not exist.")

    @property
    def slots(self) -> int:
        """T."""
        return len(self.slot_s)

    @property
    def configs(self) -> int:
        """K."""
        return len(self.loaded)

    @property
    def classes(self) -> int:
        """C."""
        return len(self.late_g)

    @cached_property
    def lost_g(self) -> Floats:
        """[B] grams of a unit of late work."""
        return self.late_g[self.batch_class] if self.batch_late_g is None else self.batch_late_g

    @cached_property
    def unit_g(self) -> Floats:
        """[A, T] grams of a unit of work."""
        return self.run_g / self.rate[:, None]

    @cached_property
    def load_band(self) -> Floats:
        """[K, T, L] seconds that a start in a slot takes of it and of the following ones; what passes the end is lost."""
        begin = np.concatenate([[0.0], np.cumsum(self.slot_s)])
        until = np.minimum(begin[None, :-1] + self.load_s[:, None], begin[-1])
        last = np.searchsorted(begin, until - 1e-9, side="left")  # slots begun before a start is over
        band = np.zeros((self.configs, self.slots, max(1, int((last - np.arange(self.slots)[None, :]).max(initial=1)))))
        for i in range(band.shape[2]):
            t = np.arange(self.slots - i)
            over = np.minimum(until[:, t], begin[t + i + 1][None, :]) - begin[t + i][None, :]
            band[:, t, i] = np.maximum(0.0, over)
        return band


@dataclass(frozen=True, eq=False)
class FleetPlan:
    """What is decided, and how good it is."""

    run: Floats
    """[A, T] replica-seconds."""
    starts: Ints
    """[K, T]."""
    held: Ints
    """[K, T]."""
    late: Floats
    """[B] units of work not done in time."""
    cost_g: float
    bound_g: float
    """No plan of this instance costs less."""

    @property
    def gap(self) -> float:
        """How far above the bound at most, as a share of it."""
        return (self.cost_g - self.bound_g) / self.bound_g if self.bound_g > 0 else (0.0 if self.cost_g <= 0 else float("inf"))
