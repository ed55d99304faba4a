"""The table of engines, and what is made of it when one is started."""

from __future__ import annotations

import itertools
from collections import defaultdict

import pytest

from batchsched.engines import ENGINE_NAMES, Build, Fact, numbers, table
from batchsched.executors.engine_home import EngineHome
from batchsched.executors.launch import command, drain_s, environment, keyed
from batchsched.fleet import GPU_TYPES, Pool, ServedModel

MODEL = ServedModel("/nowhere")
GPU_HOME = {version: EngineHome("/x/python", "vllm", version) for version in ("0.8.5", "0.9.2", "0.10.1", "0.18.0", "0.32.0")}


def kind_of(start: str) -> str:
    return next(name for name in GPU_TYPES if name.startswith(start))


def test_no_version_has_two_facts_of_one_name() -> None:
    facts: dict[tuple[str, str, str], list[Fact]] = defaultdict(list)
    for fact in table():
        facts[fact.engine, fact.kind, fact.name].append(fact)
        assert fact.source
        assert (numbers(fact.since) is None) == (not fact.since)
        assert (numbers(fact.before) is None) == (not fact.before)
    for same in facts.values():
        for one, other in itertools.combinations(same, 2):
            edges = [version for edge in (one.since, one.before, other.since, other.before) if (version := numbers(edge))]
            assert not [at for at in [(0,), *edges, (10**5,)] if one.holds(at) and other.holds(at)], (one, other)


@pytest.mark.parametrize("name", ENGINE_NAMES)
def test_each_engine_says_what_a_worker_must_know(name: str) -> None:
    build = Build(name)  # type: ignore[arg-type]
    assert build.facts("route")["health"]
    assert build.has("endpoint", "/v1/chat/completions")
    assert build.least("capability", "lowest") > 0


@pytest.mark.parametrize(
    ("version", "kind", "name", "value"),
    [
        ("0.9.2.post2", "metric", "kv_usage", "vllm:gpu_cache_usage_perc"),
        ("0.11.0", "metric", "kv_usage", "vllm:kv_cache_usage_perc"),
        ("0.10.1", "metric", "token_gap", "vllm:time_per_output_token_seconds"),
        ("0.32.0", "metric", "token_gap", "vllm:inter_token_latency_seconds"),
        ("0.9.2", "request", "structured_outputs", "guided"),
        ("0.11", "metric", "kv_usage", "vllm:kv_cache_usage_perc"),
        ("0.11.2", "request", "structured_outputs", None),
        ("0.9.2", "endpoint", "/v1/responses", None),
        ("", "endpoint", "/v1/responses", ""),
    ],
)
def test_facts_follow_the_version(version: str, kind: str, name: str, value: str | None) -> None:
    assert Build("vllm", version).facts(kind).get(name) == value  # type: ignore[arg-type]


def test_what_is_not_known_rules_nothing_out() -> None:
    assert Build("vllm", "a build").least("quantization", "fp8") == 7.5
    assert Build("vllm", "0.9.2").least("quantization", "fp8") == 8.0
    assert Build("vllm", "0.9.2").least("quantization", "never heard of") == 0.0


@pytest.mark.parametrize(
    ("version", "drains", "quiet"), [("0.9.2", False, True), ("0.10.1", False, False), ("0.32.0", True, False)]
)
def test_an_engine_is_started_with_the_flags_that_it_knows(version: str, drains: bool, quiet: bool) -> None:
    words = command(GPU_HOME[version], Pool(), MODEL, "tiny", 1)
    assert ("--shutdown-timeout" in words) == drains
    assert ("--disable-log-requests" in words) == quiet
    assert (drain_s(GPU_HOME[version]) > 0) == drains


@pytest.mark.parametrize(
    ("gpu", "version", "flags", "half", "v0"),
    [
        ("V100", "0.9.2", [], True, True),
        ("V100", "0.9.2", ["--dtype=float32"], False, True),
        ("T4", "0.32.0", [], True, False),
        ("A100", "0.9.2", [], False, False),
        ("L4", "0.32.0", [], False, False),
    ],
)
def test_old_gpus_get_their_dtype_and_the_engine_that_runs_on_them(
    gpu: str, version: str, flags: list[str], half: bool, v0: bool
) -> None:
    pool = Pool(gpu=kind_of(gpu), engine_args=flags)
    words = command(GPU_HOME[version], pool, MODEL, "tiny", 1)
    assert words[words.index("--dtype") :][:2] == ["--dtype", "half"] if half else "half" not in words
    assert ("VLLM_USE_V1" in environment(GPU_HOME[version], {}, pool)) == v0


def test_a_quirk_asks_for_the_older_engine() -> None:
    pool = Pool(gpu=kind_of("A100"), quirks=["v0"])
    assert environment(GPU_HOME["0.9.2"], {}, pool)["VLLM_USE_V1"] == "0"
    assert "VLLM_USE_V1" not in environment(GPU_HOME["0.32.0"], {}, pool)


def test_what_the_user_has_set_is_left_alone() -> None:
    assert environment(GPU_HOME["0.9.2"], {"VLLM_USE_V1": "1"}, Pool(gpu=kind_of("V100")))["VLLM_USE_V1"] == "1"


def test_llama_cpp_is_started_with_its_own_flags() -> None:
    home = EngineHome("/x/python", "llama-cpp-python", "0.3.36")
    pool, model = Pool(engine="llama-cpp-python", engine_args=["--n_gpu_layers", "-1"]), ServedModel("m.gguf", max_model_len=512)
    assert command(home, pool, model, "tiny", 7) == [
        *("/x/python", "-m", "llama_cpp.server", "--model", "m.gguf", "--model_alias", "tiny", "--host", "127.0.0.1"),
        *("--port", "7", "--n_ctx", "512", "--n_gpu_layers", "-1"),
    ]
    on_gpus = command(home, Pool(engine="llama-cpp-python", gpu=kind_of("P40")), model, "tiny", 7)
    assert on_gpus[-2:] == ["--n_gpu_layers", "-1"], "or it would compute on the CPU, and say nothing"
    assert environment(home, {"A": "b"}, pool) == {"A": "b"}
    assert (keyed(home, "k"), keyed(GPU_HOME["0.9.2"], "k"), keyed(home, "")) == ({"API_KEY": "k"}, {"VLLM_API_KEY": "k"}, {})
    assert home.describe() == "llama-cpp-python 0.3.36 in /x/python"
