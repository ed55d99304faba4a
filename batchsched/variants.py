"""Variants: other ways to serve a declared model (modes.md), by names of their own that no answer carries.

A variant has its base's weights and flags, its own beside them, and a mode. It is profiled, compared, planned and launched as a
model is. A pool serves it where it serves the base, by vLLM; a mode of two pools asks for both at one site.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from batchsched import adapters
from batchsched.fleet import Mode, Pool, ServedModel

TWO_POOLS: frozenset[Mode] = frozenset({"prefill_decode", "draft_target"})
DRAFTING: frozenset[Mode] = frozenset({"speculative", "draft_target"})
_OF_THE_BASE = ("path", "parameters_b", "max_model_len", "weights")
_METHODS: Mapping[Mode, tuple[str, ...]] = {"speculative": ("ngram", "model"), "draft_target": ("remote",)}


def resolved(models: Mapping[str, ServedModel]) -> dict[str, ServedModel]:
    """The models, each adapter and each variant with all that its base says."""
    return {name: _whole(model, models) for name, model in adapters.resolved(models).items()}


def placed(models: Mapping[str, ServedModel], pools: Mapping[str, Pool]) -> dict[str, Pool]:
    """The pools, each serving the variants that it can of the models that it serves, and no others."""
    return {name: msgspec.structs.replace(pool, models=_served(name, models, pools)) for name, pool in pools.items()}


def variants_of(models: Mapping[str, ServedModel], names: Iterable[str]) -> list[str]:
    """Other ways to serve models of these names."""
    bases = set(names)
    return [name for name, model in models.items() if model.variant_of in bases]


def complaint(models: Mapping[str, ServedModel], pools: Mapping[str, Pool]) -> tuple[str, str] | None:
    """The first key that is wrong about variants or adapters, and what is wrong and what to do; None where all is well."""
    wrong = (found for name, model in models.items() for found in _wrong(name, model, models, pools))
    return next(wrong, None) or adapters.complaint(models, pools)


def _whole(model: ServedModel, models: Mapping[str, ServedModel]) -> ServedModel:
    """What begins with the base's flags has them already."""
    if not model.variant_of:
        return model
    base, flags = models[model.variant_of], model.engine_args
    flags = flags if flags[: len(base.engine_args)] == base.engine_args else [*base.engine_args, *flags]
    own = {name: getattr(model, name) for name in ("variant_of", "mode", "partner_pool", "draft")}
    return msgspec.structs.replace(base, engine_args=flags, **own)


def _served(key: str, models: Mapping[str, ServedModel], pools: Mapping[str, Pool]) -> list[str]:
    """Empty where that is every declared model."""
    plain = [name for name in pools[key].models or models if not models[name].variant_of]
    ways = [name for name, model in models.items() if model.variant_of and _able(key, model, pools)]
    return [] if not pools[key].models and len(plain) + len(ways) == len(models) else [*plain, *ways]


def _able(key: str, variant: ServedModel, pools: Mapping[str, Pool]) -> bool:
    """Can the workers of a pool serve a variant? Those of spare pools start no engines."""
    pool, partner = pools[key], pools.get(variant.partner_pool)
    apart = partner is None or (key != variant.partner_pool and partner.site == pool.site)
    return apart and pool.serves(variant.variant_of) and pool.engine == "vllm" and pool.kind != "spare"


def _wrong(
    name: str, model: ServedModel, models: Mapping[str, ServedModel], pools: Mapping[str, Pool]
) -> Iterator[tuple[str, str]]:
    key, plain = f"models.{name}", ServedModel()
    if not model.variant_of:
        for field in ("mode", "partner_pool", "draft"):
            if getattr(model, field) != getattr(plain, field):
                yield f"{key}.{field}", "say with variant_of which declared model this is another way to serve"
        if (above := models.get(model.adapter_of)) and above.variant_of:
            yield f"{key}.adapter_of", f"'{model.adapter_of}' is another way to serve '{above.variant_of}': name that"
        return
    base = models.get(model.variant_of)
    if base is None or base.variant_of or base.adapter_of:
        what = "no declared model" if base is None else "a variant itself" if base.variant_of else "an adapter"
        yield f"{key}.variant_of", f"'{model.variant_of}' is {what}"
        return
    for field in ("adapter_of", "adapter"):
        if getattr(model, field):
            yield f"{key}.{field}", "a variant serves its base alone, without adapters; take it out"
    for field in _OF_THE_BASE:
        if getattr(model, field) not in (getattr(plain, field), getattr(base, field)):
            yield f"{key}.{field}", f"that is for the base, '{model.variant_of}', to say; take it out here"
    yield from _wrong_draft(f"{key}.draft", model)
    yield from _wrong_pools(name, model, pools)


def _wrong_draft(key: str, model: ServedModel) -> Iterator[tuple[str, str]]:
    draft, methods = model.draft, _METHODS.get(model.mode, ())
    if draft is None:
        if methods:
            yield key, f'say how drafts are made, such as {{ method = "{methods[0]}", tokens = 4 }}'
    elif not methods:
        yield key, f"mode '{model.mode}' has no drafts; take it out"
    elif draft.method not in methods:
        yield f"{key}.method", f"mode '{model.mode}' makes drafts by {' or '.join(methods)}, not by '{draft.method}'"
    elif draft.method == "ngram" and draft.lookup_min > draft.lookup_max:
        yield f"{key}.lookup_min", "it is above lookup_max"
    elif bool(draft.model) == (draft.method == "ngram"):
        text = "drafts by ngram have no model; take it out" if draft.model else "name the smaller model: its folder or hub name"
        yield f"{key}.model", text


def _wrong_pools(name: str, model: ServedModel, pools: Mapping[str, Pool]) -> Iterator[tuple[str, str]]:
    key, base, partner = f"models.{name}.partner_pool", model.variant_of, pools.get(model.partner_pool)
    if model.mode not in TWO_POOLS:
        if model.partner_pool:
            yield key, f"mode '{model.mode}' is of one pool; take it out"
    elif partner is None:
        yield key, f"mode '{model.mode}' is of two pools: name the second one (declared: {', '.join(pools) or 'none'})"
    elif partner.engine != "vllm" or partner.kind == "spare":
        yield key, f"the engines of '{model.partner_pool}' are not vLLMs of our own"
    elif not any(_able(each, model, pools) for each in pools):
        yield key, f"no other pool of its site serves '{base}' by vLLM"
    for each, pool in pools.items():
        if name in pool.models and base not in pool.models:
            yield f"pools.{each}.models", f"'{name}' is another way to serve '{base}': name that"
