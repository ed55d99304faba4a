"""Scenarios by name, each of zones (the first is home), a first day, days, a seed and a load."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

from batchsched.simulate.scenarios import bad_days
from batchsched.simulate.scenarios.everything import everything
from batchsched.simulate.scenarios.lengths import lengths
from batchsched.simulate.scenarios.regions import regions
from batchsched.simulate.scenarios.scenario import Scenario
from batchsched.simulate.scenarios.services import services
from batchsched.simulate.scenarios.shared import shared
from batchsched.simulate.scenarios.site import site


class Asked(NamedTuple):
    """What a scenario is made of. `load`: the share of the fleet's time that the work takes, where the scenario does not say it;
    `data`: folder with traces, where there is one."""

    zones: Sequence[str]
    start: datetime
    days: int
    seed: int
    load: float
    data: Path | None = None


def _regions(asked: Asked) -> Scenario:
    return regions(asked.zones, asked.start, asked.days, asked.seed, load=asked.load)


def _site(asked: Asked) -> Scenario:
    return site(asked.zones[0], asked.start, asked.days, asked.seed, asked.load)


def _shared(offline: float, asked: Asked) -> Scenario:
    return shared(asked.zones, asked.start, asked.days, asked.seed, offline=offline, data=asked.data)


def _everything(asked: Asked) -> Scenario:
    return everything(asked.zones, asked.start, asked.days, asked.seed, load=asked.load, data=asked.data)


def _services(asked: Asked) -> Scenario:
    return services(_regions(asked), asked.seed, asked.data)


def _bad(change: Callable[[Scenario, int], Scenario], asked: Asked) -> Scenario:
    return change(_regions(asked), asked.seed)


NAMED: dict[str, Callable[[Asked], Scenario]] = {
    "regions": _regions,
    "site": _site,
    "shared 25": partial(_shared, 0.25),
    "shared 55": partial(_shared, 0.55),
    "everything": _everything,
    "lengths": partial(_bad, lengths),
    "services": _services,
    "wrong profiles": partial(_bad, lambda good, _seed: bad_days.wrong_profiles(good)),
    "spike": partial(_bad, bad_days.spike),
    "lost pool": partial(_bad, bad_days.lost_pool),
    "slow links": partial(_bad, bad_days.slow_links),
    "cut link": partial(_bad, bad_days.cut_link),
    "hanging feed": partial(_bad, bad_days.hanging_feed),
    "broken feed": partial(_bad, bad_days.broken_feed),
    "embodied low": partial(_bad, lambda good, _seed: bad_days.embodied(good, "low")),
    "embodied high": partial(_bad, lambda good, _seed: bad_days.embodied(good, "high")),
    "near zero": partial(_bad, bad_days.near_zero),
}
