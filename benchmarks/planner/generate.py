"""Fleets from a seed: pools of real GPU types at sites in real zones, models by the product's own prior, batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from batchsched.fleet import GPU_TYPES
from batchsched.profiles.prior import prior
from batchsched.profiles.roofline import gpus_for
from batchsched.profiles.shape import shape
from benchmarks.planner.instance import Bools, Floats, Instance, Ints
from benchmarks.planner.intensities import draw

HARDWARE = {"H100": 1.0, "A100-80": 1.5, "L40S": 1.5, "V100": 2.0, "T4": 2.0, "cpu": 1.0}
"""Types of pools, and how large a pool of each is beside the others. A CPU pool counts machines."""
VCPUS = 64
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
    need, rate, power, startup = profiles(kinds)
    capacity = opened(rng, gpus, starts_h)
    fleet = {
        "seed": seed,
        "zones": zones,
        "pools": tuple(f"{kind}-{zones[s]}-{p}" for p, (kind, s) in enumerate(zip(kinds, site, strict=True))),
        "slot_s": slot_s,
        "site": site,
        "newness": np.array([GPU_TYPES[k].compute_capability if k in GPU_TYPES else 0.0 for k in kinds]),
        "pue": rng.uniform(1.08, 1.5, sites)[site],
        "gpus": gpus,
        "capacity": capacity,
        "intensity": hourly[site][:, starts_h.astype(int)],
        "need": need,
        "rate": rate,
        "power_w": power,
        "startup_s": startup,
        "held": np.zeros_like(need),
    }
    return with_batches(rng, fleet, size.batches, starts_h)


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


def profiles(kinds: list[str]) -> tuple[Ints, Floats, Floats, Floats]:
    """[M, P] GPUs, requests a second, watts and start-up seconds of a replica, as the prior has them."""
    need = np.zeros((len(MODELS_B), len(kinds)), np.int64)
    rate, power, startup = np.zeros(need.shape), np.zeros(need.shape), np.zeros(need.shape)
    for m, billions in enumerate(MODELS_B):
        for p, kind in enumerate(kinds):
            taken = 1 if kind == "cpu" else gpus_for(shape(billions), GPU_TYPES[kind])
            if taken > MOST_NEEDED or (kind == "cpu" and billions > 8):
                continue
            found = prior(f"{billions:g}B", kind, kind, billions, vcpus=VCPUS)
            need[m, p] = taken
            rate[m, p] = 1 / found.seconds(INPUT_TOKENS, OUTPUT_TOKENS)
            power[m, p] = found.power_for(INPUT_TOKENS, OUTPUT_TOKENS)
            startup[m, p] = found.startup_s
    return need, rate, power, startup


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


def with_batches(rng: np.random.Generator, fleet: Mapping[str, object], count: int, starts_h: Floats) -> Instance:
    """The fleet with batches that load it to LOAD."""
    need, rate, capacity, slot_s, site = (np.asarray(fleet[key]) for key in ("need", "rate", "capacity", "slot_s", "site"))
    models, sites = classes(rng, count, need, capacity, site)
    release, deadline = windows(rng, count, starts_h, slot_s)
    open_s = np.concatenate([np.zeros((len(site), 1)), np.cumsum(capacity * slot_s, axis=1)], axis=1)
    per_gpu = np.divide(rate, need, out=np.zeros_like(rate), where=need > 0)
    able = models[:, :, None] & sites[:, None, site] & (need > 0)[None]
    best = np.where(able, per_gpu[None], 0.0).max(axis=1)  # [B, P] requests a GPU-second
    reach_s = (open_s[:, deadline] - open_s[:, release]).T  # [B, P] GPU-seconds
    could = (best * reach_s).sum(axis=1)  # requests, had it all to itself
    rate_mean = could / np.maximum(1.0, np.where(best > 0, reach_s, 0.0).sum(axis=1))
    wanted_s = rng.lognormal(0.0, 1.0, count) * np.sqrt(starts_h[-1] / 24 + (deadline - release))
    work = wanted_s * rate_mean
    for _ in range(8):  # the largest are cut, the others grow
        spent_s = (work / np.maximum(rate_mean, 1e-12)).sum()
        work = np.minimum(work * LOAD * float(open_s[:, -1].sum()) / spent_s, MOST_OF_WINDOW * could)
    return Instance(
        **fleet,  # type: ignore[arg-type]
        models=models,
        sites=sites,
        release=release,
        deadline=deadline,
        work=np.maximum(1.0, np.round(work)),
    )


def classes(rng: np.random.Generator, count: int, need: Ints, capacity: Ints, site: Ints) -> tuple[Bools, Bools]:
    """What each batch accepts; places with many GPUs are asked for more often, places with none for it never."""
    sites = int(site.max()) + 1
    sets = [np.ones(sites, bool)] + [rng.random(sites) < share for share in (0.8, 0.6, 0.5, 0.4, 0.25)]
    kinds = [(models, chosen) for models in MODEL_SETS for chosen in sets]
    odds = np.zeros(len(kinds))
    for i, (models, chosen) in enumerate(kinds):
        reached = chosen[site] & (need[list(models)] > 0).any(axis=0)
        odds[i] = MODEL_ODDS[MODEL_SETS.index(models)] * capacity[reached].sum() / capacity.sum()
    picked = rng.choice(len(kinds), count, p=odds / odds.sum())
    accepted = np.array([[m in kinds[k][0] for m in range(len(need))] for k in range(len(kinds))])
    return accepted[picked], np.array([chosen for _, chosen in kinds])[picked]


def windows(rng: np.random.Generator, count: int, starts_h: Floats, slot_s: Floats) -> tuple[Ints, Ints]:
    """Releases and deadlines in slots: 2 to 24 h apart, up to the horizon where it is longer."""
    end_h = float(starts_h[-1] + slot_s[-1] / 3600)
    release_h = np.where(rng.random(count) < RELEASED_SHARE, 0.0, rng.uniform(0, end_h - LEAST_WINDOW_H, count))
    length_h = np.exp(rng.uniform(np.log(LEAST_WINDOW_H), np.log(end_h), count))
    edges_h = np.append(starts_h, end_h)
    release = np.searchsorted(edges_h, release_h, side="right") - 1
    deadline = np.searchsorted(edges_h, np.minimum(release_h + length_h, end_h) + 1e-9, side="right") - 1
    return release.astype(np.int64), np.maximum(deadline, release + 2).clip(max=len(starts_h)).astype(np.int64)
