"""Days on which something goes wrong, made of good ones: what is drawn comes from a seed.

Profiles that are off, a spike of load, a pool that is lost, links that are slow or cut, feeds of forecasts that hang or break;
and two that are not bad but odd: manufacturing at the ends of what was published, and a grid with next to no carbon.
"""

from __future__ import annotations

from datetime import timedelta

import msgspec
import numpy as np

from batchsched.fleet import Site
from batchsched.simulate.conditions import Conditions, Outage
from batchsched.simulate.feeds import Hanging, NearZero, broken
from batchsched.simulate.making import Figures
from batchsched.simulate.rolling import hours_of
from batchsched.simulate.scenarios.scenario import Scenario
from batchsched.simulate.scene import Arrival, draw_scene

SLOWER = 1.3
SPIKE = 3.0
"""So many times as many batches come."""
SPIKE_H = (48.0, 60.0)
"""In scenes of six days and more; in shorter ones it begins after a third."""
LOST_H = 24.0
CUT_H = 6.0
CUT_LEASE_TICKS = 1.5
"""A lease of who is cut off ends after so many ticks, at which the others are heard; in life after a minute or so."""
HANGS_H = 30.0
SLOW_GB_PER_S = 0.01, 0.1
"""Of links: a gigabyte takes 10 to 100 s."""


def wrong_profiles(good: Scenario, factor: float = SLOWER) -> Scenario:
    """All work takes so many times what profiles say and what was seen before, and nobody is told."""
    slower = [msgspec.structs.replace(one, slowness=one.slowness * factor) for one in good.scene.arrivals]
    scene = msgspec.structs.replace(good.scene, arrivals=slower, slower_since=factor)
    return _named(good, f"profiles wrong by {factor - 1:+.0%}", scene=scene)


def spike(good: Scenario, seed: int) -> Scenario:
    """For half a day more batches come: like those of other days, drawn from another seed."""
    scene = good.scene
    first_s = min(SPIKE_H[0] * 3600, scene.days * 86400 / 3)
    last_s = first_s + (SPIKE_H[1] - SPIKE_H[0]) * 3600
    more = []
    for n in range(1, round(SPIKE)):
        drawn = draw_scene(good.zones, scene.days, seed + n, load=good.load, fleet=scene.fleet).arrivals
        more += [msgspec.structs.replace(one, batch_id=f"{one.batch_id}_{n}") for one in drawn if first_s <= one.at_s < last_s]
    return _with(good, "a spike of load", sorted([*scene.arrivals, *more], key=lambda one: (one.at_s, one.batch_id)))


def _with(good: Scenario, name: str, arrivals: list[Arrival]) -> Scenario:
    return _named(good, name, scene=msgspec.structs.replace(good.scene, arrivals=arrivals))


def _named(good: Scenario, name: str, **changed: object) -> Scenario:
    return msgspec.structs.replace(good, name=f"{good.name}, {name}", **changed)


def _conditions(good: Scenario, **changed: object) -> Conditions:
    return msgspec.structs.replace(good.conditions, **changed)


def lost_pool(good: Scenario, seed: int) -> Scenario:
    """One pool is away for a day, from some time in the first half on: its workers stop, and come back."""
    rng = np.random.default_rng([seed, good.scene.days])
    pool = str(rng.choice(list(good.scene.fleet.pools)))
    start_s = float(rng.uniform(0, good.scene.days * 43200))
    away = Outage(pool, start_s, start_s + LOST_H * 3600)
    return _named(good, f"{pool} lost", conditions=_conditions(good, outages=(*good.conditions.outages, away)))


def cut_link(good: Scenario, seed: int) -> Scenario:
    """For six hours nothing is heard of a site that is not home: its workers go on with what they hold, and get nothing new. What
    they hold runs elsewhere too once its lease is over."""
    rng = np.random.default_rng([seed, good.scene.days, 1])
    fleet = good.scene.fleet
    site = str(rng.choice([name for name in fleet.sites if name != fleet.home_site] or list(fleet.sites)))
    start_s = float(rng.uniform(0, good.scene.days * 43200))
    mine = [name for name, pool in fleet.pools.items() if pool.site == site]
    silent = [Outage(name, start_s, start_s + CUT_H * 3600, silent=True) for name in mine]
    tick_s = good.conditions.tick_s
    cut = _conditions(good, outages=(*good.conditions.outages, *silent), lease_s=CUT_LEASE_TICKS * tick_s)
    return _named(good, f"{site} cut off", conditions=cut)


def slow_links(good: Scenario, seed: int) -> Scenario:
    """Between home and the other sites a gigabyte takes 10 to 100 s, so weights of models take minutes."""
    rng = np.random.default_rng([seed, good.scene.days, 2])
    fleet, low, high = good.scene.fleet, *np.log(SLOW_GB_PER_S)
    sites = {name: _linked(site, float(np.exp(rng.uniform(low, high)))) for name, site in fleet.sites.items()}
    scene = msgspec.structs.replace(good.scene, fleet=msgspec.structs.replace(fleet, sites=sites))
    return _named(good, "slow links", scene=scene)


def _linked(site: Site, gb_per_s: float) -> Site:
    return msgspec.structs.replace(site, network_gb_per_s=gb_per_s)


def embodied(good: Scenario, figures: Figures) -> Scenario:
    """Plans weigh what it took to make the hardware, all of it at the low, the mid or the high end of what was published."""
    return _named(good, f"embodied {figures}", conditions=_conditions(good, embodied=figures))


def near_zero(good: Scenario, seed: int) -> Scenario:
    """One zone has a grid of two grams at most, and for many hours of none at all."""
    zone = str(np.random.default_rng([seed, good.scene.days, 3]).choice(list(good.zones)))
    return _named(good, f"{zone} near zero", feed=lambda inner: NearZero(inner, zone))


def hanging_feed(good: Scenario, seed: int) -> Scenario:
    """For thirty hours no zone has news: no forecast, no measurement."""
    after_h = float(np.random.default_rng([seed, good.scene.days, 4]).uniform(0, good.scene.days * 12))
    since = good.start + timedelta(hours=int(after_h))
    return _named(good, "a feed that hangs", feed=lambda inner: Hanging(inner, since, since + timedelta(hours=HANGS_H)))


def broken_feed(good: Scenario, seed: int) -> Scenario:
    """The one source of forecasts breaks: its daily issues are stuck, biased, full of gaps, late, or missing, drawn by zone and
    day; they are judged as a server judges them."""
    hours = hours_of(good.scene)
    return _named(good, "a broken feed", feed=lambda inner: broken(inner, good.zones, good.start, hours, seed))
