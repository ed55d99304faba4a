"""What to tell of batches that get nothing on a pool: its workers are of a version that cannot serve them, or lack the model."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
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
