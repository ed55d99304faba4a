"""One job at a time, as the literature has it: no limit of capacity, rates known exactly, engines that start in no time for
nothing.

In every zone a job of some hours begins every three hours and may take until its window is over; it is one replica's work, may be
interrupted, and may not leave its zone. Comparable with the shares captured in reference tables of forecasts and shifting.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime

from batchsched.fleet import Fleet, Pool, ServedModel, Site
from batchsched.profiles.profile import Profile
from batchsched.simulate.scenarios.scenario import Scenario
from batchsched.simulate.scene import INPUT_TOKENS, OUTPUT_TOKENS, Arrival, Scene

EVERY_H = 3
REQUESTS = 180
"""A chunk, so that one replica works on it; of which a whole number are done in an hour, since nobody plans for parts of one."""
MODEL = "any"
POWER_W = 1000.0


def single(zones: Sequence[str], start: datetime, days: int, window_h: int, work_h: int = 6, *, apart: bool = False) -> Scenario:
    """`start`: a whole hour. No seed: nothing is drawn. `apart`: each job that may be open at the same time has a site with one
    replica to itself, so that also who cuts jobs into chunks works on one of them at a time."""
    at_once = math.ceil(window_h / EVERY_H) + 1
    lanes = at_once if apart else 1
    sites = {_site(zone, lane, lanes): Site(zone, pue=1.0) for zone in zones for lane in range(lanes)}
    pools = {f"in {site}": Pool(site=site, gpu="T4", count=at_once // lanes) for site in sites}
    fleet = Fleet(sites, pools, {MODEL: ServedModel(parameters_b=1.0)}, next(iter(sites)))
    arrivals = [
        Arrival(
            f"{zone} {hour:05d}",
            hour * 3600.0,
            (hour + window_h) * 3600.0,
            MODEL,
            REQUESTS,
            (f"in {_site(zone, hour // EVERY_H % lanes, lanes)}",),
            OUTPUT_TOKENS,
            1.0,
        )
        for hour in range(0, days * 24, EVERY_H)
        for zone in zones
    ]
    request_s = work_h * 3600.0 / REQUESTS
    profiles = {(MODEL, name): _profile(name, request_s) for name in pools}
    return Scenario(f"single, {window_h} h", tuple(zones), start, Scene(fleet, profiles, arrivals, days, 0, sigma_own=0.0))


def _site(zone: str, lane: int, lanes: int) -> str:
    return zone if lanes == 1 else f"{zone} {lane}"


def _profile(pool: str, request_s: float) -> Profile:
    """So many seconds a request, half of them to read it."""
    return Profile(
        model=MODEL,
        pool=pool,
        input_tokens_per_s=INPUT_TOKENS / (request_s / 2),
        output_tokens_per_s=OUTPUT_TOKENS / (request_s / 2),
        power_w=POWER_W,
        idle_w=0.0,
        sigma=0.0,
        startup_s=0.0,
    )
