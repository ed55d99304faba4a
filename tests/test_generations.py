"""What old GPUs cannot compute is not planned there."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchsched.errors import InvalidConfiguration
from batchsched.fleet import GPU_TYPES, Pool, ServedModel
from batchsched.generations import cannot_compute
from batchsched.settings import load


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
        ("T4", ["-q fp8"], "0.9.2", "fp8 needs compute capability 8.0"),
        ("T4", ["-q fp8"], "0.32.0", ""),
    ],
)
def test_a_pool_gets_no_model_that_its_generation_cannot_run(gpu: str, flags: list[str], version: str, said: str) -> None:
    kind = next((name for name in GPU_TYPES if name.startswith(gpu)), gpu)
    pool = Pool(gpu=kind, engine_args=flags, engine_version=version)
    why = cannot_compute("old", pool, "m", ServedModel(), GPU_TYPES)
    assert said.replace("V100-16", kind) in why
    assert bool(why) == bool(said)


@pytest.mark.parametrize(
    ("pool", "told"),
    [
        (Pool(gpu="P100", engine_version="0.9.2", quirks=["own_build"]), False),
        (Pool(gpu="P100", engine="llama.cpp", engine_version="b6123"), False),
        (Pool(gpu="P100", engine_version="0.9.2"), True),
    ],
)
def test_another_engine_or_a_build_of_ones_own_runs_on_older_gpus(pool: Pool, told: bool) -> None:
    assert bool(cannot_compute("old", pool, "m", ServedModel(), GPU_TYPES)) == told


def test_weights_say_how_they_are_quantized(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"quantization_config": {"quant_method": "awq"}}', "utf-8")
    why = cannot_compute(
        "old", Pool(gpu=next(n for n in GPU_TYPES if n.startswith("V100"))), "m", ServedModel(str(tmp_path)), GPU_TYPES
    )
    assert "awq needs compute capability 7.5" in why


def test_an_unknown_quirk_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "batchsched.toml"
    path.write_text('[sites.home]\nzone = "DE"\n[pools.old]\nquirks = ["own_buld"]\n', "utf-8")
    with pytest.raises(InvalidConfiguration, match=r"vllm has no quirk 'own_buld'.*own_build"):
        load(path, env={})
