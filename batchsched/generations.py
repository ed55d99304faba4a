"""What generations of GPUs cannot compute, and the versions of engines that know them no more, by the table of engines.

A word of the flags that the table does not have rules nothing out.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping

import msgspec

from batchsched.engines import Build, numbers
from batchsched.fleet import Fleet, GpuType, Pool, ServedModel, words_of
from batchsched.profiles.profile import Profile
from batchsched.sizes import config_of, too_large


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


def reasons_of(fleet: Fleet, unfit: Mapping[tuple[str, str], str], asked: Collection[tuple[str, str]]) -> dict[str, list[str]]:
    """Why pools get nothing of models, by model. `asked`: models with the endpoints that batches ask them at."""
    found: dict[str, list[str]] = {}
    for model, endpoint in sorted(asked):
        said = found.setdefault(model, [])
        for name in fleet.pools_for(model):
            why = unfit.get((model, name)) or cannot_answer(name, fleet.pools[name], endpoint)
            if why and why not in said:
                said.append(why)
    return found


def cannot_answer(name: str, pool: Pool, endpoint: str) -> str:
    """Why the engine of a pool does not answer at an endpoint; empty where it does, or where that is not known."""
    build = Build(pool.engine, pool.engine_version)
    if (pool.engine == "vllm" and numbers(pool.engine_version) is None) or build.has("endpoint", endpoint):
        return ""
    return f"Pool {name} gets nothing for {endpoint}: {build.describe()} does not have it. Send such batches elsewhere."


def fitted(pool: Pool, served: ServedModel, gpus: Mapping[str, GpuType]) -> ServedModel:
    """A model with the weights that a pool runs: its own where its GPUs can hold and compute them, else the first that they can.

    Its own again where they can run none. llama.cpp gets the `gguf` ones where there are such, without the model's flags: those
    are vLLM's.
    """
    plain = msgspec.structs.replace(served, weights={})
    if pool.engine != "vllm":
        return msgspec.structs.replace(plain, path=served.weights["gguf"], engine_args=[]) if "gguf" in served.weights else plain
    forms = [plain] + [
        msgspec.structs.replace(plain, path=path, engine_args=[*served.engine_args, "--quantization", quantization])
        for quantization, path in served.weights.items()
    ]
    return next(
        (form for form in forms if not (too_large("", pool, "", form, gpus) or cannot_compute("", pool, "", form, gpus))), plain
    )


def cannot_run(name: str, pool: Pool, model: str, served: ServedModel, gpus: Mapping[str, GpuType]) -> str:
    """Why a pool can neither hold nor compute a model; empty where it can, or where that is not known."""
    if served.adapter_of and pool.engine != "vllm":
        return f"Pool {name} gets nothing of {model}: adapters run on vLLM, and there runs {pool.engine}. Name the pool's models."
    form = fitted(pool, served, gpus)
    return too_large(name, pool, model, form, gpus) or cannot_compute(name, pool, model, form, gpus)


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
    """The most that flags, weights and engine ask for: compute capability, what asks, what to do."""
    words = words_of([*pool.engine_args, *served.engine_args])
    build = Build(pool.engine, pool.engine_version)
    flags = dict(itertools.pairwise(words))  # of one that comes twice the last holds, as in vLLM
    dtype, quantization = flags.get("--dtype", ""), flags.get("--quantization", flags.get("-q", "")) or _stored(served)
    return max(
        (0.0, "", ""),
        (build.least("dtype", dtype), dtype, "Say --dtype half, or name the pool's models."),
        (build.least("quantization", quantization), quantization, "Take other weights, or name the pool's models."),
        _of_engine(build, pool),
    )


def _of_engine(build: Build, pool: Pool) -> tuple[float, str, str]:
    """What the engine itself asks for, where its version is known and it was not built for these GPUs by hand."""
    if numbers(pool.engine_version) is None or "own_build" in pool.quirks:
        return 0.0, "", ""
    least = build.least("capability", "lowest")
    older = "an older one, " if least > Build(pool.engine).least("capability", "lowest") else ""
    mend = f"Run {older}or another engine there, and say engine and engine_version; a build of your own has the quirk own_build."
    return least, build.describe(), mend.replace("Run or", "Run")


def _stored(served: ServedModel) -> str:
    """How the weights are quantized, by the model's own folder as far as it is here."""
    found = config_of(served.path).get("quantization_config")
    return str(found.get("quant_method", "")) if isinstance(found, dict) else ""
