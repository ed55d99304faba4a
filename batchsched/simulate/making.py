"""What it took to make a fleet's hardware, where a simulation takes it at the low or at the high end of what was published."""

from __future__ import annotations

from datetime import datetime
from functools import cache
from typing import Literal, TypeVar

import msgspec

from batchsched.carbon.embodied import Held
from batchsched.carbon.hardware import Range
from batchsched.carbon.models import Hardware, host_estimates
from batchsched.catalogue import Catalogue, Gpu, Host, Sourced, builtin
from batchsched.settings import Carbon
from batchsched.simulate.scene import Scene

Figures = Literal["sunk", "low", "mid", "high"]
"""`sunk`: plans leave it out. Else each second of a replica weighs its part of a straight line over the hardware's life."""
Thing = TypeVar("Thing", Gpu, Host)


def catalogue_at(figures: Figures, own: Catalogue | None = None) -> Catalogue:
    """Ours, or an operator's own, with every device at one of its three figures."""
    return _ours_at(figures) if own is None else _all_at(figures, own)


@cache
def _ours_at(figures: Figures) -> Catalogue:
    return _all_at(figures, builtin())


def _all_at(figures: Figures, known: Catalogue) -> Catalogue:
    if figures == "sunk":
        return known
    hardware = Hardware(known)
    gpus = {name: _at(gpu, hardware.gpu(name).kg, figures) for name, gpu in known.gpus.items()}
    hosts = {name: _at(host, _whole(host, known), figures) for name, host in known.hosts.items()}
    return msgspec.structs.replace(known, gpus=gpus, hosts=hosts)


def _whole(host: Host, known: Catalogue) -> Range | None:
    return next((one.kg for one in host_estimates(host, known) if one.kg), None)


def _at(thing: Thing, kg: Range | None, figures: Figures) -> Thing:
    if kg is None:
        return thing
    cell = Sourced(float(getattr(kg, figures)), f"the {figures} figure")
    return msgspec.structs.replace(thing, low_kg=cell, mid_kg=cell, high_kg=cell)


def grams_per_s(scene: Scene, figures: Figures, at: datetime) -> dict[str, float]:
    """Of a replica of each pool; none where it is sunk, where machines are on for others anyway, and where it is not known."""
    fleet, hardware, years = scene.fleet, Hardware(catalogue_at(figures, scene.catalogue)), Carbon().lifetime_years
    found = dict.fromkeys(fleet.pools, 0.0)
    for name, pool in fleet.pools.items():
        held = Held.of(pool, at.date(), fleet.replica_gpus[name])
        kg = hardware.replica_kg(pool.gpu, held)
        if figures != "sunk" and not pool.adds_only and kg:
            found[name] = held.charge_g(kg.mid, 3600.0, years, "whole_life") / 3600.0
    return found
