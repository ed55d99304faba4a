"""A fleet of the benchmark: the planner's own array model, and what people want to know of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from batchsched.planner.fleet_model import FleetModel, FleetPlan, Floats, Ints


@dataclass(frozen=True, eq=False)
class Instance:
    """Each configuration takes GPUs of one pool."""

    model: FleetModel
    seed: int
    zones: tuple[str, ...]
    pools: tuple[str, ...]
    gpus: Ints
    """[P] owned."""
    newness: Floats
    """[K] of the configuration's GPUs, the higher the newer."""

    @cached_property
    def pool(self) -> Ints:
        """[K] the one pool of each configuration."""
        found: Ints = self.model.gpus.argmax(axis=1)
        return found

    @cached_property
    def arcs(self) -> list[Ints]:
        """By class."""
        return [np.flatnonzero(self.model.arc_class == c) for c in range(self.model.classes)]

    @cached_property
    def ready_g(self) -> Floats:
        """[K, T] grams of a replica for being there in a slot, had it been held before."""
        hold = self.model.hold_g
        return np.concatenate([hold[:, :1], hold[:, :-1]], axis=1)

    @cached_property
    def unit_g(self) -> Floats:
        """[A, T] grams of a request on a replica that is busy for the whole slot."""
        whole = self.model.run_g + self.ready_g[self.model.arc_config] / self.model.slot_s
        found: Floats = whole / self.model.rate[:, None]
        return found

    def plan(self, run: Floats, ready: Ints, late: Floats) -> FleetPlan:
        """From replicas ready in each slot [K, T]: each is kept from one slot to the next as long as both have use for it."""
        from batchsched.planner.fleet_verify import fleet_cost

        after = np.concatenate([ready[:, 1:], np.zeros_like(ready[:, :1])], axis=1)
        held = np.minimum(ready, after)
        before = np.concatenate([np.minimum(self.model.loaded, ready[:, 0])[:, None], held[:, :-1]], axis=1)
        plan = FleetPlan(run, ready - before, held, late, 0.0, 0.0)
        return FleetPlan(run, ready - before, held, late, fleet_cost(self.model, plan), 0.0)
