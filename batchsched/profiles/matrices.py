"""From trials at rates to the matrices that configurations are chosen by (schedule.py).

A column is a model on a pool, in its newest setting. What is too noisy is no cell: it is filled in from the others like one that
was never measured.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple, get_args

from batchsched.profiles.slo import WORKLOADS, Load, SizeName
from batchsched.profiles.trials import SPREAD, summarise
from batchsched.wire import Probe, Trial


class Matrices(NamedTuple):
    """Rows are loads, columns `MODEL on POOL`: shares of requests that kept their latencies, and joules a token."""

    attainment: dict[Load, dict[str, float]]
    energy_j: dict[Load, dict[str, float]]


def matrices(trials: Iterable[Trial], bound: float = SPREAD) -> Matrices:
    """Of the probes that have a workload's name, a size and a rate."""
    cells: dict[tuple[Load, str], list[Trial]] = defaultdict(list)
    newest: dict[str, str] = {}
    ordered = sorted(trials, key=lambda trial: trial.started_at)
    for trial in ordered:
        newest[_column(trial)] = trial.setting
    for trial in ordered:
        load = load_of(trial.probe)
        if load is not None and trial.setting == newest[_column(trial)]:
            cells[load, _column(trial)].append(trial)
    found = Matrices(defaultdict(dict), defaultdict(dict))
    for (load, column), measured in cells.items():
        summary = summarise(measured, bound, WORKLOADS[load.workload].slo)
        if summary.noise:
            continue
        if summary.attainment is not None:
            found.attainment[load][column] = summary.attainment
        if summary.energy_j_per_token is not None:
            found.energy_j[load][column] = summary.energy_j_per_token.mean
    return Matrices(dict(found.attainment), dict(found.energy_j))


def load_of(probe: Probe) -> Load | None:
    """The load that a probe stands for; None for those at full load, and for those of one's own."""
    workload, _, size = probe.name.partition(" ")
    sizes = {name: name for name in get_args(SizeName)}
    if probe.qps is None or workload not in WORKLOADS or size not in sizes:
        return None
    return Load(workload, sizes[size], probe.qps)


def _column(trial: Trial) -> str:
    return f"{trial.model} on {trial.pool}"
