"""The measured rows that the prior is fitted to and judged by, from the shared data, as one kind of record.

What is left out, and why: the Splitwise rows of a power-capped H100 (the same times again, no configuration of ours) and their
column of throughput (it contradicts their own milliseconds a token: those are taken); the Argonne rows of a GH200, and MLPerf
systems other than H100 SXM, H200 and L40S (no published figures of the GPU stand in our table); MLPerf's server scenario (bound
by latency), its open division, and GPT-J (no token counts). MLPerf's power is of the whole system at the wall, so its rows carry
no energy here; where a source gave power 0, it was not measured.
"""

from __future__ import annotations

import csv
import gzip
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from batchsched.fleet import GPU_TYPES
from batchsched.profiles.shape import Shape

DATA = Path(os.environ.get("BATCHSCHED_DATA", Path(__file__).resolve().parent.parent.parent / "shared" / "data"))
ENERGY = DATA / "energy_llm_measured.csv.gz"
HELIX = DATA / "perf_helix_t4_l4_v100_a100_layer_ms.csv"
MLPERF = DATA / "perf_mlperf_v4.1_llm.csv"
HELIX_STRIDE = 4
HELIX_CONTEXT = 700.0
"""Tokens of context in Helix's decode layers: not published; the value at which its T4 to A100 rows agree best."""
MLPERF_PROMPT = 300.0
"""Tokens of an OpenOrca prompt: our assumption, the file gives only answers."""
PROMPTS = {"chat": 74.1, "code": 156.5}
"""Mean prompt of ShareGPT (Helix's sample) and HumanEval, by token_length_percentiles.csv: ml.energy does not publish its own."""


CLASS = {"A100-40": "A100", "A100-80": "A100", "H200": "H100"}
"""GPU types with one die: what one achieves in arithmetic, the other does."""
GENERATION = {"V100": "Volta", "T4": "Turing", "A100": "Ampere", "A40": "Ampere", "L4": "Ada", "L40S": "Ada", "H100": "Hopper"}


class Measured(NamedTuple):
    """One measured point. `kind`: a whole run, its prefill or its decoding alone; rates in tokens a second of that kind."""

    source: str
    software: str
    model: str
    family: str
    shape: Shape
    gpu: str
    gpus: int
    kind: Literal["run", "prefill", "decode"]
    in_flight: float
    input_tokens: float
    output_tokens: float
    tokens_per_s: float
    power_w: float | None

    @property
    def device(self) -> str:
        """Whose achieved rates it shows."""
        return CLASS.get(self.gpu, self.gpu)


def measured() -> list[Measured]:
    """Every usable row. Raises FileNotFoundError where the shared data is absent."""
    return [*_energy(), *_helix(), *_mlperf()]


