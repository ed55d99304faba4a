"""Servers of an online service at each site, which leave more at night than by day, beside a pool of older GPUs that is ours.

Online work and ours together take half of what all machines could do; `offline` says how much of that is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import msgspec
import numpy as np

from batchsched.fleet import Fleet, Pool, Site, Slo
from batchsched.simulate.online import SERVICES, loads, room
from batchsched.simulate.rolling import AFTER_H
from batchsched.simulate.rooms import Room
from batchsched.simulate.scenarios.scenario import Scenario
from batchsched.simulate.scene import HARDWARE, MODELS_B, draw_scene, fleet_of

ALL_LOAD = 0.5
"""Of what all replicas could do, online work and ours."""
SERVERS, OURS = 4, 2
"""Replicas at each site: of the online service, and of ours."""
ONLINE_GPUS = ("H100", "A100-80", "L40S")
PROMISED = Slo(ttft_ms=500.0, tpot_ms=60.0)
CEILING = 64


def shared(
    zones: Sequence[str], start: datetime, days: int, seed: int, *, offline: float = 0.25, data: Path | None = None
) -> Scenario:
    """`offline`: our share of all load, below 1. `data`: folder with traces of online load; without it load is made up."""
    fleet = _fleet(zones)
    whole = sum(pool.count for pool in fleet.pools.values())
    online = sum(pool.count for pool in fleet.pools.values() if pool.kind == "spare")
    rooms = rooms_of(fleet, (1 - offline) * ALL_LOAD * whole / online, start, days, seed, data)
    left = {name: one.mean(0.0, days * 86400.0) for name, one in rooms.items()}
    open_to_us = sum(pool.count * left.get(name, 1.0) for name, pool in fleet.pools.items())
    load = offline * ALL_LOAD * whole / open_to_us
    drawn = draw_scene(zones, days, seed, load=load, fleet=fleet, left=left)
    scene = msgspec.structs.replace(drawn, rooms=rooms)
    return Scenario(f"shared, {offline:.0%} offline", tuple(zones), start, scene, load)


def rooms_of(fleet: Fleet, level: float, start: datetime, days: int, seed: int, data: Path | None) -> dict[str, Room]:
    """What online users leave of the servers of each spare pool. `level`: of what a server does, what they take in the mean."""
    known, servers = loads(data), [name for name, pool in fleet.pools.items() if pool.kind == "spare"]
    rooms: dict[str, Room] = {}
    for n, name in enumerate(servers):
        rng = np.random.default_rng([seed, days, n])
        rooms[name] = room(known[SERVICES[n % len(SERVICES)]], level, start, days * 24 + AFTER_H, rng)
    return rooms


def online_pool(n: int, zone: str) -> dict[str, Pool]:
    """The servers of online users at the so-many-th site. They have one model each, in turn."""
    models = list(MODELS_B)
    pool = Pool(
        site=zone,
        kind="spare",
        gpu=ONLINE_GPUS[n % len(ONLINE_GPUS)],
        count=SERVERS,
        models=[models[(n + 1) % len(models)]],
        slo=PROMISED,
        ceiling=CEILING,
    )
    return {f"online-{zone}": pool}


def _fleet(zones: Sequence[str]) -> Fleet:
    """Ours may have any model."""
    older = [gpu for gpu, _ in HARDWARE if gpu not in ONLINE_GPUS]
    pools: dict[str, Pool] = {}
    for n, zone in enumerate(zones):
        pools |= online_pool(n, zone)
        pools[f"{older[n % len(older)]}-{zone}"] = Pool(site=zone, gpu=older[n % len(older)], count=OURS)
    return fleet_of({zone: Site(zone) for zone in zones}, pools)
