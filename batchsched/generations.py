"""What generations of GPUs cannot compute, and the versions of vLLM that know them no more.

As vLLM's documentation and start-up checks have it (0.32), and its releases: 0.11 dropped the engine that ran on Volta. A word of
the flags that is not listed here rules nothing out.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping

from batchsched.fleet import Fleet, GpuType, Pool, ServedModel
from batchsched.profiles.profile import Profile
from batchsched.sizes import too_large

_DTYPES = {"bfloat16": 8.0}
_QUANTIZATIONS = {"gptq": 6.0, "moe_wna16": 7.0, "awq": 7.5, "fp8": 7.5, "torchao": 7.5, "mxfp4": 8.0}
"""Least compute capability."""
_ENGINES = (((0, 11), 7.5), ((0, 0), 7.0))
"""Least compute capability from a version on, newest first."""


def unfit_of(
    fleet: Fleet, profiles: Mapping[tuple[str, str], Profile], loaded: Mapping[str, Collection[str]]
) -> dict[tuple[str, str], str]:
    """Models with pools that cannot hold or compute them, and why: what has run or is loaded there can.

    `profiles`: by model and pool; `loaded`: models by pool.
    """
    found = {
        (model, name): cannot_run(name, fleet.pools[name], model, fleet.models[model], fleet.gpus)
        for (model, name), known in profiles.items()
        if known.source == "prior" and model not in loaded[name]
    }
    return {key: why for key, why in found.items() if why}


def cannot_run(name: str, pool: Pool, model: str, served: ServedModel, gpus: Mapping[str, GpuType]) -> str:
    """Why a pool can neither hold nor compute a model; empty where it can, or where that is not known."""
    return too_large(name, pool, model, served, gpus) or cannot_compute(name, pool, model, served, gpus)


def cannot_compute(name: str, pool: Pool, model: str, served: ServedModel, gpus: Mapping[str, GpuType]) -> str:
    """Why the GPUs of a pool cannot run a model as its flags have it; empty where they can, or where that is not known."""
    kind = gpus.get(pool.gpu)
    if kind is None:
        return ""
    needs, what, mend = _needs(pool, served)
    if kind.compute_capability >= needs:
        return ""
    return (
        f"Pool {name} gets nothing of {model}: {what} needs compute capability {needs:.1f}, its {kind.name} have "
        f"{kind.compute_capability:.1f}. {mend}"
    )


def _needs(pool: Pool, served: ServedModel) -> tuple[float, str, str]:
    """The most that flags and engine ask for: compute capability, what asks, what to do."""
    words = " ".join([*pool.engine_args, *served.engine_args]).replace("=", " ").split()
    asked = [(0.0, "", "")]
    flags = dict(itertools.pairwise(words))  # of one that comes twice the last holds, as in vLLM
    dtype, quantization = flags.get("--dtype", ""), flags.get("--quantization", flags.get("-q", ""))
    asked.append((_DTYPES.get(dtype, 0.0), dtype, "Say --dtype half, or name the pool's models."))
    asked.append((_QUANTIZATIONS.get(quantization, 0.0), quantization, "Take other weights, or name the pool's models."))
    version = tuple(int(part) for part in pool.engine_version.split(".")[:2] if part.isdecimal())
    if len(version) == 2:
        least = next(least for since, least in _ENGINES if version >= since)
        older = "an older one, " if least > _ENGINES[-1][1] else ""
        asked.append((least, f"vLLM {pool.engine_version}", f"Run {older}or another engine there, and say engine_version."))
    return max(asked)
