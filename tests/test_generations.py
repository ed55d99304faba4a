"""What old GPUs cannot compute is not planned there."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from batchsched.errors import InvalidConfiguration
from batchsched.fleet import GPU_TYPES, Pool, ServedModel
from batchsched.generations import cannot_compute, cannot_run, fitted
from batchsched.settings import load
from batchsched.wire import PREFIX
from tests.live import live_server


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


FORMS = ServedModel("org/model", parameters_b=13.0, weights={"awq": "org/model-awq", "gptq": "org/model-gptq"})


@pytest.mark.parametrize(
    ("gpu", "flags", "path"),
    [
        ("A100-40", [], "org/model"),
        ("A100-40", ["--dtype", "bfloat16"], "org/model"),
        ("V100-16", [], "org/model-gptq"),  # 26 GB do not fit, and awq needs 7.5
        ("T4", [], "org/model-awq"),
        ("V100", [], "org/model"),
        ("V100-16", ["--dtype", "bfloat16"], "org/model"),  # no form of it runs
    ],
)
def test_a_pool_gets_the_weights_that_it_can_run(gpu: str, flags: list[str], path: str) -> None:
    pool = Pool(gpu=gpu, engine_args=flags)
    form = fitted(pool, FORMS, GPU_TYPES)
    assert (form.path, form.weights) == (path, {})
    assert ("--quantization" in form.engine_args) == (path != "org/model")
    unable = gpu == "V100-16" and bool(flags)
    assert bool(cannot_run("old", pool, "m", FORMS, GPU_TYPES)) == unable


def test_llama_cpp_gets_gguf_files() -> None:
    pool = Pool(gpu="P40", engine="llama-cpp-python")
    forms = msgspec.structs.replace(FORMS, weights={**FORMS.weights, "gguf": "chat-q4.gguf"}, engine_args=["--enforce-eager"])
    assert fitted(pool, forms, GPU_TYPES) == ServedModel("chat-q4.gguf", parameters_b=FORMS.parameters_b)
    assert not cannot_run("old", pool, "m", forms, GPU_TYPES), "how small it is nobody said"
    assert fitted(pool, ServedModel("own.gguf"), GPU_TYPES).path == "own.gguf"


def test_workers_are_told_of_the_weights_of_their_pool(tmp_path: Path) -> None:
    text = """
[sites.home]
zone = "DE"
[models.m]
path = "org/model"
parameters_b = 13.0
weights = { awq = "org/model-awq", gptq = "org/model-gptq" }
[pools.old]
gpu = "V100-16"
[pools.new]
gpu = "A100-40"
"""
    with live_server(tmp_path, text) as server:
        told = {
            pool: server.post(f"{PREFIX}/workers", {"pool": pool, "host": "test", "pid": 1})["models"]["m"]
            for pool in ("old", "new")
        }
    assert (told["old"]["path"], told["old"]["engine_args"]) == ("org/model-gptq", ["--quantization", "gptq"])
    assert (told["new"]["path"], told["new"]["engine_args"]) == ("org/model", [])
