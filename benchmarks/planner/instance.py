"""A fleet and its batches as plain arrays, in physical units: what every planner here is given and every plan is judged by.

Axes: B batches, M models, P pools, S sites, T slots. The rules:
- A replica of model m on pool p takes `need[m, p]` of the pool's GPUs for a whole slot and is paid for the whole slot.
- It does `rate[m, p]` requests a second, for batches that accept m at the pool's site, between their release and their deadline.
- A replica more than in the slot before is a load: it is paid for `startup_s[m, p]` of a replica's seconds.
- A request that is not done by its deadline costs `late_g` of its batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from batchsched.units import JOULES_PER_KWH

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

LATE_FACTOR = 10.0
"""A late request costs this times the dearest way to serve it."""


@dataclass(frozen=True)
class Instance:
    """See the module. What a batch accepts is a row of `models` and of `sites`; its work may be done in slots `release` to
    `deadline` - 1."""

    seed: int
    zones: tuple[str, ...]
    """By site."""
    pools: tuple[str, ...]
    slot_s: Floats
    """[T]"""
    site: Ints
    """[P]"""
    newness: Floats
    """[P], the higher the newer."""
    pue: Floats
    """[P]"""
    gpus: Ints
    """[P] owned."""
    capacity: Ints
    """[P, T] GPUs open."""
    intensity: Floats
    """[P, T] g/kWh."""
    need: Ints
    """[M, P]; 0 where the model does not fit."""
    rate: Floats
    """[M, P] requests a second and replica."""
    power_w: Floats
    """[M, P] of a busy replica."""
    startup_s: Floats
    """[M, P]"""
    held: Ints
    """[M, P] replicas that hold the model as the plan begins."""
    models: Bools
    """[B, M]"""
    sites: Bools
    """[B, S]"""
    release: Ints
    """[B]"""
    deadline: Ints
    """[B]"""
    work: Floats
    """[B] requests."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """M, P, T."""
        return (*self.need.shape, len(self.slot_s))

    @cached_property
    def replica_g(self) -> Floats:
        """[M, P, T] grams of a replica for a slot."""
        grams: Floats = self.power_w[:, :, None] * self.slot_s * self._g_per_j
        return grams

    @cached_property
    def load_g(self) -> Floats:
        """[M, P, T] grams of a load in a slot."""
        grams: Floats = (self.power_w * self.startup_s)[:, :, None] * self._g_per_j
        return grams

    @cached_property
    def done(self) -> Floats:
        """[M, P, T] requests that a replica does in a slot."""
        return self.rate[:, :, None] * self.slot_s

    @cached_property
    def _g_per_j(self) -> Floats:
        grams: Floats = (self.pue[:, None] * self.intensity)[None] / JOULES_PER_KWH
        return grams

    @cached_property
    def usable(self) -> Bools:
        """[B, M, P]: where a batch may run as what."""
        able: Bools = self.models[:, :, None] & self.sites[:, None, self.site] & (self.need > 0)[None]
        return able

    @cached_property
    def classes(self) -> list[tuple[Ints, Bools]]:
        """Batches that may run at the same places as the same models, and those places [M, P]."""
        _, inverse = np.unique(np.hstack([self.models, self.sites]), axis=0, return_inverse=True)
        members = [np.flatnonzero(inverse == c) for c in range(int(inverse.max(initial=-1)) + 1)]
        return [(mine, self.usable[mine[0]]) for mine in members]

    @cached_property
    def late_g(self) -> Floats:
        """[B] grams of a late request."""
        with np.errstate(divide="ignore", invalid="ignore"):
            dearest = np.nan_to_num(self.replica_g / self.done, nan=0.0, posinf=0.0).max(axis=2)
        mine = np.where(self.usable, dearest, 0.0).max(axis=(1, 2))
        grams: Floats = LATE_FACTOR * np.where(mine > 0, mine, dearest.max(initial=1e-9))
        return grams
