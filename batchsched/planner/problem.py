"""The assignment problem as plain data: which job runs on which pool in which slot.

All times are float seconds from the plan's origin, the moment the problem was made; the caller converts. Work is counted in
replica-seconds: what one replica of a pool does in one second.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache
from itertools import pairwise
from statistics import NormalDist
from typing import Literal

import msgspec

SHORTEST_SLOT_S = 1.0
"""Cuts closer than this to a slot's edge are not made: slivers cost variables and buy nothing."""

CUT_SHARE = 0.05
"""Of the time until an instant, what may be lost where it is rounded down to a slot's end."""


class Slot(msgspec.Struct, frozen=True):
    """A planning step."""

    start_s: float
    length_s: float

    @property
    def end_s(self) -> float:
        """Where the next one begins."""
        return self.start_s + self.length_s


class Supply(msgspec.Struct, frozen=True):
    """How sure the capacity of a pool is. Spreads are standard deviations of its logarithm."""

    sigma: float = 0.0
    """Of an error that lasts: all slots are off alike."""
    slot_sigma: float = 0.0
    """Of errors that come and go, each for `steady_s` seconds."""
    steady_s: float = 900.0
    failures_per_replica_h: float = 0.0
    repair_s: float = 0.0
    """Replica-seconds that a failure takes, from the last answer kept until the replica works again."""


SURE = Supply()


_LEAST_SPEED = 0.01
"""Of a replica, beyond the last slot: others leave something at some time."""


class PoolState(msgspec.Struct, frozen=True):
    """What the planner knows of a pool. `capacity` and `intensity_g_per_kwh` have one entry a slot."""

    name: str
    site: str
    zone: str
    replicas: int
    capacity: list[float]
    """Replicas open in each slot, 0..replicas, windows already applied; a fraction where it is open for part of the slot."""
    pue: float
    intensity_g_per_kwh: list[float | None]
    """Mean forecast of each slot; None where unknown, which is never taken for zero."""
    loaded: list[str] = []
    """Models loaded now, one entry a replica; of a configuration that is not plain its name, at its first pool."""
    simulated: bool = False
    home: bool = False
    newness: tuple[float, float] = (0.0, 0.0)
    """Orders hardware from old to new (fleet.Fleet.newness)."""
    embodied_g_per_s: float | None = 0.0
    """Manufacturing carbon of a second of one replica, where the policy weighs it in decisions; None where it is unknown."""
    energy_g_per_kwh: float = 0.0
    """What a kWh at the socket weighs beside its carbon: its price, or energy as such, where plans weigh them."""
    price_g_per_s: float = 0.0
    """What a second of one replica weighs as money."""
    supply: Supply = SURE
    kind: str = ""
    """What hardware it is: pools of one kind share the errors of their energy and of their making; empty: like no other."""
    energy_sigma: float = 0.0
    """How wrong its joules may be for given work: the standard deviation of their logarithm."""
    embodied_sigma: float = 0.0
    """The same of `embodied_g_per_s`."""
    speed: list[float] = []
    """How fast one replica works in each slot, by what efforts say: less where others have a part of it, which `capacity` counts
    already. Empty: always as they say."""

    def takes_s(self, slots: Sequence[Slot], from_s: float, work_s: float) -> float:
        """How long one replica works from then on at what efforts count as so many seconds; after the last slot as in that."""
        if not self.speed:
            return work_s
        at_s, left_s = from_s, work_s
        for slot, speed in zip(slots, self.speed, strict=True):
            done_s = max(0.0, slot.end_s - at_s) * speed
            if done_s > left_s:
                return at_s - from_s + left_s / speed
            at_s, left_s = max(at_s, slot.end_s), left_s - done_s
        return at_s - from_s + left_s / max(_LEAST_SPEED, self.speed[-1])


class Link(msgspec.Struct, frozen=True):
    """What configurations share that no pool's workers serve by themselves: the bandwidth between pools, engines of another pool
    that run beside theirs. Its name is no pool's."""

    name: str
    capacity: list[float]
    """Of each slot, in the unit in which configurations ask for it."""
    embodied_g_per_s: float | None = 0.0
    """Manufacturing carbon of a second of one unit, as a pool has it of a replica."""
    price_g_per_s: float = 0.0
    """What a second of one unit weighs as money."""
    pool: str = ""
    """Of which pool its units are replicas: such as serve beside another pool's workers alone. Empty: of none."""


