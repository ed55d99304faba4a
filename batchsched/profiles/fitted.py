"""What the prior's constants are: made by benchmarks/fit_prior.py, which reads them out of what others measured.

Sources, all of 2023 and 2024: the ml.energy leaderboard v1 and v2, LLM-Inference-Bench (Argonne), Splitwise-sim, Helix's layer
times, and MLPerf Inference v4.1 (speed only: its meter saw the whole system). Each engine of each source is an era of its own;
`VLLM` is that of vLLM in LLM-Inference-Bench. Not written by hand: run the script again with --write.
"""

from __future__ import annotations

from batchsched.profiles.roofline import Device, Software

VLLM = Software(0.00113, 5e-05, 4.77e-05, 0.000114, 1.48)
"""Seconds of its own: a step, a layer, a running request, a layer on each doubling of GPUs; and the factor of experts."""

DEVICES = {
    "V100": Device(0.881, 90.3, 0.19, 0.725, 1),
    "T4": Device(0.795, 22.6, 0.3, 0.6, 1),
    "A100": Device(0.84, 207, 0.214, 0.615, 1),
    "A40": Device(0.95, 87.5, 0.241, 0.915, 1),
    "L4": Device(0.839, 48, 0.3, 0.6, 1),
    "L40S": Device(0.797, 94.7, 0.3, 0.6, 1),
    "H100": Device(0.919, 558, 0.256, 0.475, 1),
}
"""Achieved: share of bandwidth, TFLOP/s on 16-bit weights; of the power limit: static, memory and compute share."""

METERED = frozenset(["A100", "A40", "H100", "V100"])
"""Whose power was measured; of the others it is as usual."""

SIGMA = 0.61
"""Spread of log speed where neither the model nor the engine was seen: every era foretold as if it were `VLLM`."""
