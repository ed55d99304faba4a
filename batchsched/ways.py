"""In which ways the models of one look may be served: by themselves, and in those variants of them that pay (profiles/ways.py).

A variant of one pool is planned as a model of its own would be. One of two pools takes, beside its replica, an engine of the
other pool (a partner, of which each of its workers has one) and bandwidth of the link between them. Partners that are there are
replicas of the other pool that do no other work: the rest are its workers'. So both have a row of their own, open when the pool
is, at what its hardware weighs. Partners that are expected, before any worker or launcher has come, are expected on the replicas
that the other pool is to have.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from batchsched.fleet import Fleet, ServedModel
from batchsched.lines import EMBEDDINGS
from batchsched.planner import Slot
from batchsched.planner.problem import Configuration, Link, PoolState, standalone
from batchsched.profiles.profile import Profile
from batchsched.profiles.ways import Judged, judge, link_bytes_per_s
from batchsched.queue import chunks
from batchsched.variants import DRAFTING, TWO_POOLS, variants_of

Key = tuple[str, str]
_EPS = 1e-6


class Ways:
    """Of one look. Keys are a model and a pool."""

    def __init__(
        self,
        fleet: Fleet,
        profiles: Mapping[Key, Profile],
        alive: Sequence[Mapping[str, Any]],
        replicas: Mapping[str, int],
        slots: Sequence[Slot],
        open_of: Callable[[str, int], list[float]],
        *,
        expected: bool,
    ) -> None:
        """`alive`: the live workers that get work. `open_of`: how many of so many partners on a pool are open in each slot.
        `expected`: nobody has come yet, and those are expected that are declared."""
        self._fleet, self._profiles, self._alive, self._replicas, self._slots = fleet, profiles, alive, replicas, slots
        self._open_of, self._expected = open_of, expected
        self._judged = {key: self._judge(*key) for key in profiles if fleet.models[key[0]].variant_of}

    def beside(self, names: Iterable[str], endpoint: str) -> dict[str, str]:
        """Further ways to serve models of these names at an endpoint: of each variant the model that it stands for."""
        models = self._fleet.models
        return {} if endpoint == EMBEDDINGS else {name: models[name].variant_of for name in variants_of(models, names)}

    def pays(self, model: str, pool: str) -> bool:
        """May a variant be planned there although nobody named it?"""
        judged = self._judged.get((model, pool))
        return judged is not None and judged.pays

    def replicas(self, model: str, pool: str) -> int:
        """How many of a pool's can serve a model so at once."""
        there = self._replicas[pool]
        return min(there, self._partners(model, pool)) if self._fleet.models[model].mode in TWO_POOLS else there

    def sure_s(self, model: str, pool: PoolState) -> float:
        """For how many seconds every open replica of a pool has all that it takes to serve a model so; infinite where that does
        not end in the slots. What is only expected is not sure."""
        served, known = self._fleet.models[model], self._profiles[model, pool.name]
        if served.mode not in TWO_POOLS:
            return math.inf
        partners, most = self._partners(model, pool.name), known.sent.link_bytes_per_s if known.sent else None
        narrow = most is not None and pool.replicas * link_bytes_per_s(known, served.mode) > most
        if self._expected or narrow or partners < pool.replicas:
            return 0.0
        there = zip(self._slots, self._open_of(served.partner_pool, partners), pool.capacity, strict=True)
        return next((slot.start_s for slot, beside, own in there if beside + _EPS < own), math.inf)

    def plainly(self, model: str, pool: str, share: float) -> tuple[Profile, float] | None:
        """What serves that share of a batch, which drafts do not suit, on a pool where the rest is served so; None: nothing else
        has to."""
        served = self._fleet.models[model]
        base = self._profiles.get((served.variant_of, pool)) if share > 0 and served.mode in DRAFTING else None
        return (base, share) if base else None

    def configuration(self, model: str, pool: str) -> Configuration:
        """What one replica takes."""
        served = self._fleet.models[model]
        if served.mode not in TWO_POOLS:
            return standalone(model, pool)
        known, links = self._profiles[model, pool], {_engines(served): 1.0}
        takes = {pool: 1.0, served.partner_pool: 1.0} if self._expected else {pool: 1.0}
        if known.sent is not None and known.sent.link_bytes_per_s is not None:
            links[_bandwidth(pool, served.partner_pool)] = link_bytes_per_s(known, served.mode)
        return Configuration(model, takes, links, served.mode)

    def links(self, pools: Sequence[PoolState]) -> list[Link]:
        """What configurations of two pools share beside replicas: engines of the other pool, and bandwidth. `pools`: what their
        replicas weigh."""
        engines, bandwidth, served = dict[str, dict[str, int]](), dict[str, float](), dict[str, ServedModel]()
        for model, pool in self._judged:
            other, sent = self._fleet.models[model], self._profiles[model, pool].sent
            if other.mode not in TWO_POOLS:
                continue
            served[_engines(other)] = other
            engines.setdefault(_engines(other), {})[pool] = self._partners(model, pool)
            if sent is not None and sent.link_bytes_per_s is not None:
                name = _bandwidth(pool, other.partner_pool)
                bandwidth[name] = min(sent.link_bytes_per_s, bandwidth.get(name, sent.link_bytes_per_s))
        states = {} if self._expected else {state.name: state for state in pools}
        return [
            *(
                self._of_pool(name, sum(by_pool.values()), states.get(served[name].partner_pool))
                for name, by_pool in engines.items()
            ),
            *(Link(name, [most] * len(self._slots)) for name, most in bandwidth.items()),
        ]

    def _of_pool(self, name: str, count: int, pool: PoolState | None) -> Link:
        """So many partners: replicas of a pool, where they are there."""
        if pool is None or not count:
            return Link(name, [float(count)] * len(self._slots))
        return Link(name, self._open_of(pool.name, count), pool.embodied_g_per_s, pool.price_g_per_s, pool.name)

    def loaded(self, pool: str, models: Sequence[str]) -> list[str]:
        """What engines of a pool have, by the names that plans have for it."""
        known = {name: self.configuration(name, pool) for name in models if (name, pool) in self._profiles}
        return [known[name].name if name in known and not known[name].plain else name for name in models]

    def reasons(self, names: Iterable[str]) -> dict[str, list[str]]:
        """Of each of these models, what is said of each variant on each pool."""
        models = self._fleet.models
        return {
            base: [
                f"{name} on {pool} {told.why}" for (name, pool), told in self._judged.items() if models[name].variant_of == base
            ]
            for base in sorted(set(names))
            if variants_of(models, [base])
        }

    def _judge(self, model: str, pool: str) -> Judged:
        served = self._fleet.models[model]
        if (base := self._profiles.get((served.variant_of, pool))) is None:
            return Judged(False, f"is not planned: {served.variant_of} is not served there.")
        found = judge(self._profiles[model, pool], base, served.mode)
        if found.pays and served.mode in TWO_POOLS and not self._partners(model, pool):
            return Judged(False, f"is not planned: no worker of {pool} has a partner on {served.partner_pool} now.")
        return found

    def _partners(self, model: str, pool: str) -> int:
        """How many workers of a pool have an engine of the other pool beside them."""
        served = self._fleet.models[model]
        if self._expected:
            return min(self._replicas.get(pool, 0), self._fleet.pools[served.partner_pool].count)
        return sum(row["pool"] == pool and served.mode in (row["modes"] or ()) for row in self._alive)


