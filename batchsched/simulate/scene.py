"""What happens in a simulation, whatever is decided: a small fleet, the batches that come, and how they really run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from batchsched.catalogue import Catalogue
from batchsched.fleet import Fleet, Pool, PoolWindow, ServedModel, Site
from batchsched.profiles.prior import prior
from batchsched.profiles.profile import Profile
from batchsched.settings import Carbon
from batchsched.simulate.rooms import Room

MODELS_B = {"small": 1.5, "middle": 8.0, "large": 32.0}
"""Billions of parameters."""
MODEL_ODDS = (0.3, 0.45, 0.25)
HARDWARE = (("H100", 2), ("A100-80", 4), ("L40S", 4), ("V100", 6), ("T4", 6))
"""What the pools are made of, newest first, and how many replicas each has."""
PRICE_PER_H = {"H100": 12.29, "A100-80": 5.12, "L40S": 1.861, "V100": 3.06, "T4": 0.526}
"""Dollars for an hour of one GPU: on demand at Amazon EC2 in us-east-1 in 2024 (p5.48xlarge and p4de.24xlarge an eighth,
g6e.xlarge, p3.2xlarge, g4dn.xlarge). No plan weighs money unless it is told to."""
POOLS_A_SITE = 2
WINDOW_H = (2.0, 48.0)
"""From a batch's coming to its deadline, evenly on the logarithm."""
BATCHES_A_DAY = 32.0
INPUT_TOKENS, OUTPUT_TOKENS = 500.0, 200.0
"""Of a request, as expected."""
CHUNK_REQUESTS = 200
SIGMA_MODEL, SIGMA_OWN = 0.10, 0.25
"""How far throughput is off what profiles say, for all of a model in a week; and lengths of answers, for each batch."""
LOAD = 0.3
"""Replica-seconds of the work, spread evenly over all replicas that may do it, beside all replica-seconds."""
MOST_OF_WINDOW = 0.2
"""Of the replica-seconds open to it until its deadline, what one batch may take."""
ANYWHERE = 0.4
"""Of batches: may run at all sites; the others at one, two or three."""
WEEK_S = 7 * 86400.0


class Arrival(msgspec.Struct, frozen=True):
    """A batch. Seconds count from the start of the simulation."""

    batch_id: str
    at_s: float
    deadline_s: float
    model: str
    requests: int
    pools: tuple[str, ...]
    """Where it may run, the newest hardware first."""
    output_tokens: float
    """Of a request, as it turns out."""
    slowness: float
    """Time that its work takes at given lengths, beside what the profiles say."""
    input_tokens: float = INPUT_TOKENS
    """Of a request."""
    expected_output_tokens: float = OUTPUT_TOKENS
    """Of a request, as the planner alone thinks that it will be; a whole server finds out for itself."""


class Scene(msgspec.Struct, frozen=True):
    """A fleet and what comes to it."""

    fleet: Fleet
    profiles: dict[tuple[str, str], Profile]
    """By model and pool."""
    arrivals: list[Arrival]
    """In order of coming."""
    days: int
    seed: int
    sigma_own: float = SIGMA_OWN
    """How far the lengths of a batch's answers are thought to be off what is expected."""
    slower_since: float = 1.0
    """All work takes so many times as long as the same did before the start, which is what a server knows by then."""
    rooms: dict[str, Room] = {}
    """What online users leave of a server of each spare pool."""
    windows: dict[str, PoolWindow] = {}
    """Windows of the pools, by name, beside those that pools have of their own."""
    network_kwh_per_gb: float = Carbon().network_kwh_per_gb
    """What files take on their way between sites."""
    catalogue: Catalogue | None = None
    """What the hardware is; None: ours."""


