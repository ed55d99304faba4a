"""What to tell of batches that get nothing on a pool: its workers are of a version that cannot serve them, or lack the model, or
their engines do not start."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from batchsched.fleet import Fleet
from batchsched.planner import Job


def unable(jobs: Sequence[Job], alive: Sequence[Mapping[str, Any]], fleet: Fleet) -> list[str]:
    """`alive`: the live workers. Those that did not say yet what they can are taken to."""
    unnamed, plain = _without(alive, "renames"), _without(alive, "adapters")
    found: list[str] = []
    for job in jobs:
        for name in sorted((unnamed | plain).intersection(job.pools)):
            models = sorted({job.configuration(key).model for key in job.keys_on(name)})
            whys = [*_names(job, name, models, fleet)] if name in unnamed else []
            whys += _adapters(models, fleet) if name in plain else []
            mend = f"Upgrade batchsched on the workers of {name}."
            found += [f"Batch {job.batch_id} gets nothing on pool {name}: {why} {mend}" for why in whys]
    return found


def lacked(working: Sequence[Mapping[str, Any]], growing: Collection[str], fleet: Fleet) -> dict[tuple[str, str], str]:
    """Models with pools where every worker's engine turned out not to have them, and what to do about it.

    `growing`: pools where more workers may be started, whose engines may.
    """
    found: dict[tuple[str, str], str] = {}
    for pool in {worker["pool"] for worker in working} & fleet.pools.keys() - set(growing):
        mine = [worker for worker in working if worker["pool"] == pool]
        there = ", ".join(sorted({model for worker in mine for model in worker["ready_models"]})) or "no model declared here"
        for model in set.intersection(*(set(worker["lacking"] or ()) for worker in mine)):
            found[model, pool] = (
                f"No engine of pool {pool} serves {model}; there is {there}."
                f" Start one that goes by that name (of vLLM: --served-model-name {model}), or name one that is there."
            )
    return found


def failing(alive: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Of workers whose engines do not start: which, since when, how often in a row and why, by pool."""
    found: dict[str, list[str]] = {}
    for worker in alive:
        if worker["failing_since"]:
            tries = "1 try" if worker["failing_times"] == 1 else f"{worker['failing_times']} tries"
            found.setdefault(worker["pool"], []).append(_does_not_start(worker, f" ({tries})"))
    return found


def stuck(alive: Iterable[Mapping[str, Any]]) -> list[str]:
    """The same as sentences of a plan."""
    return [f"Pool {pool}: {why}" for pool, said in failing(alive).items() for why in said]


def engineless(working: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Pools of which no worker's engine starts, and why that of one does not."""
    well = {worker["pool"] for worker in working if not worker["failing_since"]}
    return {worker["pool"]: _does_not_start(worker) for worker in working if worker["pool"] not in well}


def _does_not_start(worker: Mapping[str, Any], tries: str = "") -> str:
    who, since = f"worker {worker['id']} on {worker['host']}", worker["failing_since"]
    return f"the engine of {who} is not ready since {since:%d %b %H:%M UTC}{tries}: {worker['failing_why']}"


def _without(alive: Sequence[Mapping[str, Any]], what: str) -> set[str]:
    """Pools of which every worker said that it cannot."""
    return {worker["pool"] for worker in alive} - {worker["pool"] for worker in alive if worker[what] is not False}


def _names(job: Job, pool: str, models: Sequence[str], fleet: Fleet) -> Iterator[str]:
    if not fleet.pools[pool].serves(job.model):
        for model in models:
            if model != job.model:
                yield f"its lines name {job.model}, which is not served there, and its workers cannot put {model} in its place."


def _adapters(models: Sequence[str], fleet: Fleet) -> list[str]:
    """Where there is a model among them that is none, it may be served with that."""
    if not all(fleet.models[model].adapter_of for model in models):
        return []
    return [f"{model} is an adapter, and its workers know of none." for model in models]
