"""How large a model is, as far as its folder says."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from batchsched.fleet import GpuType, Pool, ServedModel, gpus_of
from batchsched.profiles.shape import Shape, bytes_per_parameter, configured

_SMALLER = ("--quantization", "-q", "--cpu-offload-gb", "--load-format")
"""Flags with which an engine holds more than the weights' own size would allow."""


@lru_cache(maxsize=64)
def size_of(path: str, parameters_b: float | None = None) -> Shape | None:
    """A model by its folder, as far as there is one here: its weights, where `parameters_b` does not say how many, and its
    config.json; None where nothing is known."""
    folder = Path(path) if path else None
    config = config_of(path)
    if parameters_b is None and folder is not None:
        weight_bytes = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        parameters_b = weight_bytes / 1e9 / bytes_per_parameter(config) or None
    return configured(config, parameters_b) if parameters_b else None


@lru_cache(maxsize=64)
def config_of(path: str) -> dict[str, Any]:
    """A model's config.json, as far as its folder is here; empty where it is not."""
    if path:
        with contextlib.suppress(OSError, ValueError):
            found = json.loads((Path(path) / "config.json").read_bytes())
            return found if isinstance(found, dict) else {}
    return {}


def too_large(name: str, pool: Pool, model: str, served: ServedModel, gpus: Mapping[str, GpuType]) -> str:
    """Why the GPUs of a replica cannot hold a model's weights; empty where they can, or where that is not known."""
    kind, size = gpus.get(pool.gpu), size_of(served.path, served.parameters_b)
    flags = [*pool.engine_args, *served.engine_args]
    smaller = served.path.endswith(".gguf") or any(word.startswith(_SMALLER) for words in flags for word in words.split())
    if kind is None or size is None or smaller:
        return ""
    weights_gb, count = size.weight_bytes / 1e9, gpus_of(flags) or 1
    if weights_gb <= count * kind.memory_gb:
        return ""
    return (
        f"Pool {name} gets nothing of {model}: its weights take {weights_gb:.0f} GB, the {count} x {kind.name} of a replica have "
        f"{count * kind.memory_gb:.0f} GB. Give more GPUs by --tensor-parallel-size, or name the pool's models."
    )
