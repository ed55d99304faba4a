"""What old GPUs cannot compute is not planned there."""

from __future__ import annotations

import pytest

from batchsched.fleet import GPU_TYPES, Pool, ServedModel
from batchsched.generations import cannot_compute


@pytest.mark.parametrize(
    ("gpu", "flags", "version", "said"),
    [
        ("V100", ["--dtype bfloat16"], "", "bfloat16 needs compute capability 8.0, its V100-16 have 7.0. Say --dtype half"),
        ("T4", ["--dtype=bfloat16"], "", "bfloat16 needs compute capability 8.0"),
        ("T4", ["--dtype", "bfloat16", "--dtype", "half"], "", ""),
        ("L4", ["--dtype bfloat16"], "0.32.0", ""),
        ("V100", ["-q awq"], "", "awq needs compute capability 7.5"),
        ("V100", ["--quantization gptq"], "0.9.2", ""),
        ("V100", [], "0.11.0", "vLLM 0.11.0 needs compute capability 7.5, its V100-16 have 7.0. Run an older one"),
        ("V100", [], "0.10.0", ""),
        ("V100", [], "some build", ""),
        ("T4", [], "0.11", ""),
        ("P100", [], "0.9.2", "vLLM 0.9.2 needs compute capability 7.0"),
        ("cpu", ["--dtype bfloat16"], "0.11.0", ""),
    ],
)
def test_a_pool_gets_no_model_that_its_generation_cannot_run(gpu: str, flags: list[str], version: str, said: str) -> None:
    kind = next((name for name in GPU_TYPES if name.startswith(gpu)), gpu)
    pool = Pool(gpu=kind, engine_args=flags, engine_version=version)
    why = cannot_compute("old", pool, "m", ServedModel(), GPU_TYPES)
    assert said.replace("V100-16", kind) in why
    assert bool(why) == bool(said)
