"""A guess at speed and power before anything was measured: a roofline (`roofline.py`) with constants read out of what others
measured (`fitted.py`).

On families of models that the fit did not see, half of its throughputs are within 14 % and half of its joules a token within
10 % of what was measured, where the engine's own overhead is known (docs/profiles.md, by GPU generation). The overhead of the
engine at hand is not: behind a chat server, vLLM itself ran the same model on the same GPU at half the speed. That is most of
the spread.
"""

from __future__ import annotations

import msgspec

from batchsched.fleet import GPU_TYPES, VCPU_IDLE_W, VCPU_MAX_W, GpuType
from batchsched.profiles.fitted import DEVICES, METERED, SIGMA, VLLM
from batchsched.profiles.profile import Profile
from batchsched.profiles.roofline import Device, Engine, gpus_for, step
from batchsched.profiles.roofline import power_w as drawn_w
from batchsched.profiles.shape import Shape, shape

SAME_DIE = {"A100-40": "A100", "A100-80": "A100", "H200": "H100"}
"""Whose achieved rates stand for a type's own."""
NO_TENSOR_CORES = 0.25
"""Arithmetic of a GPU older than the V100, beside one with tensor cores: the V100's published half-precision rates without and
with them, 31 and 125 TFLOP/s."""
CONTEXT_TOKENS = 1024.0
"""Prompt and answer of a running request, halfway: our assumption, which decides how many requests fit into memory."""
IN_FLIGHT = 256
"""Requests in flight where nothing says how many; vLLM's own limit of running requests on most GPUs, too."""

SIGMA_UNSEEN_GPU = 0.75
SIGMA_UNKNOWN_SIZE = 1.0
DEFAULT_PARAMETERS_B = 8.0
STARTUP_S = 60.0
"""Our assumption for an engine that compiles nothing; on two CPU cores the smallest model took 15 to 49 s."""
LOAD_GB_PER_S = 1.0
"""Our assumption for weights read from disk or network."""

SIGMA_CPU = 0.7
CPU_BATCH = 9.0
"""On CPUs nothing better than a rule of thumb stands here: decoding reads the weights once for this many tokens."""
CPU_INPUT_SPEEDUP = 12.0
MOST_OUTPUT_TOKENS_PER_S_PER_VCPU = 2_500.0
"""A model of 2.7 MB reached 10,000 tokens a second, prompts included, on two CPU cores: half of that counted as output."""
VCPU_BANDWIDTH_GB_PER_S = 2.5
"""Our assumption. Gives 480 tokens/s for 6 billion parameters on 256 virtual CPUs, where GPT-J on two Xeon 8592+ does 3.7
summaries a second (MLPerf v4.1), each of some ten to a hundred tokens: the order of magnitude is right."""


def prior(
    model: str,
    pool: str,
    gpu: GpuType | str,
    size: Shape | float | None,
    *,
    vcpus: int = 1,
    power_w: float | None = None,
    gpus: int | None = None,
    in_flight: int = IN_FLIGHT,
    context_tokens: float = CONTEXT_TOKENS,
) -> Profile:
    """The prior of a model on a pool's replica.

    `gpu`: a type, or a key of fleet.GPU_TYPES, or `cpu`, which has `vcpus` virtual CPUs. `size`: the model, or its billions of
    parameters; None widens the spread. `power_w`: watts of a busy replica where the operator knows better. `gpus`: of one
    replica, where not just as many as hold the weights.
    """
    known = size if isinstance(size, Shape) else shape(size or DEFAULT_PARAMETERS_B)
    if gpu == "cpu":
        found = _cpu(model, pool, known, vcpus)
    else:
        kind = GPU_TYPES[gpu] if isinstance(gpu, str) else gpu
        engine = Engine(known, kind, device(kind), VLLM, gpus or gpus_for(known, kind))
        found = _gpu(model, pool, engine, in_flight, context_tokens)
    if power_w:
        idle_w = min(found.idle_w, power_w)
        found = msgspec.structs.replace(found, power_w=power_w, input_power_w=power_w, idle_w=idle_w, with_host=1.0)
    return found if size is not None else msgspec.structs.replace(found, sigma=SIGMA_UNKNOWN_SIZE)


def device(kind: GpuType) -> Device:
    """What a GPU type achieves: as measured, or like the measured one that is nearest in compute capability, in proportion to
    its bandwidth."""
    own = SAME_DIE.get(kind.name, kind.name)
    if own in DEVICES:
        return DEVICES[own]
    like = min(
        (name for name in GPU_TYPES if SAME_DIE.get(name, name) in DEVICES), key=lambda name: _apart(kind, GPU_TYPES[name])
    )
    found, scale = DEVICES[SAME_DIE.get(like, like)], kind.bandwidth_gb_per_s / GPU_TYPES[like].bandwidth_gb_per_s
    if kind.compute_capability < 7.0:
        scale *= NO_TENSOR_CORES
    return msgspec.structs.replace(found, tflops=found.tflops * scale)


def _apart(one: GpuType, other: GpuType) -> tuple[float, float]:
    return abs(one.compute_capability - other.compute_capability), abs(one.bandwidth_gb_per_s - other.bandwidth_gb_per_s)


def _gpu(model: str, pool: str, engine: Engine, in_flight: int, context_tokens: float) -> Profile:
    """Decoding at as full a batch as memory allows; prompts are read on the way, and cost their arithmetic."""
    running = engine.batch(in_flight, context_tokens)
    decoding = step(engine, decoding=running, context_tokens=context_tokens, prompt_tokens=0.0)
    seen = SAME_DIE.get(engine.gpu.name, engine.gpu.name) in METERED
    return Profile(
        model,
        pool,
        input_tokens_per_s=engine.flops / (2e9 * engine.shape.active_b),
        output_tokens_per_s=running / decoding.seconds,
        power_w=decoding.power_w,
        input_power_w=drawn_w(engine, 0.0, 1.0),
        idle_w=min(engine.gpu.idle_w * engine.gpus, decoding.power_w),
        sigma=SIGMA if seen else SIGMA_UNSEEN_GPU,
        startup_s=STARTUP_S + engine.shape.weight_bytes / 1e9 / LOAD_GB_PER_S,
    )


def _cpu(model: str, pool: str, known: Shape, vcpus: int) -> Profile:
    touched_gb = known.active_b * known.bytes_per_parameter
    output_rate = vcpus * min(MOST_OUTPUT_TOKENS_PER_S_PER_VCPU, CPU_BATCH * VCPU_BANDWIDTH_GB_PER_S / touched_gb)
    return Profile(
        model,
        pool,
        input_tokens_per_s=CPU_INPUT_SPEEDUP * output_rate,
        output_tokens_per_s=output_rate,
        power_w=VCPU_MAX_W * vcpus,
        input_power_w=VCPU_MAX_W * vcpus,
        idle_w=VCPU_IDLE_W * vcpus,
        sigma=SIGMA_CPU,
        startup_s=STARTUP_S + known.weight_bytes / 1e9 / LOAD_GB_PER_S,
        with_host=1.0,
        idle_with_host=True,
    )
