"""In which ways the models of one look may be served: by themselves, and in those variants of them that pay (profiles/ways.py).

A variant of one pool is planned as a model of its own would be. One of two pools takes, beside its replica, an engine of the
other pool (a partner, of which each of its workers has one) and bandwidth of the link between them. Partners run by themselves
and are no replicas of their pool's workers, so those that are there are counted apart, at what the other pool's hardware weighs;
those that are expected, before any worker has come, are expected on the replicas that the other pool is to have.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from batchsched.fleet import Fleet
from batchsched.lines import EMBEDDINGS
from batchsched.planner import Slot
from batchsched.planner.problem import Configuration, Link, PoolState, standalone
from batchsched.profiles.profile import Profile
from batchsched.profiles.ways import Judged, judge, link_bytes_per_s
from batchsched.queue import chunks
from batchsched.variants import DRAFTING, TWO_POOLS, variants_of

Key = tuple[str, str]


class Ways:
    """Of one look. Keys are a model and a pool."""

    def __init__(
        self,
        fleet: Fleet,
        profiles: Mapping[Key, Profile],
        alive: Sequence[Mapping[str, Any]],
        replicas: Mapping[str, int],
        slots: Sequence[Slot],
    ) -> None:
        """`alive`: the live workers; before any has come, those are expected that are declared."""
        self._fleet, self._profiles, self._alive, self._replicas, self._slots = fleet, profiles, alive, replicas, slots
        self._judged = {key: self._judge(*key) for key in profiles if fleet.models[key[0]].variant_of}

    def beside(self, names: Iterable[str], endpoint: str) -> dict[str, str]:
        """Further ways to serve models of these names at an endpoint: of each variant the model that it stands for."""
        models = self._fleet.models
        return {} if endpoint == EMBEDDINGS else {name: models[name].variant_of for name in variants_of(models, names)}

    def pays(self, model: str, pool: str) -> bool:
        """May a variant be planned there although nobody named it?"""
        judged = self._judged.get((model, pool))
        return judged is not None and judged.pays

    def configuration(self, model: str, pool: str) -> Configuration:
        """What one replica takes."""
        served = self._fleet.models[model]
        if served.mode not in TWO_POOLS:
            return standalone(model, pool)
        known, links = self._profiles[model, pool], {_engines(model): 1.0}
        takes = {pool: 1.0} if self._alive else {pool: 1.0, served.partner_pool: 1.0}
        if known.sent is not None and known.sent.link_bytes_per_s is not None:
            links[_bandwidth(pool, served.partner_pool)] = link_bytes_per_s(known, served.mode)
        return Configuration(model, takes, links, served.mode)

    def links(self, pools: Sequence[PoolState]) -> list[Link]:
        """What configurations of two pools share beside replicas: engines of the other pool, and bandwidth. `pools`: what their
        replicas weigh."""
        found, weight = dict[str, float](), dict[str, PoolState]()
        states = {state.name: state for state in pools if self._alive}
        for model, pool in self._judged:
            served, sent = self._fleet.models[model], self._profiles[model, pool].sent
            if served.mode not in TWO_POOLS:
                continue
            found[_engines(model)] = found.get(_engines(model), 0.0) + self._partners(model, pool)
            if other := states.get(served.partner_pool):
                weight[_engines(model)] = other
            if sent is not None and sent.link_bytes_per_s is not None:
                name = _bandwidth(pool, served.partner_pool)
                found[name] = min(sent.link_bytes_per_s, found.get(name, sent.link_bytes_per_s))
        return [self._link(name, most, weight.get(name)) for name, most in found.items()]

    def _link(self, name: str, most: float, like: PoolState | None) -> Link:
        capacity = [most] * len(self._slots)
        return Link(name, capacity, like.embodied_g_per_s, like.price_g_per_s) if like else Link(name, capacity)

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
        if not self._alive:
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


def _engines(model: str) -> str:
    return f"partners of {model}"


def _bandwidth(pool: str, partner: str) -> str:
    return f"link {min(pool, partner)} - {max(pool, partner)}"
