"""Fleets from a seed: pools of real GPU types at sites in real zones, models by the product's own prior, batches."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from batchsched.fleet import GPU_TYPES
from batchsched.planner.fleet_model import FleetModel, Floats, Ints
from batchsched.profiles.prior import prior
from batchsched.profiles.roofline import gpus_for
from batchsched.profiles.shape import shape
from batchsched.units import JOULES_PER_KWH
from benchmarks.planner.instance import Instance
from benchmarks.planner.intensities import draw

HARDWARE = {"H100": 1.0, "A100-80": 1.5, "L40S": 1.5, "V100": 2.0, "T4": 2.0, "cpu": 1.0}
"""Types of pools, and how large a pool of each is beside the others. A CPU pool counts machines."""
VCPUS = 64
Bools = npt.NDArray[np.bool_]
MODELS_B = (1.5, 8.0, 32.0, 70.0)
"""Billions of parameters."""
MODEL_SETS = ((0,), (1,), (2,), (3,), (0, 1), (1, 2))
MODEL_ODDS = (0.25, 0.3, 0.15, 0.1, 0.1, 0.1)
MOST_NEEDED = 8
"""GPUs of a replica: what would take more does not run there."""
INPUT_TOKENS, OUTPUT_TOKENS = 500.0, 200.0
"""Of a request."""
SLOTS_A_DAY, SLOT_S, LONG_SLOT_S = 96, 900.0, 3600.0
SPARE_SHARE, WINDOW_SHARE = 0.35, 0.15
"""Of pools: what online servers leave, and what is open for part of the day only."""
RELEASED_SHARE = 0.35
"""Of batches: known and ready as the plan begins."""
LEAST_WINDOW_H = 2.0
LATE_FACTOR = 10.0
"""A late request costs this times the dearest way to serve it."""
LOAD = 0.45
"""GPU-seconds that the batches take, spread evenly over all GPUs that may run them, beside the GPU-seconds open."""
MOST_OF_WINDOW = 0.25
"""Of the GPU-seconds open to it, what one batch may take."""


class Size(NamedTuple):
    """A row of the benchmark."""

    batches: int
    pools: int
    slots: int
    gpus: int

    @property
    def name(self) -> str:
        """As `--rows` takes it."""
        return f"{self.batches}x{self.pools}x{self.slots}"


ROWS = (
    Size(50, 8, 96, 64),
    Size(1_000, 20, 96, 340),
    Size(5_000, 40, 96, 1_360),
    Size(20_000, 20, 96, 2_700),
    Size(1_000, 20, 168, 340),
)


def generate(size: Size, seed: int) -> Instance:
    """The same fleet for the same size and seed (and the same shared data, or none)."""
    rng = np.random.default_rng([seed, *size])
    slot_s = np.array([SLOT_S] * min(size.slots, SLOTS_A_DAY) + [LONG_SLOT_S] * max(0, size.slots - SLOTS_A_DAY))
    sites = max(min(4, size.pools), min(10, size.pools // 4))
    starts_h = (np.cumsum(slot_s) - slot_s) / 3600
    zones, hourly = draw(rng, sites, int(starts_h[-1]) + 1)
    site = np.arange(size.pools) % sites
    kinds = hardware(rng, site)
    gpus = shares(rng, kinds, size.gpus)
    need, rate, power, idle, startup = profiles(kinds)
    capacity = opened(rng, gpus, starts_h)
    models, chosen = accepted(rng, size.batches, need, capacity, site)
    release, due = windows(rng, size.batches, starts_h, slot_s)
    able = models[:, :, None] & chosen[:, None, site] & (need > 0)
    until_s = np.zeros((size.pools, size.slots + 1))
    np.cumsum(capacity * slot_s, axis=1, out=until_s[:, 1:])
    shut = (np.where(able.any(axis=1), (until_s[:, due] - until_s[:, release]).T, 0.0) < slot_s[0] * MOST_NEEDED).all(axis=1)
    release[shut], due[shut] = 0, size.slots
    work = works(rng, able, need, rate, until_s, release, due)
    classes, batch_class = np.unique(np.hstack([models, chosen]), axis=0, return_inverse=True)
    m, p = np.nonzero(need)
    c, k = np.nonzero(classes[:, m] & classes[:, len(need) + site[p]])
    pue = rng.uniform(1.08, 1.5, sites)[site][p]
    g_per_j = pue[:, None] * hourly[site[p]][:, starts_h.astype(int)] / JOULES_PER_KWH
    idle_g = idle[m, p][:, None] * slot_s * g_per_j
    run_g = ((power - idle)[m, p][:, None] * g_per_j)[k]
    late_g = np.zeros(len(classes))
    np.maximum.at(late_g, c, LATE_FACTOR * ((run_g + (idle_g / slot_s)[k]) / rate[m, p][k][:, None]).max(axis=1))
    model = FleetModel(
        slot_s=slot_s,
        capacity=capacity.astype(float),
        room=np.minimum(capacity, np.concatenate([capacity[:, 1:], capacity[:, -1:]], axis=1)).astype(float),
        gpus=np.eye(size.pools)[p] * need[m, p][:, None],
        loaded=np.zeros(len(m), np.int64),
        load_s=startup[m, p],
        load_g=((power - idle) * startup)[m, p][:, None] * g_per_j + idle_g,
        hold_g=np.concatenate([idle_g[:, 1:], np.zeros((len(m), 1))], axis=1),
        arc_class=c,
        arc_config=k,
        rate=rate[m, p][k],
        run_g=run_g,
        late_g=late_g,
        batch_class=batch_class.ravel(),
        release=release,
        due=due,
        work=work,
    )
    names = tuple(f"{kind}-{zones[s]}-{number}" for number, (kind, s) in enumerate(zip(kinds, site, strict=True)))
    newness = np.array([GPU_TYPES[kind].compute_capability if kind in GPU_TYPES else 0.0 for kind in kinds])[p]
    return Instance(model, seed, zones, names, gpus, newness)


def hardware(rng: np.random.Generator, site: Ints) -> list[str]:
    """A type a pool; a site has one of each before it has two of one."""
    kinds = [""] * len(site)
    for s in range(int(site.max()) + 1):
        names: list[str] = []
        for p in np.flatnonzero(site == s):
            names = names or [str(name) for name in rng.permutation(list(HARDWARE))]
            kinds[p] = names.pop()
    if "H100" not in kinds and "A100-80" not in kinds:
        kinds[0] = "H100"
    return kinds


def shares(rng: np.random.Generator, kinds: list[str], gpus: int) -> Ints:
    """So many GPUs over the pools, none below the largest replica of the smaller models."""
    weight = np.array([HARDWARE[kind] for kind in kinds]) * rng.lognormal(0.0, 0.3, len(kinds))
    found: Ints = np.maximum(2, np.round(gpus * weight / weight.sum())).astype(np.int64)
    return found


def profiles(kinds: list[str]) -> tuple[Ints, Floats, Floats, Floats, Floats]:
    """[M, P] GPUs, requests a second, watts busy and idle, and start-up seconds of a replica, as the prior has them."""
    need = np.zeros((len(MODELS_B), len(kinds)), np.int64)
    rate, power, idle, startup = (np.zeros(need.shape) for _ in range(4))
    for m, billions in enumerate(MODELS_B):
        for p, kind in enumerate(kinds):
            taken = 1 if kind == "cpu" else gpus_for(shape(billions), GPU_TYPES[kind])
            if taken > MOST_NEEDED or (kind == "cpu" and billions > 8):
                continue
            found = prior(f"{billions:g}B", kind, kind, billions, vcpus=VCPUS)
            need[m, p] = taken
            rate[m, p] = 1 / found.seconds(INPUT_TOKENS, OUTPUT_TOKENS)
            power[m, p] = found.power_for(INPUT_TOKENS, OUTPUT_TOKENS)
            idle[m, p] = found.idle_w
            startup[m, p] = found.startup_s
    return need, rate, power, idle, startup


def opened(rng: np.random.Generator, gpus: Ints, starts_h: Floats) -> Ints:
    """[P, T] GPUs: all of them, or what a daily tide of online traffic leaves, or only within a daily window."""
    capacity = np.repeat(gpus[:, None], len(starts_h), axis=1)
    for p, draw_kind in enumerate(rng.random(len(gpus))):
        if draw_kind < SPARE_SHARE:
            tide = 0.45 + 0.3 * np.sin(2 * np.pi * (starts_h - rng.uniform(0, 24)) / 24)
            capacity[p] = np.floor(gpus[p] * np.clip(tide + rng.normal(0, 0.08, len(starts_h)), 0.0, 1.0))
        elif draw_kind < SPARE_SHARE + WINDOW_SHARE:
            capacity[p] *= (starts_h - rng.integers(0, 24)) % 24 < 12
    return capacity


def works(rng: np.random.Generator, able: Bools, need: Ints, rate: Floats, until_s: Floats, release: Ints, due: Ints) -> Floats:
    """[B] requests, so that all together load the fleet to LOAD. `able`: [B, M, P]; `until_s`: [P, T + 1] GPU-seconds so far."""
    per_gpu = np.divide(rate, need, out=np.zeros_like(rate), where=need > 0)
    best = np.where(able, per_gpu[None], 0.0).max(axis=1)  # [B, P] requests a GPU-second
    reach_s = (until_s[:, due] - until_s[:, release]).T  # [B, P] GPU-seconds
    could = (best * reach_s).sum(axis=1)  # requests, had it all to itself
    mean = could / np.maximum(1.0, np.where(best > 0, reach_s, 0.0).sum(axis=1))
    work = rng.lognormal(0.0, 1.0, len(due)) * np.sqrt(due - release) * mean
    for _ in range(8):  # the largest are cut, the others grow
        spent_s = (work / np.maximum(mean, 1e-12)).sum()
        work = np.minimum(work * LOAD * float(until_s[:, -1].sum()) / spent_s, MOST_OF_WINDOW * could)
    found: Floats = np.maximum(1.0, np.round(work))
    return found


def accepted(rng: np.random.Generator, count: int, need: Ints, capacity: Ints, site: Ints) -> tuple[Bools, Bools]:
    """What each batch accepts; places with many GPUs are asked for more often, places with none for it never."""
    sites = int(site.max()) + 1
    sets = [np.ones(sites, bool)] + [rng.random(sites) < share for share in (0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)]
    kinds = [(models, chosen) for models in MODEL_SETS for chosen in sets]
    odds = np.zeros(len(kinds))
    for i, (models, chosen) in enumerate(kinds):
        reached = chosen[site] & (need[list(models)] > 0).any(axis=0)
        odds[i] = MODEL_ODDS[MODEL_SETS.index(models)] * capacity[reached].sum() / capacity.sum()
    picked = rng.choice(len(kinds), count, p=odds / odds.sum())
    asked = np.array([[m in kinds[k][0] for m in range(len(need))] for k in range(len(kinds))])
    return asked[picked], np.array([chosen for _, chosen in kinds])[picked]


def windows(rng: np.random.Generator, count: int, starts_h: Floats, slot_s: Floats) -> tuple[Ints, Ints]:
    """Releases and deadlines in slots: 2 to 24 h apart, up to the horizon where it is longer."""
    end_h = float(starts_h[-1] + slot_s[-1] / 3600)
    release_h = np.where(rng.random(count) < RELEASED_SHARE, 0.0, rng.uniform(0, end_h - LEAST_WINDOW_H, count))
    length_h = np.exp(rng.uniform(np.log(LEAST_WINDOW_H), np.log(end_h), count))
    edges_h = np.append(starts_h, end_h)
    release = np.searchsorted(edges_h, release_h, side="right") - 1
    deadline = np.searchsorted(edges_h, np.minimum(release_h + length_h, end_h) + 1e-9, side="right") - 1
    return release.astype(np.int64), np.maximum(deadline, release + 2).clip(max=len(starts_h)).astype(np.int64)
