"""Keys and values between an engine that reads a prompt and one that answers it: bytes a token, and does a link carry them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from batchsched.fleet import words_of

HALF = 2.0
"""Bytes of a 16-bit value: what engines keep unless a flag says otherwise, whatever the weights' own width."""
_WIDE = {"float32": 4.0, "float": 4.0}


class KvLink(msgspec.Struct, frozen=True):
    """What a link carried when it was measured, and what a token of a model asks of it."""

    bytes_per_s: float
    bytes_per_token: float

    @property
    def most_tokens_per_s(self) -> float:
        """Tokens of prompts that it carries."""
        return self.bytes_per_s / self.bytes_per_token

    def complaint(self, tokens_per_s: float) -> str:
        """Why prompts read at that rate do not fit it, with the numbers; empty where they do."""
        if tokens_per_s <= self.most_tokens_per_s:
            return ""
        return (
            f"{self.bytes_per_token:,.0f} bytes a token x {tokens_per_s:,.0f} tokens a second are "
            f"{self.bytes_per_token * tokens_per_s / 1e6:,.1f} MB/s, more than the {self.bytes_per_s / 1e6:,.1f} MB/s that the "
            f"link carried: it is enough for {self.most_tokens_per_s:,.0f} tokens a second"
        )


def kv_bytes_per_token(config: Mapping[str, Any], engine_args: Sequence[str] = ()) -> float | None:
    """Of all layers of a model, by its config.json and the engine's flags; None where the config does not say.

    2 x layers x key-value heads x their width x bytes of a value; with latent attention (DeepSeek) one vector for both.
    """
    text = config.get("text_config")
    inner: Mapping[str, Any] = {**config, **text} if isinstance(text, Mapping) else config
    layers = number_of(inner, "num_hidden_layers", "n_layer", "num_layers")
    width = _latent(inner) or _kept(inner)
    return layers * width * _value_bytes(engine_args) if layers and width else None


def kv_bytes_in(folder: str, engine_args: Sequence[str] = ()) -> float | None:
    """The same of a model's folder; None where that is not here."""
    return kv_bytes_per_token(_config_in(folder), engine_args)


def context_in(folder: str) -> int | None:
    """The longest sequence that a model was made for, in tokens; None where its folder is not here, or does not say."""
    config = _config_in(folder)
    text = config.get("text_config")
    longest = number_of({**config, **text} if isinstance(text, Mapping) else config, "max_position_embeddings", "n_positions")
    return None if longest is None else int(longest)


def _config_in(folder: str) -> dict[str, Any]:
    try:
        found = json.loads((Path(folder) / "config.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def number_of(config: Mapping[str, Any], *names: str) -> float | None:
    """The first of these that is a number above 0."""
    for name in names:
        value = config.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0:
            return float(value)
    return None


def _kept(config: Mapping[str, Any]) -> float | None:
    """Values that a token leaves in a layer: a key and a value for each head."""
    heads, hidden = number_of(config, "num_attention_heads", "n_head"), number_of(config, "hidden_size", "n_embd", "d_model")
    width = number_of(config, "head_dim") or (hidden / heads if hidden and heads else None)
    kv_heads = number_of(config, "num_key_value_heads") or heads
    return 2 * kv_heads * width if kv_heads and width else None


def _latent(config: Mapping[str, Any]) -> float | None:
    rank = number_of(config, "kv_lora_rank")
    return rank + (number_of(config, "qk_rope_head_dim") or 0.0) if rank else None


def _value_bytes(engine_args: Sequence[str]) -> float:
    """As vLLM's flags have it; of one that comes twice the last holds."""
    said = dict(itertools.pairwise(words_of(engine_args)))
    if said.get("--kv-cache-dtype", "auto").startswith("fp8"):
        return 1.0
    return _WIDE.get(said.get("--dtype", ""), HALF)