# Entered by hand after the models' published configurations, not read from their files: family, billions of parameters, layers,
# key-value heads times their width, active billions.
_MODELS: dict[str, tuple[str, float, int, int, float | None]] = {
    "Llama-2-7b": ("Llama 2", 6.74, 32, 4096, None),
    "Llama-2-13b": ("Llama 2", 13.0, 40, 5120, None),
    "llama2-70b": ("Llama 2", 69.0, 80, 1024, None),
    "llama2_70b": ("Llama 2", 69.0, 80, 1024, None),
    "CodeLlama-7b": ("Llama 2", 6.74, 32, 4096, None),
    "CodeLlama-13b": ("Llama 2", 13.0, 40, 5120, None),
    "CodeLlama-34b": ("Llama 2", 33.7, 48, 1024, None),
    "CodeLlama-70b": ("Llama 2", 69.0, 80, 1024, None),
    "Meta-Llama-3-8B": ("Llama 3", 8.03, 32, 1024, None),
    "Meta-Llama-3.1-8B": ("Llama 3", 8.03, 32, 1024, None),
    "Meta-Llama-3.1-70B": ("Llama 3", 70.6, 80, 1024, None),
    "Meta-Llama-3.1-405B": ("Llama 3", 405.9, 126, 1024, None),
    "Mistral-7B": ("Mistral", 7.25, 32, 1024, None),
    "Mistral-Nemo": ("Mistral", 12.2, 40, 1024, None),
    "Mistral-Large": ("Mistral", 122.6, 88, 1024, None),
    "Mixtral-8x7B": ("Mixtral", 46.7, 32, 1024, 12.9),
    "mixtral-8x7b": ("Mixtral", 46.7, 32, 1024, 12.9),
    "Mixtral-8x22B": ("Mixtral", 140.6, 56, 1024, 39.1),
    "Phi-3-mini": ("Phi 3", 3.82, 32, 3072, None),
    "Phi-3-small": ("Phi 3", 7.39, 32, 1024, None),
    "Phi-3-medium": ("Phi 3", 14.0, 40, 1280, None),
    "gemma-2-2b": ("Gemma 2", 2.61, 26, 1024, None),
    "gemma-2-9b": ("Gemma 2", 9.24, 42, 2048, None),
    "gemma-2-27b": ("Gemma 2", 27.2, 46, 2048, None),
    "codegemma-1.1-2b": ("Gemma 1", 2.51, 18, 256, None),
    "codegemma-7b": ("Gemma 1", 8.54, 28, 4096, None),
    "starcoder2-3b": ("StarCoder 2", 3.03, 30, 256, None),
    "starcoder2-7b": ("StarCoder 2", 7.17, 32, 512, None),
    "starcoder2-15b": ("StarCoder 2", 15.96, 40, 512, None),
    "bloom-176b": ("BLOOM", 176.2, 70, 14336, None),
    "phoenix": ("BLOOM", 7.07, 30, 4096, None),
    "dolly-v2-12b": ("Pythia", 11.8, 36, 5120, None),
    "oasst-sft-1-pythia-12b": ("Pythia", 11.8, 36, 5120, None),
    "RedPajama": ("Pythia", 6.9, 32, 4096, None),
    "stablelm": ("Pythia", 7.9, 16, 6144, None),
    "xgen": ("XGen", 6.7, 32, 4096, None),
    "h2ogpt": ("OpenLLaMA", 6.74, 32, 4096, None),
    "rwkv": ("RWKV", 7.4, 32, 0, None),
    "fastchat-t5": ("T5", 2.85, 48, 2048, None),
    **dict.fromkeys(("BiLLa", "baize", "alpaca", "koala-7b", "vicuna-7B", "llama-7B"), ("Llama 1", 6.74, 32, 4096, None)),
    **dict.fromkeys(
        ("koala-13b", "vicuna-13B", "llama-13B", "CAMEL", "gpt4all-13b", "manticore"), ("Llama 1", 13.0, 40, 5120, None)
    ),
    "llama1_30b": ("Llama 1", 32.5, 60, 6656, None),
}


def _model(name: str, bytes_per_parameter: float = 2.0) -> tuple[str, Shape]:
    for start, (family, size_b, layers, width, active_b) in _MODELS.items():
        if name.startswith(start):
            kept = 2 * bytes_per_parameter * width * layers
            return family, Shape(size_b, active_b or size_b, layers, kept, bytes_per_parameter)
    raise KeyError(name)


_SOFTWARE = {
    "ml.energy v2 (2024)": "vllm-served-2024",
    "ml.energy v1 legacy (2023)": "transformers-2023",
    "Splitwise-sim perf_model (2024)": "vllm-2023",
}
_ARGONNE = {"vLLM": "vllm", "TensorRT-LLM": "tensorrt-llm", "Deepspeed-MII": "deepspeed-mii"}
_GPU = {
    "A100-SXM4-40GB": "A100-40",
    "A100": "A100-40",
    "a100-80gb": "A100-80",
    "H100 80GB HBM3": "H100",
    "h100-80gb": "H100",
    "H100": "H100",
    "A40": "A40",
    "V100": "V100",
}


