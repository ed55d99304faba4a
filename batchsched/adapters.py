"""LoRA adapters: models that are a declared base with a small change to its weights, told apart by the name that requests use.

An engine that is started for one of them, or for their base, loads all that are declared of that base, so that it answers each by
its own name. Flags are vLLM's.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from batchsched.fleet import Pool, ServedModel, absolute

_FLAG = "--lora-modules"
_AT_ONCE = 8
"""Adapters that one step of the engine may mix, where no flag of the base says it."""
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Those that vLLM's wheels of 0.8.5 to 0.32.0 all take."""
_USUAL_RANK = 16
"""The one that an engine is made for where nothing is said."""
_OF_THE_BASE = ("path", "parameters_b", "max_model_len", "engine_args", "weights")


def resolved(models: Mapping[str, ServedModel]) -> dict[str, ServedModel]:
    """The models, each adapter with all that its base says: what runs is the base."""
    return {
        name: msgspec.structs.replace(models[model.adapter_of], adapter_of=model.adapter_of, adapter=model.adapter)
        if model.adapter_of
        else model
        for name, model in models.items()
    }


def outfitted(models: Mapping[str, ServedModel], name: str) -> ServedModel:
    """A model as an engine is started for it: with the flags for all adapters of its base, where there are such."""
    base = models[name].adapter_of or name
    folders = {each: model.adapter for each, model in models.items() if model.adapter_of == base}
    if not folders:
        return models[name]
    flags = ["--enable-lora", "--max-loras", str(min(len(folders), _AT_ONCE))]
    rank = max(_rank(folder) for folder in folders.values())
    flags += ["--max-lora-rank", str(next((able for able in _RANKS if able >= rank), rank))]
    modules = [json.dumps({"name": each, "path": absolute(folder)}) for each, folder in folders.items()]
    # Flags of the base win over the first, and none over the last: without it the names would be answered by nobody.
    return msgspec.structs.replace(models[name], engine_args=[*flags, *models[name].engine_args, _FLAG, *modules])


def complaint(models: Mapping[str, ServedModel], pools: Mapping[str, Pool]) -> tuple[str, str] | None:
    """The first key that is wrong about adapters, and what is wrong and what to do; None where all is well."""
    return next(_complaints(models, pools), None)


def _complaints(models: Mapping[str, ServedModel], pools: Mapping[str, Pool]) -> Iterator[tuple[str, str]]:
    for name, model in models.items():
        if model.adapter_of:
            yield from _wrong(name, model, models, pools)
        elif model.adapter:
            yield f"models.{name}.adapter", "say with adapter_of which declared model it is an adapter of"
        elif model.path and _holds(model.path, "adapter_config.json") and not _holds(model.path, "config.json"):
            yield f"models.{name}.path", "this folder holds an adapter: name it as `adapter`, and with adapter_of its base"
        for pool in pools.values():
            if pool.serves(name) and name in _named([*pool.engine_args, *model.engine_args]):
                # vLLM asks its own name first, so the base would answer, and nobody would be told.
                yield f"models.{name}", f"{_FLAG} names it too, and the base would answer: say adapter_of and adapter instead"


def _wrong(
    name: str, model: ServedModel, models: Mapping[str, ServedModel], pools: Mapping[str, Pool]
) -> Iterator[tuple[str, str]]:
    """About one adapter."""
    base, plain = models.get(model.adapter_of), ServedModel()
    if base is None or base.adapter_of:
        yield f"models.{name}.adapter_of", f"'{model.adapter_of}' is " + ("an adapter itself" if base else "no declared model")
        return
    if not model.adapter:
        yield f"models.{name}.adapter", "say where the adapter is: its folder, or its hub name"
    for field in _OF_THE_BASE:
        if getattr(model, field) not in (getattr(plain, field), getattr(base, field)):
            yield f"models.{name}.{field}", f"that is for the base, '{model.adapter_of}', to say; take it out here"
    for key, pool in pools.items():
        if pool.serves(name) and not pool.serves(model.adapter_of):
            yield f"pools.{key}.models", f"an engine that serves '{name}' serves its base, '{model.adapter_of}', too: name it"
        if pool.serves(name) and _named([*pool.engine_args, *base.engine_args]):
            yield f"models.{name}", f"flags of its base or of pool '{key}' have {_FLAG}: declare those adapters too, without it"


def _named(engine_args: Sequence[str]) -> list[str]:
    """Names of adapters that flags load."""
    found, listing = list[str](), False
    for word in engine_args:
        flag, _, value = word.partition("=")
        if word.startswith("--"):
            listing = flag == _FLAG
            word = value  # noqa: PLW2901 - of `--flag=value`
        if listing and word:
            found.append(_name_of(word))
    return found


def _name_of(module: str) -> str:
    """`name=path`, or an object that says both."""
    with contextlib.suppress(ValueError, TypeError, KeyError):
        return str(json.loads(module)["name"])
    return module.partition("=")[0]


def _holds(folder: str, file: str) -> bool:
    return (Path(folder) / file).is_file()


def _rank(adapter: str) -> int:
    """As its configuration says; the usual one where that is not here."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        return int(json.loads((Path(adapter) / "adapter_config.json").read_bytes())["r"])
    return _USUAL_RANK
