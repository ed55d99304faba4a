"""What a mode of serving asks of the engine: its flags, by the table of engines, and which requests it would refuse."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from batchsched.engines import Build
from batchsched.errors import EngineFailed
from batchsched.fleet import Draft, Mode, ServedModel, absolute
from batchsched.variants import DRAFTING

OWN_MODES: tuple[Mode, ...] = ("speculative",)
"""Those that need nobody but the worker's own engine."""
_BY_DRAFTS = (b'"min_p"', b'"logit_bias"')
"""Fields of requests that vLLM (0.32) refuses where it checks drafts."""


def modes_of(partner: Mode | None) -> list[Mode]:
    """The modes in which a worker can serve beside the plain one. `partner`: what its partner is for, once known."""
    return [*OWN_MODES, *([partner] if partner else [])]


def mode_flags(build: Build, model: ServedModel) -> list[str]:
    """The engine's flags for the mode of a model; none for the plain one. Raises EngineFailed where its version has it not."""
    return _FLAGS[model.mode](build, model) if model.mode in _FLAGS else []


def refused(model: ServedModel, bodies: Iterable[bytes]) -> str:
    """The field for which an engine in the model's mode would refuse one of these requests; empty where there is none."""
    if model.mode not in DRAFTING:
        return ""
    return next((field.decode() for body in bodies for field in _BY_DRAFTS if field in body), "")


def _speculative(build: Build, model: ServedModel) -> list[str]:
    draft = model.draft or Draft()
    if not build.has("mode", draft.method):
        raise EngineFailed(
            f"{build.describe()} cannot make drafts by '{draft.method}'.",
            hint=f"Take another engine, or another draft.method, for the variant of '{model.variant_of}'.",
        )
    config: dict[str, Any] = {"method": build.facts("mode")[draft.method], "num_speculative_tokens": draft.tokens}
    if draft.method == "ngram":
        config |= {"prompt_lookup_min": draft.lookup_min, "prompt_lookup_max": draft.lookup_max}
    else:
        config["model"] = absolute(draft.model)
    return ["--speculative-config", json.dumps(config)]


_FLAGS: Mapping[Mode, Callable[[Build, ServedModel], list[str]]] = {"speculative": _speculative}
