"""`batchsched profile compare --at-rates`: which pool keeps the latencies at least carbon, load by load."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from batchsched.cli.common import grams, print_table
from batchsched.errors import ForecastUnavailable, NotFound

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from batchsched.client import Client


class LoadChoice(msgspec.Struct, frozen=True):
    """What was chosen for one load. `grams_per_1k`: of running, for 1,000 tokens, at the hour's forecast."""

    load: str
    configuration: str | None
    reason: str
    attainment: float | None
    grams_per_1k: float | None
    feasible: tuple[str, ...]
    estimated: bool


class AtRates(msgspec.Struct, frozen=True):
    """`profile compare --at-rates`: load by load."""

    loads: tuple[LoadChoice, ...]


def choices(client: Client, models: Collection[str]) -> list[LoadChoice]:
    """By what was measured at rates, with these models. Raises NotFound where nothing was."""
    from batchsched.client.profiles import trials
    from batchsched.profiles.schedule import of_trials, schedule

    profiles = client.profiles().profiles
    named = {one.model for one in profiles if {one.model, one.variant_of} & set(models)}
    known = of_trials(trial for trial in client.send(trials()).trials if trial.model in named)
    if not known.energy_j or not known.attainment:
        raise NotFound(
            f"Nothing was measured of {' or '.join(sorted(models))} at a rate, energy included.",
            hint="`batchsched profile run --pool P --model M`, without --full-load, measures it. Without --at-rates, pools are "
            "compared by what is known or expected of them.",
        )
    places = {one.pool: one for one in profiles}
    grid = {zone: intensity_now(client, zone) for zone in {one.zone for one in places.values()}}
    g_per_kwh = {
        name: places[pool].pue * intensity
        for name, (_, pool) in known.configurations.items()
        if pool in places and (intensity := grid[places[pool].zone]) is not None
    }
    chosen = schedule(known.attainment, known.energy_j, g_per_kwh)
    return [
        LoadChoice(
            str(load),
            one.configuration if one else None,
            one.reason if one else "nobody says how clean the grids are",
            one.attainment if one else None,
            1000 * one.grams if one and one.grams is not None else None,
            one.feasible if one else (),
            one.estimated if one else False,
        )
        for load, one in sorted(chosen.items())
    ]


def show_choices(found: Sequence[LoadChoice]) -> None:
    """As a table."""
    print_table(
        ("load", "best", "grams for 1,000 tokens", "measured", "why"),
        [
            (one.load, one.configuration or "unknown", grams(one.grams_per_1k), "no" if one.estimated else "yes", one.reason)
            for one in found
        ],
    )


def intensity_now(client: Client, zone: str) -> float | None:
    """Of the hour that has begun, as foretold; None where nobody says."""
    try:
        slots = client.forecasts.retrieve(zone, hours=1).slots
    except ForecastUnavailable:
        return None
    return slots[0].mean_g_per_kwh if slots else None