def _energy() -> Iterator[Measured]:
    with gzip.open(ENERGY, "rt") as file:
        for row in csv.DictReader(file):
            gpu = _GPU.get(row["gpu"])
            if gpu is None or row["source"].startswith("MLPerf"):
                continue
            name = row["model"].split("/")[-1]
            family, shape = _model(name)
            software = _SOFTWARE.get(row["source"]) or _ARGONNE[row["framework"]]
            prompt = float(row["input_tokens"] or PROMPTS.get(row["task"], PROMPTS["chat"]))
            answer = float(row["output_tokens"])
            power = float(row["power_w"]) if row["power_w"] else None
            point = Measured(
                row["source"], software, name, family, shape, gpu, int(float(row["n_gpus"])), "run", float(row["batch"]),
                prompt, answer, float(row["out_tok_s"]), power,
            )  # fmt: skip
            yield from _phases(point, row) if row["prefill_ms"] else [point]


def _phases(point: Measured, row: dict[str, str]) -> Iterator[Measured]:
    """A Splitwise row as its two phases; its power is of the whole run, nearly all of which is decoding."""
    share = float(row["power_frac_of_tdp"] or 0)
    watts = share * GPU_TYPES[point.gpu].tdp_w * point.gpus if share > 0.2 else None
    prefill = 1e3 * point.in_flight * point.input_tokens / float(row["prefill_ms"])
    yield point._replace(kind="prefill", tokens_per_s=prefill, power_w=None)
    decoding = 1e3 * point.in_flight / float(row["decode_ms_per_token"])
    yield point._replace(kind="decode", tokens_per_s=decoding, power_w=watts)


def _helix() -> Iterator[Measured]:
    """Milliseconds of one layer."""
    with HELIX.open() as file:
        rows = [row for row in csv.DictReader(file) if float(row["ms"]) > 0 and float(row["batch_tokens_or_requests"]) > 1]
    for row in rows[::HELIX_STRIDE]:
        family, whole = _model(row["model"])
        shape = Shape(
            whole.parameters_b / whole.layers, whole.active_b / whole.layers, 1, whole.kv_bytes_per_token / whole.layers
        )
        name, _, count = row["gpu"].partition("x")
        gpu = {"a100": "A100-40", "v100": "V100", "t4": "T4", "l4": "L4"}[name]
        size, rate = float(row["batch_tokens_or_requests"]), 1e3 * float(row["batch_tokens_or_requests"]) / float(row["ms"])
        point = Measured(
            "Helix (2024)", "layers-2024", row["model"], family, shape, gpu, int(count or 1), "decode", size, HELIX_CONTEXT - 1,
            2.0, rate, None,
        )  # fmt: skip
        yield point if row["phase"] == "decode" else point._replace(kind="prefill", in_flight=1.0, input_tokens=size)


def _mlperf() -> Iterator[Measured]:
    """Offline, 8-bit floats, as many requests as memory holds. A system's GPUs count as replicas that just hold the model."""
    gpus = {"NVIDIA H100-SXM-80GB": "H100", "NVIDIA H200-SXM-141GB": "H200", "NVIDIA L40S": "L40S"}
    with MLPERF.open() as file:
        for row in csv.DictReader(file):
            gpu = gpus.get(row["accelerator"])
            if gpu is None or row["scenario"] != "Offline" or row["division"] != "closed" or not row["tokens_per_s"]:
                continue
            family, shape = _model("llama2-70b" if row["benchmark"].startswith("llama") else "mixtral-8x7b", 1.0)
            replica = math.ceil(shape.weight_bytes / (0.8 * GPU_TYPES[gpu].memory_gb * 1e9))
            rate = float(row["tokens_per_s"]) / (float(row["n_accel"]) * int(row["nodes"])) * replica
            answer = float(row["tokens_per_s"]) / float(row["samples_per_s"])
            yield Measured(
                "MLPerf v4.1 (2024)", "tensorrt-llm-tuned", row["benchmark"], family, shape, gpu, replica, "run", 4096.0,
                MLPERF_PROMPT, answer, rate, None,
            )  # fmt: skip