class Configuration(msgspec.Struct, frozen=True, dict=True):
    """A model, served in a way: what one replica takes, for as long as it starts or works. Of one site."""

    model: str
    takes: dict[str, float]
    """Replicas of each pool, a part of one allowed; the first pool's workers lease for it."""
    links: dict[str, float] = {}
    mode: str = "standalone"

    @cached_property
    def pool(self) -> str:
        """The pool whose workers lease for it."""
        return next(iter(self.takes))

    @property
    def plain(self) -> bool:
        """Is it the model by itself on one replica of a pool?"""
        return self.takes == {self.pool: 1.0} and not self.links and self.mode == "standalone"

    @cached_property
    def name(self) -> str:
        """The same for all that are the same, whatever jobs call them."""
        if self.plain:
            return f"{self.model} on {self.pool}"
        parts = [f"{n:g} {name}" for name, n in [*self.takes.items(), *sorted(self.links.items())]]
        return f"{self.model} on {' + '.join(parts)} ({self.mode})"

    @cached_property
    def shares(self) -> list[tuple[str, float]]:
        """What it takes of each pool and link."""
        return [*self.takes.items(), *self.links.items()]


@lru_cache(maxsize=4096)
def standalone(model: str, pool: str) -> Configuration:
    """The model by itself on one replica of a pool."""
    return Configuration(model, {pool: 1.0})


class Effort(msgspec.Struct, frozen=True):
    """What the rest of a job takes somewhere: replica-seconds, watts meanwhile, seconds to start an engine for it."""

    seconds: float
    power_w: float
    startup_s: float


class Job(msgspec.Struct, frozen=True):
    """The rest of a batch. The three mappings have one entry for each configuration in which it may run.

    The name of a pool stands for the model that the job names, by itself on one replica there; what every other name stands for
    is in `configurations`.
    """

    batch_id: str
    model: str
    """The one that its requests name."""
    remaining_requests: int
    seconds_on: dict[str, float]
    """Expected replica-seconds, above 0, that all the remaining work takes in each configuration."""
    power_w_on: dict[str, float]
    startup_s_on: dict[str, float]
    deadline_s: float
    sigma: float = 0.0
    """Standard deviation of log(seconds) that is common to all jobs of the model: how wrong its profile may be."""
    sigma_own: float = 0.0
    """The same for what is this job's alone: how wrong its token counts may be."""
    confidence: float = 0.99
    weight: float = 1.0
    finish_late: bool = False
    """Go on after the deadline; otherwise what is not done by then is lost."""
    tenant: str = "default"
    priority: int = 0
    """Orders the work of one tenant; the higher first."""
    uniform: bool = False
    """It has to stay in one configuration (uniform.one_each chooses it)."""
    max_replicas: int | None = None
    """Replicas that can work on it at once (open chunks); None: as many as it has requests."""
    most_in_piece: int | None = None
    """Requests of its largest open chunk; None: all are alike."""
    configurations: dict[str, Configuration] = {}
    """Of those of its names that are not a pool's."""
    as_named: dict[str, Effort] = {}
    """By pool, where it might be with the model that it names, and is not to be: what that would take. Never planned."""

    transfer_g_on: dict[str, float] = {}
    """What moving files for all the rest weighs, in grams with money where that is weighed; where absent nothing."""
    load_g_on: dict[str, float] = {}
    """The same of the model's weights, for each start of an engine."""
    at_once: bool = False
    """It was told to start now: it is not shifted."""
    idle_w_on: dict[str, float] = {}
    """Watts of a replica that is kept ready and has nothing to do; where absent none."""
    sure_s: dict[str, float] = {}
    """For how many seconds every open replica of the pool can work in a configuration; where absent always. By its speed no
    deadline after that is promised."""

    def idle_w(self, key: str) -> float:
        """Watts of a ready replica without work: never more than at work."""
        return max(0.0, min(self.idle_w_on.get(key, 0.0), self.power_w_on[key]))

    def transfer_g_per_s(self, key: str) -> float:
        """What moving files weighs in a replica-second of work."""
        seconds = self.seconds_on.get(key, 0.0)
        return self.transfer_g_on.get(key, 0.0) / seconds if seconds > 0 else 0.0

    def configuration(self, key: str) -> Configuration:
        """What a name in its mappings stands for."""
        return self.configurations.get(key) or standalone(self.model, key)

    def keys_on(self, pool: str) -> list[str]:
        """Its names for configurations that a pool's workers lease for, the fastest first."""
        if not self.configurations:
            return [pool] if pool in self.seconds_on else []
        mine = [key for key in self.seconds_on if self.configuration(key).pool == pool]
        return sorted(mine, key=lambda key: (self.seconds_on[key], key))

    def key_of(self, config: str) -> str:
        """Its name for the configuration of that name. Raises KeyError."""
        for key in self.seconds_on:
            if self.configuration(key).name == config:
                return key
        raise KeyError(config)

    @property
    def pools(self) -> list[str]:
        """Those whose workers may lease it, in the order of its mappings."""
        if not self.configurations:
            return list(self.seconds_on)
        return list(dict.fromkeys(self.configuration(key).pool for key in self.seconds_on))

    def goes_on(self, pool: str) -> bool:
        """Is it one of `pools`?"""
        return pool in (self.pools if self.configurations else self.seconds_on)

    @property
    def work_on(self) -> dict[str, float]:
        """Expected replica-seconds on each pool, as deadlines count on them: in its fastest configuration there of those that are
        sure until its own; where none is, in its fastest."""
        if not self.configurations:
            return self.seconds_on
        found: dict[str, tuple[bool, float]] = {}
        for key, seconds in self.seconds_on.items():
            pool, one = self.configuration(key).pool, (self.deadline_s > self.sure_s.get(key, math.inf), seconds)
            found[pool] = min(one, found.get(pool, one))
        return {pool: seconds for pool, (_, seconds) in found.items()}

    def named_on(self, pool: str) -> Effort | None:
        """What it takes on a pool with the model that it names; None where that cannot be."""
        if pool in self.seconds_on:
            return Effort(self.seconds_on[pool], self.power_w_on[pool], self.startup_s_on[pool])
        return self.as_named.get(pool)

    @property
    def width(self) -> int:
        """Most replicas that it can use at once."""
        return max(1, self.remaining_requests if self.max_replicas is None else min(self.max_replicas, self.remaining_requests))

    @property
    def largest(self) -> float:
        """Share of its work that its largest chunk is."""
        return min(1.0, max(1 / self.width, (self.most_in_piece or 0) / max(1, self.remaining_requests)))

    @property
    def spread(self) -> float:
        """Standard deviation of log(seconds), both errors together."""
        return math.hypot(self.sigma, self.sigma_own)


