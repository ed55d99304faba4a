"""Which probes make a profile: GreenLLM's request sizes at full load and at rates, and what tells reading from writing."""

from __future__ import annotations

from collections.abc import Sequence

from batchsched.profiles.slo import WORKLOADS, SizeName
from batchsched.wire import Probe

RATES: dict[str, tuple[float, ...]] = {"sharegpt": (1, 4), "humaneval": (0.5, 11), "longbench": (0.75, 2)}
"""Requests a second: the ends of the ranges in which the paper's text says that old GPUs save; for ShareGPT, where it prints
none, the two rates at which it says that the best configuration changes. Its tables have no rates."""
DECODE = Probe("decode only", 8, 512)
SHORTEST_DECODE = 64


def grid(
    workloads: Sequence[str],
    sizes: Sequence[SizeName],
    rates: Sequence[float] | None = None,
    context_tokens: int | None = None,
) -> tuple[list[Probe], list[str]]:
    """Probes, full load first; and what is left out, in words.

    `rates`: for every workload, instead of `RATES`; empty: full load only. `context_tokens`: the longest request that the engine
    takes.
    """
    wanted: list[Probe] = []
    for workload in workloads:
        for size in sizes:
            tokens = WORKLOADS[workload].sizes[size]
            name = f"{workload} {size}"
            wanted += [Probe(name, tokens.input_tokens, tokens.output_tokens), Probe(f"{name} prefill", tokens.input_tokens, 1)]
            wanted += [
                Probe(name, tokens.input_tokens, tokens.output_tokens, float(rate))
                for rate in (RATES[workload] if rates is None else rates)
            ]
    room = context_tokens - DECODE.input_tokens if context_tokens else DECODE.output_tokens
    if room >= SHORTEST_DECODE:
        wanted.append(Probe(DECODE.name, DECODE.input_tokens, min(DECODE.output_tokens, room)))
    fit = [probe for probe in wanted if context_tokens is None or probe.input_tokens + probe.output_tokens <= context_tokens]
    left_out = sorted({probe.name for probe in wanted} - {probe.name for probe in fit})
    words = [f"{name}: longer than the engine's context of {context_tokens} tokens" for name in left_out]
    return sorted(fit, key=lambda probe: probe.qps is not None), words