def partners_on(fleet: Fleet, alive: Iterable[Mapping[str, Any]]) -> Counter[str]:
    """Of each pool the replicas that engines of its take which run beside live workers of other pools; of a worker whose mode
    several pools may serve it is not known."""
    found = Counter[str]()
    for row in alive:
        for mode in TWO_POOLS.intersection(row["modes"] or ()):
            pool = fleet.pools[row["pool"]]
            pools = {model.partner_pool for name, model in fleet.models.items() if model.mode == mode and pool.serves(name)}
            found.update(pools if len(pools) == 1 else ())
    return found


def undrafted(
    connection: Connection, chosen: Mapping[str, str], named: Mapping[str, str], fleet: Fleet, now: datetime
) -> dict[str, str]:
    """Of batches with nothing left to lease but chunks that drafts do not suit, the model that is `named`; others are left out.
    `chosen`: what each is to be served with."""
    drafted = {name for name, model in chosen.items() if model != named[name] and fleet.models[model].mode in DRAFTING}
    plain = drafted - chunks.ready(connection, now, plain=False) if drafted else drafted
    return {name: named[name] for name in plain}


def _engines(served: ServedModel) -> str:
    """What models in the same mode with the same pool share."""
    return f"partners on {served.partner_pool} ({served.mode})"


def _bandwidth(pool: str, partner: str) -> str:
    return f"link {min(pool, partner)} - {max(pool, partner)}"