class Risk(msgspec.Struct, frozen=True):
    """What a plan is to hold low: the mean of the grams, or in part their `measure` over futures that may come true."""

    weight: float = 0.0
    """Of the measure, 0 to 1; the mean has the rest."""
    measure: Literal["mean", "quantile", "cvar"] = "cvar"
    """`cvar`: the mean of the futures beyond the quantile."""
    level: float = 0.9
    """Of the quantile."""


class Stood(msgspec.Struct, frozen=True, array_like=True):
    """A stretch of work as the last plan had it, in the new problem's time."""

    batch_id: str
    key: str
    start_s: float
    end_s: float
    seconds: float


class Problem(msgspec.Struct, frozen=True):
    """Slots in order and without gaps; pools; jobs; links between pools."""

    slots: list[Slot]
    pools: list[PoolState]
    jobs: list[Job]
    scenarios: dict[str, list[list[float]]] = {}
    """Futures of the intensity, by zone: of each its g/kWh by slot; the first of all zones belong together, and so on."""
    risk: Risk = Risk()
    links: list[Link] = []
    standing: list[Stood] = []
    """What stood when it was made: where the search for a plan may begin."""
    transfer_sigma: float = 0.0
    """How wrong the grams of moving files may be, all alike: the standard deviation of their logarithm."""
    churn: float = 0.0
    """A plan replaces what stood where it saves more than this share of its cost, or leaves less work late."""
    min_run_s: float = 0.0
    """How long an engine should run once it is started; a wish (runs.py)."""

    @property
    def end_s(self) -> float:
        """End of the horizon."""
        return self.slots[-1].end_s if self.slots else 0.0

    def pool(self, name: str) -> PoolState:
        """The pool of that name. Raises KeyError."""
        for pool in self.pools:
            if pool.name == name:
                return pool
        raise KeyError(name)

    def has(self, config: Configuration) -> bool:
        """Are there all pools and links that it takes?"""
        known = self.capacity
        return all(name in known for name, _ in config.shares)

    def ready(self, config: Configuration) -> int:
        """Its replicas that are loaded now."""
        return self.pool(config.pool).loaded.count(config.model if config.plain else config.name)

    @property
    def places(self) -> list[PoolState | Link]:
        """What configurations take of: pools, then links."""
        return [*self.pools, *self.links]

    @property
    def capacity(self) -> dict[str, list[float]]:
        """What configurations take of, pools and links, in each slot."""
        return {pool.name: pool.capacity for pool in self.pools} | {link.name: link.capacity for link in self.links}


