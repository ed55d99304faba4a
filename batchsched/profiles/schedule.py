"""From what was measured to a configuration for each load: GreenLLM's Algorithm 1 whole, gaps filled first.

A configuration here is a model, or another way to serve it by its own name, on a pool.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping
from typing import NamedTuple, TypeVar, get_args

import msgspec

from batchsched.profiles.choose import Choice, Row, choose_each, grams
from batchsched.profiles.filtering import Scale, fill
from batchsched.profiles.slo import ATTAINMENT_TARGET, WORKLOADS, Load, SizeName
from batchsched.profiles.trials import summarise
from batchsched.wire import Trial

LoadT = TypeVar("LoadT", bound=Hashable)
Matrix = Mapping[LoadT, Row]


class Known(NamedTuple):
    """What trials say: both matrices, and the model and pool behind the name of each configuration."""

    attainment: dict[Load, dict[str, float]]
    energy_j: dict[Load, dict[str, float]]
    """A token, read and written alike; absent where energy was not measured."""
    configurations: dict[str, tuple[str, str]]


def of_trials(trials: Iterable[Trial]) -> Known:
    """The matrices of what profile runs measured at rates; of each model and pool by its newest setting only."""
    settings: dict[tuple[str, str], str] = {}
    cells: dict[tuple[Load, str], list[Trial]] = {}
    known = Known({}, {}, {})
    for trial in sorted(trials, key=lambda one: one.started_at, reverse=True):
        load = _load(trial)
        if load is None or settings.setdefault((trial.model, trial.pool), trial.setting) != trial.setting:
            continue
        name = f"{trial.model} on {trial.pool}"
        known.configurations[name] = (trial.model, trial.pool)
        cells.setdefault((load, name), []).append(trial)
    for (load, name), some in cells.items():
        found = summarise(some, slo=WORKLOADS[load.workload].slo)
        if found.attainment is not None:
            known.attainment.setdefault(load, {})[name] = found.attainment
        if found.energy_j_per_token and found.energy_j_per_token.mean > 0:
            known.energy_j.setdefault(load, {})[name] = found.energy_j_per_token.mean
    return known


def _load(trial: Trial) -> Load | None:
    """Of a probe at a rate whose workload has latency targets."""
    workload, _, size = trial.probe.name.partition(" ")
    at_a_rate = workload in WORKLOADS and trial.probe.qps is not None
    return next((Load(workload, one, trial.probe.qps or 0.0) for one in get_args(SizeName) if at_a_rate and one == size), None)


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
    emitted = {
        load: grams(joules[load], g_per_kwh, embodied_g.get(load, {}) if embodied_g is not None else None) for load in loads
    }
    chosen = choose_each(kept, emitted, target=target, default=default, among=among)

    def known(load: LoadT, one: Choice) -> bool:
        return all(one.configuration in cells.get(load, {}) for cells in (attainment, energy_j))

    return {load: one and msgspec.structs.replace(one, estimated=not known(load, one)) for load, one in chosen.items()}


def filled(cells: Matrix[LoadT], loads: Collection[LoadT], scale: Scale) -> dict[LoadT, dict[str, float]]:
    """The matrix without gaps: a row for each load, a column for each configuration that was measured anywhere."""
    names = list(dict.fromkeys(name for row in cells.values() for name in row))
    table = fill([[cells.get(load, {}).get(name) for name in names] for load in loads], scale)
    return {load: dict(zip(names, row, strict=True)) for load, row in zip(loads, table.values, strict=True)}
