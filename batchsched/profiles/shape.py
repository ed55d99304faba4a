"""What of a model decides its speed: how much is read and computed for a token, and what a token leaves in memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from batchsched.kv_link import HALF, kv_bytes_per_token, number_of

KEY_VALUE_WIDTH = 1024
"""Key-value heads times their width, where unknown: 8 heads of 128, as in Llama 3, Mistral 7B and most later models."""


class Shape(msgspec.Struct, frozen=True):
    """One model. `active_b`: billions of parameters that one token passes through; fewer than all in a mixture of experts."""

    parameters_b: float
    active_b: float
    layers: float
    kv_bytes_per_token: float
    """Keys and values of all layers."""
    bytes_per_parameter: float = HALF

    @property
    def weight_bytes(self) -> float:
        """Of all weights."""
        return self.parameters_b * 1e9 * self.bytes_per_parameter

    def touched_bytes(self, tokens: float) -> float:
        """Weights read by a step over that many tokens: each picks its own experts, and many together pick nearly all."""
        return self.weight_bytes * (1.0 - math.pow(1.0 - min(1.0, self.active_b / self.parameters_b), tokens))


def shape(
    parameters_b: float,
    *,
    active_b: float | None = None,
    layers: float | None = None,
    kv_bytes_per_token: float | None = None,
    bytes_per_parameter: float = HALF,
) -> Shape:
    """A model of that many billions of parameters; what is not known is as usual for its size.

    Usual layers: 32 at 8 billion, growing with the 0.36th power (Llama 3: 16 at 1 billion, 80 at 70, 126 at 405).
    """
    deep = layers or 32.0 * math.pow(parameters_b / 8.0, 0.36)
    kept = kv_bytes_per_token if kv_bytes_per_token is not None else 2 * HALF * KEY_VALUE_WIDTH * deep
    return Shape(parameters_b, min(active_b or parameters_b, parameters_b), deep, kept, bytes_per_parameter)


def configured(config: Mapping[str, Any], parameters_b: float, *, active_b: float | None = None) -> Shape:
    """A model by its own config.json, as its folder holds it; what that does not say is as usual."""
    text = config.get("text_config")
    inner: Mapping[str, Any] = {**config, **text} if isinstance(text, Mapping) else config
    layers = number_of(inner, "num_hidden_layers", "n_layer", "num_layers")
    hidden = number_of(inner, "hidden_size", "n_embd", "d_model")
    return shape(
        parameters_b,
        active_b=active_b or _active_b(inner, parameters_b, layers, hidden),
        layers=layers,
        kv_bytes_per_token=kv_bytes_per_token(config),
        bytes_per_parameter=bytes_per_parameter(config),
    )


def bytes_per_parameter(config: Mapping[str, Any]) -> float:
    """Of the weights as they lie in memory: 2 where nothing says that they are quantised."""
    found = config.get("quantization_config")
    told: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
    bits = number_of(told, "bits", "w_bit")
    if bits:
        return bits / 8
    if "fp8" in str(told.get("quant_method", "")) or told.get("load_in_8bit"):
        return 1.0
    return 0.5 if told.get("load_in_4bit") else HALF


def _active_b(config: Mapping[str, Any], parameters_b: float, layers: float | None, hidden: float | None) -> float | None:
    """Of a mixture of experts: all parameters but those of the experts that a token does not pick."""
    experts = number_of(config, "num_local_experts", "num_experts", "n_routed_experts")
    picked = number_of(config, "num_experts_per_tok")
    width = number_of(config, "moe_intermediate_size", "intermediate_size")
    if not (experts and picked and width and layers and hidden) or experts <= picked:
        return None
    idle_b = 3 * hidden * width * layers * (experts - picked) / 1e9
    return parameters_b - idle_b if idle_b < parameters_b else None
