"""Five sites in different zones, two pools each; four batches of ten may run anywhere, the others at one to three sites."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from batchsched.simulate.scenarios.scenario import Scenario
from batchsched.simulate.scene import LOAD, draw_scene


def regions(zones: Sequence[str], start: datetime, days: int, seed: int, *, load: float = LOAD, exact: bool = False) -> Scenario:
    """The first zone is home. `exact`: rates and lengths are as everybody thinks."""
    scene = draw_scene(zones, days, seed, load=load, exact=exact)
    return Scenario("regions, exact" if exact else "regions", tuple(zones), start, scene, load)