def quantile_factor(confidence: float, sigma: float) -> float:
    """What to multiply the mean of a lognormal by to get its quantile: exp(z sigma - sigma^2 / 2), and never less than 1.

    Below 1 it would plan for less than the expected work, which nobody who sets a deadline means.
    """
    return max(1.0, math.exp(NormalDist().inv_cdf(confidence) * sigma - sigma * sigma / 2)) if sigma > 0 else 1.0


def make_slots(
    horizon_s: float, *, slot_s: float, long_slot_s: float, fine_s: float, offset_s: float = 0.0, cuts: Iterable[float] = ()
) -> list[Slot]:
    """Short slots for the first `fine_s` seconds, then long ones; a further boundary at each of `cuts` (windows, forecast steps).

    `offset_s`: length of the first slot where the plan begins inside a step of the clock; 0 for a whole one.
    """
    edges = [0.0]
    if 0 < offset_s < slot_s:
        edges.append(offset_s)
    while edges[-1] < horizon_s - SHORTEST_SLOT_S:
        step = slot_s if edges[-1] < fine_s - SHORTEST_SLOT_S else long_slot_s
        edges.append(min(edges[-1] + step, horizon_s))
    return [Slot(a, b - a) for a, b in pairwise(_with_cuts(edges, cuts))]


def open_share(slots: list[Slot], intervals: Iterable[tuple[float, float]], replicas: int) -> list[float]:
    """Per-slot capacity of a pool that is open during these intervals: replicas times the share of the slot that is open."""
    spans = list(intervals)
    return [
        replicas * min(1.0, sum(max(0.0, min(b, slot.end_s) - max(a, slot.start_s)) for a, b in spans) / slot.length_s)
        for slot in slots
    ]


def cut(problem: Problem, instants: Iterable[float]) -> Problem:
    """The same problem with further slot boundaries; both parts of a slot inherit its capacity and intensity."""
    if not problem.slots:
        return problem
    edges = _with_cuts([problem.slots[0].start_s, *(slot.end_s for slot in problem.slots)], instants)
    slots = [Slot(a, b - a) for a, b in pairwise(edges)]
    starts = [slot.start_s for slot in problem.slots]
    parent = [bisect_right(starts, slot.start_s) - 1 for slot in slots]
    pools = [
        msgspec.structs.replace(
            pool,
            capacity=[pool.capacity[i] for i in parent],
            intensity_g_per_kwh=[pool.intensity_g_per_kwh[i] for i in parent],
            speed=[pool.speed[i] for i in parent] if pool.speed else [],
        )
        for pool in problem.pools
    ]
    links = [msgspec.structs.replace(link, capacity=[link.capacity[i] for i in parent]) for link in problem.links]
    scenarios = {zone: [[row[i] for i in parent] for row in futures] for zone, futures in problem.scenarios.items()}
    return msgspec.structs.replace(problem, slots=slots, pools=pools, links=links, scenarios=scenarios)


def telling(slots: list[Slot], instants: Iterable[float]) -> list[float]:
    """Of many instants, few at which to cut: then each has a boundary before it by at most `CUT_SHARE` of the time until it."""
    ends = [slot.end_s for slot in slots]
    chosen = [slots[0].start_s] if slots else [0.0]
    for at in sorted(instants):
        before = bisect_right(ends, at) - 1
        boundary = max(chosen[-1], ends[before]) if before >= 0 else chosen[-1]
        if at - boundary > CUT_SHARE * at:
            chosen.append(at)
    return chosen[1:]


def _with_cuts(edges: list[float], cuts: Iterable[float]) -> list[float]:
    """`edges` (sorted) and those cuts that leave no sliver, sorted."""
    out = list(edges)
    for at in sorted(cuts):
        i = bisect_right(out, at)
        if 0 < i < len(out) and at - out[i - 1] >= SHORTEST_SLOT_S and out[i] - at >= SHORTEST_SLOT_S:
            out.insert(i, at)
    return out
