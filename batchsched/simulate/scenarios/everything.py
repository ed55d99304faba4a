"""Everything at once: at each site two pools of ours, old GPUs and new ones, and beside them servers of online users who leave
more at night than by day; batches that may not leave some of the sites; and links between these that take their time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from batchsched.fleet import Pool
from batchsched.simulate.scenarios.bad_days import slow_links
from batchsched.simulate.scenarios.regions import regions
from batchsched.simulate.scenarios.scenario import Scenario
from batchsched.simulate.scenarios.shared import online_pool, rooms_of
from batchsched.simulate.scene import LOAD, draw_scene, fleet_of

ONLINE_LOAD = 0.5
"""Of what the servers of online users could do, what these take in the mean."""


def everything(
    zones: Sequence[str], start: datetime, days: int, seed: int, *, load: float = LOAD, data: Path | None = None
) -> Scenario:
    """`load`: of the time that all machines leave us, what our work takes. `data`: folder with traces of online load; without it
    load is made up."""
    ours = regions(zones, start, days, seed).scene.fleet
    theirs: dict[str, Pool] = {}
    for n, zone in enumerate(zones):
        theirs |= online_pool(n, zone)
    fleet = fleet_of(ours.sites, {**ours.pools, **theirs})
    rooms = rooms_of(fleet, ONLINE_LOAD, start, days, seed, data)
    left = {name: one.mean(0.0, days * 86400.0) for name, one in rooms.items()}
    drawn = draw_scene(zones, days, seed, load=load, fleet=fleet, left=left)
    found = Scenario("everything", tuple(zones), start, msgspec.structs.replace(drawn, rooms=rooms), load)
    return msgspec.structs.replace(slow_links(found, seed), name=found.name)