def draw_scene(
    zones: Sequence[str],
    days: int,
    seed: int,
    *,
    load: float = LOAD,
    fleet: Fleet | None = None,
    exact: bool = False,
    batches_a_day: float = BATCHES_A_DAY,
    left: Mapping[str, float] = {},
) -> Scene:
    """A fleet with two pools at a site in each zone (of which the first is home), or another one, and batches for so many days.

    `exact`: all work takes the time that profiles and expected lengths say, and everybody knows. `left`: by pool, the mean share
    that others leave of it, where there are others; the load is of that.
    """
    rng = np.random.default_rng([seed, days, len(zones)])
    fleet = fleet or _fleet(zones)
    sigma_model, sigma_own = (0.0, 0.0) if exact else (SIGMA_MODEL, SIGMA_OWN)
    profiles = {
        (model, name): msgspec.structs.replace(prior(model, name, pool.gpu, size), sigma=sigma_model)
        for name, pool in fleet.pools.items()
        for model, size in MODELS_B.items()
        if pool.serves(model)
    }
    count = rng.poisson(batches_a_day * days)
    at_s = np.sort(rng.uniform(0, days * 86400.0, count))
    window_s = 3600 * np.exp(rng.uniform(math.log(WINDOW_H[0]), math.log(WINDOW_H[1]), count))
    models = rng.choice(list(MODELS_B), count, p=MODEL_ODDS)
    places = [_able(fleet, str(model), _places(rng, fleet)) for model in models]
    size = rng.lognormal(0.0, 1.0, count) * np.sqrt(window_s)
    slow = {model: np.exp(rng.normal(0, sigma_model, days // 7 + 1) - sigma_model**2 / 2) for model in MODELS_B}
    lengths = np.exp(rng.normal(0, sigma_own, count) - sigma_own**2 / 2)
    ours = {name: pool.count * left.get(name, 1.0) for name, pool in fleet.pools.items()}
    open_to = np.array([sum(ours[name] for name in where) for where in places])
    able = zip(models.tolist(), places, strict=True)
    rate = np.array([sum(ours[name] / _request_s(profiles[model, name]) for name in where) for model, where in able])
    work_s = _scaled(size, MOST_OF_WINDOW * window_s * open_to, load * days * 86400.0 * sum(ours.values()))
    arrivals = [
        Arrival(
            batch_id=f"batch_{n:05d}",
            at_s=float(at_s[n]),
            deadline_s=float(at_s[n] + window_s[n]),
            model=str(models[n]),
            requests=max(1, round(work_s[n] * rate[n] / open_to[n])),
            pools=tuple(places[n]),
            output_tokens=OUTPUT_TOKENS * float(lengths[n]),
            slowness=float(slow[models[n]][int(at_s[n] // WEEK_S)]),
        )
        for n in range(count)
    ]
    return Scene(fleet, profiles, arrivals, days, seed, sigma_own)


def _request_s(profile: Profile) -> float:
    return profile.seconds(INPUT_TOKENS, OUTPUT_TOKENS)


def _fleet(zones: Sequence[str]) -> Fleet:
    pools: dict[str, Pool] = {}
    for number, zone in enumerate(zones):
        for other in range(POOLS_A_SITE):
            gpu, count = HARDWARE[(number + 2 * other) % len(HARDWARE)]
            pools[f"{gpu}-{zone}"] = Pool(site=zone, gpu=gpu, count=count)
    return fleet_of({zone: Site(zone) for zone in zones}, pools)


def fleet_of(sites: dict[str, Site], pools: dict[str, Pool]) -> Fleet:
    """These, with all models and with prices; the first site is home."""
    fleet = Fleet(sites, pools, {model: ServedModel(parameters_b=size) for model, size in MODELS_B.items()}, next(iter(sites)))
    priced = {
        name: msgspec.structs.replace(pool, price_per_h=PRICE_PER_H[pool.gpu] * fleet.replica_gpus[name])
        for name, pool in pools.items()
    }
    return msgspec.structs.replace(fleet, pools=priced)


def _places(rng: np.random.Generator, fleet: Fleet) -> list[str]:
    """The pools of all sites, or of some."""
    sites = list(fleet.sites)
    chosen = sites if rng.random() < ANYWHERE else rng.permutation(sites)[: rng.integers(1, min(3, len(sites)) + 1)].tolist()
    found = [name for name, pool in fleet.pools.items() if pool.site in chosen]
    return sorted(found, key=lambda name: (fleet.newness(name), fleet.pools[name].site == fleet.home_site, name), reverse=True)


def _able(fleet: Fleet, model: str, places: list[str]) -> list[str]:
    """Those of the pools that serve a model; where none does, all that do anywhere."""
    return [name for name in places if fleet.pools[name].serves(model)] or fleet.pools_for(model)


def _scaled(size: np.ndarray, most: np.ndarray, total: float) -> np.ndarray:
    """Sizes that come to `total`, none above its most, as far as that can be."""
    for _ in range(8):
        size = np.minimum(size * total / max(float(size.sum()), math.ulp(1.0)), most)
    return size
