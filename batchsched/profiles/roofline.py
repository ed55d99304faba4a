"""How long one step of an engine takes and what it draws, from what the hardware can do.

A step decodes one token for each running request and may read some prompt tokens on the way. It takes

    overhead + weights and keys read / bandwidth + arithmetic / compute rate

added, not the larger of the two: kernels that wait for memory and kernels that compute follow each other within each layer, and
the sum fits what was measured better. Overhead is the engine's own: a base, a part for each layer (launches), for each running
request (scheduling, sampling, streaming), and for each layer that several GPUs compute together. Power is a share of the GPU's
limit: a static part, and parts for the time that memory and arithmetic are busy. The rates are those that were achieved, not
those of data sheets; `fitted.py` holds them and says from what.
"""

from __future__ import annotations

import math

import msgspec

from batchsched.fleet import GpuType
from batchsched.profiles.shape import Shape

MEMORY_SHARE = 0.9
"""Of a GPU's memory that vLLM takes by default, for weights and for keys and values."""
FITTING_SHARE = 0.8
"""Of a GPU's memory that weights may fill; a larger model spans several GPUs."""
LEAST_KV_SHARE = 0.02
"""Room for keys and values, as a share of the weights, where there would be none."""
FP8_CAPABILITY = 8.9
"""Compute capability from which 8-bit floats are computed at twice the rate."""


class Device(msgspec.Struct, frozen=True):
    """What a GPU type was seen to do. `bandwidth_share`: of its published bandwidth; `tflops`: on 16-bit weights.

    `static`, `memory` and `compute` are shares of its power limit: drawn all the time, and when memory or arithmetic is busy.
    """

    bandwidth_share: float
    tflops: float
    static: float
    memory: float
    compute: float


class Software(msgspec.Struct, frozen=True):
    """An engine's own time in a step, in seconds: a step, a layer, a running request, and a layer on each doubling of GPUs.

    `experts`: how many times as long it takes to read the weights of a mixture of experts as to read those of a dense model.
    """

    base_s: float
    layer_s: float
    request_s: float
    link_s: float
    experts: float = 1.0


class Engine(msgspec.Struct, frozen=True):
    """A model on some GPUs of one type."""

    shape: Shape
    gpu: GpuType
    device: Device
    software: Software
    gpus: int = 1

    @property
    def flops(self) -> float:
        """Arithmetic a second, all GPUs together."""
        fast = self.shape.bytes_per_parameter == 1.0 and self.gpu.compute_capability >= FP8_CAPABILITY
        return (2.0 if fast else 1.0) * self.device.tflops * 1e12 * self.gpus

    @property
    def bytes_per_s(self) -> float:
        """Memory read a second, all GPUs together."""
        return self.device.bandwidth_share * self.gpu.bandwidth_gb_per_s * 1e9 * self.gpus

    def batch(self, in_flight: float, context_tokens: float) -> float:
        """How many of the requests in flight can run at once: memory must hold the keys and values of all their tokens."""
        weights = self.shape.weight_bytes
        room = max(MEMORY_SHARE * self.gpu.memory_gb * 1e9 * self.gpus - weights, LEAST_KV_SHARE * weights)
        return min(in_flight, max(1.0, room / (max(1.0, self.shape.kv_bytes_per_token) * max(1.0, context_tokens))))


class Step(msgspec.Struct, frozen=True):
    """One step: how long, how much of it for memory and for arithmetic, and the watts of all GPUs together."""

    seconds: float
    memory_s: float
    compute_s: float
    power_w: float


def step(engine: Engine, *, decoding: float, context_tokens: float, prompt_tokens: float) -> Step:
    """One step that decodes for `decoding` requests of `context_tokens` each and reads `prompt_tokens` of prompts."""
    shape, software = engine.shape, engine.software
    tokens = decoding + prompt_tokens
    slower = software.experts if shape.active_b < shape.parameters_b else 1.0
    memory_s = (slower * shape.touched_bytes(tokens) + decoding * context_tokens * shape.kv_bytes_per_token) / engine.bytes_per_s
    compute_s = 2e9 * shape.active_b * tokens / engine.flops
    layer_s = software.layer_s + software.link_s * math.log2(engine.gpus)
    seconds = software.base_s + layer_s * shape.layers + software.request_s * decoding + memory_s + compute_s
    return Step(seconds, memory_s, compute_s, power_w(engine, memory_s / seconds, compute_s / seconds))


def power_w(engine: Engine, memory_busy: float, compute_busy: float) -> float:
    """Watts of all GPUs, at these shares of time that memory and arithmetic are busy."""
    device = engine.device
    share = device.static + device.memory * memory_busy + device.compute * compute_busy
    return min(1.0, share) * engine.gpu.tdp_w * engine.gpus


def gpus_for(shape: Shape, gpu: GpuType) -> int:
    """How many GPUs of a type one replica needs for its weights."""
    return max(1, math.ceil(shape.weight_bytes / (FITTING_SHARE * gpu.memory_gb * 1e9)))
