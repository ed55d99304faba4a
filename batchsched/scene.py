"""What all jobs of one look share: who may serve what where."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from functools import cache, cached_property

from batchsched.fleet import Fleet
from batchsched.generations import cannot_answer
from batchsched.outlook import Outlooks
from batchsched.planner import PoolState, Slot
from batchsched.profiles.answers import Answers
from batchsched.profiles.choose import Configuration, accepted
from batchsched.profiles.profile import Profile
from batchsched.transfers import Transfers
from batchsched.ways import Ways

Names = Sequence[str]


class Scene:
    """Of one look."""

    def __init__(
        self,
        now: datetime,
        fleet: Fleet,
        profiles: Mapping[tuple[str, str], Profile],
        answers: Answers,
        loaded: Mapping[str, Sequence[str]],
        slots: Sequence[Slot],
        pools: Sequence[PoolState],
        transfers: Transfers,
        unfit: Collection[tuple[str, str]],
        ways: Ways,
    ) -> None:
        """`loaded`: models by pool; `unfit`: models with pools that cannot hold them."""
        self.ways = ways
        self.now, self.profiles, self.answers, self._fleet = now, profiles, answers, fleet
        self.loaded = loaded
        self._slots, self._pools, self.transfers = slots, pools, transfers
        self._ways = {
            Configuration(f"{model} on {pool}", model, fleet.models[model].mode, (pool,)): (model, pool)
            for model, pool in profiles
            if (model, pool) not in unfit
        }
        self.accepted = cache(self._accepted)

    @cached_property
    def outlooks(self) -> Outlooks:
        """Only batches that accept several models need them."""
        return Outlooks(self._slots, self._pools)

    @cached_property
    def sure_s(self) -> dict[tuple[str, str], float]:
        """For how long every open replica of a pool can serve a model in its mode; where it is absent always."""
        states = {pool.name: pool for pool in self._pools}
        found = {(model, pool): self.ways.sure_s(model, states[pool]) for model, pool in self.profiles}
        return {key: seconds for key, seconds in found.items() if math.isfinite(seconds)}

    def _accepted(self, models: Names, sites: Names, zones: Names, endpoint: str) -> list[tuple[str, str]]:
        """In the models that are named, and in other ways to serve them that pay."""
        at = {name for name, site in self._fleet.sites.items() if not zones or site.zone in zones}
        pools = [name for name, pool in self._fleet.pools.items() if pool.site in at and (not sites or pool.site in sites)]
        able = [name for name in pools if not cannot_answer(name, self._fleet.pools[name], endpoint)]
        named = [self._ways[way] for way in accepted(self._ways, models, able)]
        beside = [self._ways[way] for way in accepted(self._ways, [*self.ways.beside(models, endpoint)], able)]
        return named + [key for key in beside if key not in named and self.ways.pays(*key)]
