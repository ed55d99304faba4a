"""Which configuration serves a load best: GreenLLM's scheduler (arXiv 2412.20322, Algorithm 1), as pure functions.

A matrix has loads for rows and configurations for columns; one holds the share of requests that keep their latencies, another
grams. Gaps are filled beforehand (schedule.py): a cell that is still missing takes its configuration out of that row's choice.
Among the configurations that attain the target the one with the least carbon wins; where none does, the one that attains most or
a default is taken, as the caller says.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping
from typing import Literal, TypeVar

import msgspec

from batchsched.fleet import Mode
from batchsched.profiles.slo import ATTAINMENT_TARGET
from batchsched.units import kwh

Why = Literal["least_carbon", "most_attained", "default"]
Row = Mapping[str, float]
"""One row of a matrix: a figure for each configuration, by its name."""
LoadT = TypeVar("LoadT", bound=Hashable)


class Configuration(msgspec.Struct, frozen=True):
    """A way to serve a model, which is what is profiled, compared and planned."""

    name: str
    model: str
    mode: Mode
    gpus: tuple[str, ...]
    """What one replica takes, types of GPU or pools of them, that with the target model (or the prefill) first."""


class Choice(msgspec.Struct, frozen=True):
    """The configuration chosen for a load, and why."""

    configuration: str
    why: Why
    reason: str
    attainment: float | None
    """None where a default was taken of which nothing is known."""
    grams: float | None
    feasible: tuple[str, ...]
    """All that attain the target, least carbon first; empty where none does."""
    estimated: bool = False
    """Its figures were filled in, not measured."""


def accepted(
    configurations: Iterable[Configuration], models: Collection[str], gpus: Collection[str] | None = None
) -> list[Configuration]:
    """The configurations that serve an accepted model, on GPUs that are at hand (None: on any)."""
    return [one for one in configurations if one.model in models and (gpus is None or all(gpu in gpus for gpu in one.gpus))]


def grams(energy_j: Row, g_per_kwh: Row, embodied_g: Row | None = None) -> dict[str, float]:
    """A row of grams from a row of joules, at the grid of each configuration's site; `embodied_g` where decisions weigh it.

    `g_per_kwh`: the intensity times the PUE where the configuration runs. One that lacks any of the figures is left out.
    """
    lacking = set() if embodied_g is None else energy_j.keys() - embodied_g.keys()
    return {
        name: kwh(joules) * g_per_kwh[name] + (embodied_g[name] if embodied_g else 0.0)
        for name, joules in energy_j.items()
        if name in g_per_kwh and name not in lacking
    }


def choose(
    attainment: Row,
    carbon_g: Row,
    *,
    target: float = ATTAINMENT_TARGET,
    default: str | None = None,
    among: Collection[str] | None = None,
) -> Choice | None:
    """The choice for one load; None where nothing is known of any configuration and there is no default.

    `default`: what to take where none attains the target; None: the one that attains most. `among`: the configurations that may
    be taken (see `accepted`), which a default need not belong to. Equal figures are decided by the other matrix, then by name.
    """
    known = [name for name in attainment if name in carbon_g and (among is None or name in among)]
    feasible = tuple(
        sorted((name for name in known if attainment[name] >= target), key=lambda name: (carbon_g[name], -attainment[name], name))
    )
    if feasible:
        best = feasible[0]
        return _choice(
            best,
            "least_carbon",
            f"{_of(len(feasible), len(known))} {target:.0%}; {best} emits least",
            attainment,
            carbon_g,
            feasible,
        )
    if default is not None:
        return _choice(default, "default", f"none attains {target:.0%}; {default} is the default", attainment, carbon_g, ())
    if not known:
        return None
    best = min(known, key=lambda name: (-attainment[name], carbon_g[name], name))
    return _choice(best, "most_attained", f"none attains {target:.0%}; {best} comes nearest", attainment, carbon_g, ())


def choose_each(
    attainment: Mapping[LoadT, Row],
    carbon_g: Mapping[LoadT, Row],
    *,
    target: float = ATTAINMENT_TARGET,
    default: str | None = None,
    among: Collection[str] | None = None,
) -> dict[LoadT, Choice | None]:
    """`choose` for every row of the matrices."""
    return {
        load: choose(row, carbon_g.get(load, {}), target=target, default=default, among=among) for load, row in attainment.items()
    }


def _of(count: int, known: int) -> str:
    return f"{count} of {known} configurations {'attains' if count == 1 else 'attain'}"


def _choice(name: str, why: Why, reason: str, attainment: Row, carbon_g: Row, feasible: tuple[str, ...]) -> Choice:
    attained, emitted = attainment.get(name), carbon_g.get(name)
    figures = f" ({attained:.0%} attained)" if attained is not None else ""
    return Choice(name, why, f"{reason}{figures}", attained, emitted, feasible)
