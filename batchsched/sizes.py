"""How large a model is, as far as its folder says."""

from __future__ import annotations

import contextlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from batchsched.profiles.shape import Shape, bytes_per_parameter, configured


@lru_cache(maxsize=64)
def size_of(path: str, parameters_b: float | None = None) -> Shape | None:
    """A model by its folder, as far as there is one here: its weights, where `parameters_b` does not say how many, and its
    config.json; None where nothing is known."""
    folder = Path(path) if path else None
    config: dict[str, Any] = {}
    if folder is not None:
        with contextlib.suppress(OSError, ValueError):
            found = json.loads((folder / "config.json").read_bytes())
            config = found if isinstance(found, dict) else {}
    if parameters_b is None and folder is not None:
        weight_bytes = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        parameters_b = weight_bytes / 1e9 / bytes_per_parameter(config) or None
    return configured(config, parameters_b) if parameters_b else None
