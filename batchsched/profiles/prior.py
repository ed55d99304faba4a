"""A guess at speed and power before anything was measured: good for an order of magnitude, and it says so by its spread.

Decoding is bound by reading the weights: a step reads them once and yields a token for each running request, so

    output tokens/s = EFFECTIVE_BATCH x memory bandwidth / (2 bytes x parameters)

EFFECTIVE_BATCH holds everything else (batch size, attention, scheduling, the prompts read on the way). Fitted, not derived: over
213 measured rows with more than 60 requests in flight, or an offline benchmark (ml.energy leaderboard 2024, LLM-Inference-Bench
2024, MLPerf Inference v4.1; A100, H100, H200, GH200; 2 to 180 billion parameters, where the models are dense), its geometric mean
is 8.8 and the standard deviation of its logarithm 0.59: two rows in three within a factor of 1.8. The spread below is wider,
because no T4, L4 or CPU is among them.
"""

from __future__ import annotations

import math

from batchsched.fleet import GPU_TYPES, VCPU_IDLE_W, VCPU_MAX_W
from batchsched.profiles.profile import Profile

EFFECTIVE_BATCH = 9.0
BYTES_PER_PARAMETER = 2.0
"""16-bit weights."""
INPUT_SPEEDUP = 12.0
"""Prompt tokens are read together: 9 (T4, V100) to 18 (A100, L4) times the output rate above, by Helix's layer times of Llama 30B
and 70B (ASPLOS 2025)."""
MOST_OUTPUT_TOKENS_PER_S = 10_000.0
"""However small the model is, the engine's own work remains."""
MOST_OUTPUT_TOKENS_PER_S_PER_VCPU = 2_500.0
"""A model of 2.7 MB reached 10,000 tokens a second, prompts included, on two CPU cores: half of that counted as output."""
VCPU_BANDWIDTH_GB_PER_S = 2.5
"""Our assumption. Gives 480 tokens/s for 6 billion parameters on 256 virtual CPUs, where GPT-J on two Xeon 8592+ does 3.7
summaries a second (MLPerf v4.1), each of some ten to a hundred tokens: the order of magnitude is right."""
BUSY_SHARE_OF_TDP = 0.42
"""Median over the same rows: decoding waits for memory and draws far less than the GPU's limit."""
USABLE_MEMORY = 0.8
"""Share of a GPU's memory that weights may fill; a larger model spans several GPUs."""
SIGMA = 0.7
SIGMA_UNKNOWN_SIZE = 1.0
DEFAULT_PARAMETERS_B = 8.0
STARTUP_S = 60.0
"""Our assumption for an engine that compiles nothing; on two CPU cores the smallest model took 15 to 49 s."""
LOAD_GB_PER_S = 1.0
"""Our assumption for weights read from disk or network."""


def prior(
    model: str, pool: str, gpu: str, parameters_b: float | None, *, vcpus: int = 1, power_w: float | None = None
) -> Profile:
    """The prior of a model on a pool's replica.

    `gpu`: a key of fleet.GPU_TYPES or `cpu`, which has `vcpus` virtual CPUs. `parameters_b`: billions; None widens the spread.
    `power_w`: watts of a busy replica where the operator knows better.
    """
    size_b = parameters_b or DEFAULT_PARAMETERS_B
    weights_gb = BYTES_PER_PARAMETER * size_b
    if gpu == "cpu":
        bandwidth = VCPU_BANDWIDTH_GB_PER_S * vcpus
        most = MOST_OUTPUT_TOKENS_PER_S_PER_VCPU * vcpus
        busy_w, idle_w = VCPU_MAX_W * vcpus, VCPU_IDLE_W * vcpus
    else:
        kind = GPU_TYPES[gpu]
        gpus = max(1, math.ceil(weights_gb / (USABLE_MEMORY * kind.memory_gb)))
        bandwidth, most = kind.bandwidth_gb_per_s * gpus, MOST_OUTPUT_TOKENS_PER_S * gpus
        busy_w, idle_w = BUSY_SHARE_OF_TDP * kind.tdp_w * gpus, kind.idle_w * gpus
    output_rate = min(most, EFFECTIVE_BATCH * bandwidth / weights_gb)
    busy_w = power_w or busy_w
    return Profile(
        model,
        pool,
        input_tokens_per_s=INPUT_SPEEDUP * output_rate,
        output_tokens_per_s=output_rate,
        power_w=busy_w,
        idle_w=min(idle_w, busy_w),
        sigma=SIGMA if parameters_b else SIGMA_UNKNOWN_SIZE,
        startup_s=STARTUP_S + weights_gb / LOAD_GB_PER_S,
    )
