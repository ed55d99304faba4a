"""One site with old and new GPUs, more or less busy."""

from __future__ import annotations

from datetime import datetime

from batchsched.fleet import Pool, Site
from batchsched.simulate.scenarios.scenario import Scenario
from batchsched.simulate.scene import HARDWARE, draw_scene, fleet_of


def site(zone: str, start: datetime, days: int, seed: int, load: float) -> Scenario:
    """A pool of each kind of hardware."""
    pools = {f"{gpu}-{zone}": Pool(site=zone, gpu=gpu, count=count) for gpu, count in HARDWARE}
    scene = draw_scene([zone], days, seed, load=load, fleet=fleet_of({zone: Site(zone)}, pools))
    return Scenario(f"site, {load:.0%}", (zone,), start, scene, load)
