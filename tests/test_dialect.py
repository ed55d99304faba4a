"""Requests in the words of each engine: the same is asked, or nothing is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from batchsched.engines import Build, EngineName
from batchsched.executors.answers import Verdict, as_object, judge
from batchsched.executors.dialect import Cannot, Dialect, dialect_of
from batchsched.executors.engine import VllmEngine
from batchsched.executors.engine_home import find_engine
from batchsched.fleet import Pool, ServedModel
from batchsched.settings import Worker
from tests.older_engine import older_home

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}


def asked(engine: EngineName, version: str, body: dict[str, Any], **about: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Dialect(Build(engine, version), **about).asked(json.dumps(body).encode()))
    return found


@pytest.mark.parametrize(
    ("engine", "version", "body", "becomes"),
    [
        ("vllm", "0.32.0", {"priority": 3, "structured_outputs": {"json": SCHEMA}}, None),
        ("vllm", "0.9.2", {"priority": 3, "max_completion_tokens": 4}, {"max_completion_tokens": 4}),
        ("vllm", "0.9.2", {"structured_outputs": {"choice": ["a", "b"], "json": None}}, {"guided_choice": ["a", "b"]}),
        ("vllm", "0.9.2", {"messages": [{"content": 'say "priority"'}]}, None),
        ("vllm", "0.12.0", {"guided_json": SCHEMA}, {"structured_outputs": {"json": SCHEMA}}),
        ("vllm", "0.11.0", {"guided_json": SCHEMA, "structured_outputs": {"json": SCHEMA}}, None),
        ("vllm", "0.12.0", {"guided_regex": None}, {}),
        ("llama-cpp-python", "0.3.2", {"max_completion_tokens": 4, "n": 1}, {"max_tokens": 4}),
        ("llama-cpp-python", "0.3.2", {"max_completion_tokens": None, "max_tokens": 5}, {"max_tokens": 5}),
        (
            "llama-cpp-python",
            "0.3.2",
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
            {"response_format": {"type": "json_object", "schema": SCHEMA}},
        ),
        ("llama-cpp-python", "0.3.2", {"response_format": {"type": "text"}}, None),
        ("llama.cpp", "b6123", {"max_completion_tokens": 4, "priority": 1}, {"max_tokens": 4}),
    ],
)
def test_a_request_asks_the_same_in_the_engines_words(
    engine: EngineName, version: str, body: dict[str, Any], becomes: dict[str, Any] | None
) -> None:
    common = {"model": "m", "seed": 1.50}
    assert asked(engine, version, common | body) == common | (body if becomes is None else becomes)


def test_what_needs_no_change_stays_byte_for_byte() -> None:
    body = b'{"model":  "m", "seed": 1.500, "max_tokens": 3}'
    assert Dialect(Build("vllm", "0.9.2")).asked(body) is body


@pytest.mark.parametrize(
    ("engine", "body", "param"),
    [
        ("llama-cpp-python", {"n": 2}, "n"),
        ("llama.cpp", {"guided_choice": ["a"]}, "guided_choice"),
        ("vllm", {"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag"),
    ],
)
def test_what_cannot_be_asked_is_refused(engine: EngineName, body: dict[str, Any], param: str) -> None:
    with pytest.raises(Cannot) as caught:
        asked(engine, "0.9.2", body)
    error = json.loads(caught.value.body())["error"]
    assert (error["param"], error["code"], error["type"]) == (param, 400, "unsupported_by_engine")
    assert "another engine" in error["message"]


def test_a_priority_goes_where_it_is_scheduled_by() -> None:
    assert asked("vllm", "0.9.2", {"priority": 1}, flags=["--scheduling-policy=priority"]) == {"priority": 1}
    assert asked("vllm", "0.32.0", {"priority": 1}, quirks=["no_priority"]) == {}
    assert Dialect(Build()).takes_priority
    assert not Dialect(Build("llama.cpp")).takes_priority


@pytest.mark.parametrize(
    ("name", "version", "pool", "build"),
    [
        ("vllm", "0.9.2", Pool(engine_version="0.32.0"), Build("vllm", "0.9.2")),
        ("vllm", None, Pool(engine_version="0.9.2"), Build("vllm", "0.9.2")),
        (None, None, Pool(engine="llama.cpp", engine_version="b6123"), Build("llama.cpp", "b6123")),
        ("somebody", None, Pool(), Build("vllm", "")),
        ("llama-cpp-python", "0.3.2", Pool(engine_version="0.9.2"), Build("llama-cpp-python", "0.3.2")),
    ],
)
def test_what_an_engine_says_of_itself_counts_before_what_the_pool_says(
    name: str | None, version: str | None, pool: Pool, build: Build
) -> None:
    assert dialect_of(name, version, pool).build == build


def test_an_error_without_the_object_around_it_gets_it() -> None:
    flat = b'{"object":"error","message":"m","type":"BadRequestError","param":null,"code":400}'
    assert json.loads(as_object(400, flat)) == {"error": {"message": "m", "type": "BadRequestError", "param": None, "code": 400}}
    assert as_object(404, b'{"detail":"Not Found"}') == b'{"detail":"Not Found"}'


@pytest.mark.slow
async def test_a_worker_starts_an_older_engine_with_flags_that_it_knows(tmp_path: Path) -> None:
    engine = VllmEngine(find_engine(str(older_home(tmp_path))), Pool(), Worker(state_dir=str(tmp_path / "state")))
    await engine.start(ServedModel("/nowhere", max_model_len=512), "tiny")
    try:
        assert (engine.dialect.build.version, engine.context) == ("0.9.2", 512)
        assert engine.dialect.metrics["kv_usage"] == "vllm:gpu_cache_usage_perc"
    finally:
        await engine.stop()


def test_a_body_that_llama_cpp_python_cannot_read_is_the_lines_own_fault() -> None:
    said = b"{\"error\":{\"message\":\"1 validation error:\\n  {'type': 'list_type', 'loc': ('body', 'messages')}\"}}"
    assert judge(500, said)[0] is Verdict.REFUSED
    assert judge(500, b'{"error":{"message":"llama_decode returned -3"}}')[0] is Verdict.TROUBLE
