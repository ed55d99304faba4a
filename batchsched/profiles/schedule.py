"""From what was measured to a configuration for each load: GreenLLM's Algorithm 1 whole, gaps filled first."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from typing import TypeVar

import msgspec

from batchsched.profiles.choose import Choice, Row, choose, grams
from batchsched.profiles.filtering import Scale, fill
from batchsched.profiles.slo import ATTAINMENT_TARGET

LoadT = TypeVar("LoadT", bound=Hashable)
Matrix = Mapping[LoadT, Row]


def schedule(
    attainment: Matrix[LoadT],
    energy_j: Matrix[LoadT],
    g_per_kwh: Row,
    *,
    embodied_g: Matrix[LoadT] | None = None,
    target: float = ATTAINMENT_TARGET,
    default: str | None = None,
    among: Collection[str] | None = None,
) -> dict[LoadT, Choice | None]:
    """The configuration for every load, from cells that were measured: shares that kept their latencies, joules a token.

    A cell that was not measured is absent from its row, and is estimated from the others; a choice that rests on one says so.
    `g_per_kwh`, `embodied_g`, `target`, `default` and `among`: as in `choose`. Raises InvalidValue where nothing was measured.
    """
    loads = list(dict.fromkeys([*attainment, *energy_j]))
    kept, joules = filled(attainment, loads, "odds"), filled(energy_j, loads, "log")
    chosen: dict[LoadT, Choice | None] = {}
    for load in loads:
        row = grams(joules[load], g_per_kwh, embodied_g.get(load, {}) if embodied_g is not None else None)
        one = choose(kept[load], row, target=target, default=default, among=among)
        known = one is not None and all(one.configuration in cells.get(load, {}) for cells in (attainment, energy_j))
        chosen[load] = msgspec.structs.replace(one, estimated=not known) if one else None
    return chosen


def filled(cells: Matrix[LoadT], loads: Collection[LoadT], scale: Scale) -> dict[LoadT, dict[str, float]]:
    """The matrix without gaps: a row for each load, a column for each configuration that was measured anywhere."""
    names = list(dict.fromkeys(name for row in cells.values() for name in row))
    table = fill([[cells.get(load, {}).get(name) for name in names] for load in loads], scale)
    return {load: dict(zip(names, row, strict=True)) for load, row in zip(loads, table.values, strict=True)}
