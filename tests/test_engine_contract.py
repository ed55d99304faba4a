"""What a worker needs of an engine, held against each that it speaks to: today's vLLM, an older one's wire formats, llama.cpp.

`BATCHSCHED_CONTRACT_URL=http://... pytest tests/test_engine_contract.py` holds it against an engine of yours that serves `tiny`.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Generator
from typing import Any

import aiohttp
import pytest

from batchsched.errors import EngineFailed, UnknownModel
from batchsched.executors.engine import AttachedEngine, VllmEngine
from batchsched.executors.probes import healthy, page_of
from batchsched.executors.worker import run_worker
from batchsched.fleet import Pool, ServedModel
from batchsched.settings import Worker
from tests.engine_fixture import ROOT
from tests.fake_server import Chunk, FakeServer
from tests.llama_fixture import KEY
from tests.llama_fixture import guarded_llama as guarded_llama
from tests.llama_fixture import llama as llama
from tests.test_executors_driver import served

CHAT = "/v1/chat/completions"
KINDS = [
    pytest.param("older", id="vllm-0.9.2-wire"),
    pytest.param("vllm", id="vllm", marks=[pytest.mark.engine, pytest.mark.slow]),
    *([pytest.param("given", id="given")] if "BATCHSCHED_CONTRACT_URL" in os.environ else []),
    pytest.param("llama", id="llama-cpp-python", marks=[pytest.mark.long, pytest.mark.engine]),
]
each_engine = pytest.mark.parametrize("kind", KINDS, indirect=True)


@pytest.fixture(scope="module")
def older() -> Generator[str]:
    """The older server, as a process of its own."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.older_engine", "--max-model-len", "512"], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{json.loads(process.stdout.readline())['port']}"
        finally:
            process.kill()


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    """Which engine."""
    return str(request.param)


@pytest.fixture
def url(kind: str, request: pytest.FixtureRequest) -> str:
    """Where it runs and serves `tiny`."""
    if kind == "given":
        return os.environ["BATCHSCHED_CONTRACT_URL"]
    found = request.getfixturevalue(kind)
    return found.url if isinstance(found, VllmEngine) else str(found)


async def run(url: str, bodies: list[dict[str, Any]], pool: Pool | None = None) -> dict[str, dict[str, Any]]:
    """Bodies as a chunk's lines, run by a worker at that engine; the output lines by number."""
    server = FakeServer([], pool=pool)
    lines = [
        json.dumps({"custom_id": f"c{number}", "method": "POST", "url": CHAT, "body": {"model": "tiny", **body}}).encode() + b"\n"
        for number, body in enumerate(bodies, 1)
    ]
    server.chunks = [Chunk("chunk_0", 1, lines, "tiny", CHAT)]
    stop = asyncio.Event()
    async with served(server.app()) as server_url:
        task = asyncio.create_task(run_worker(Worker(server_url=server_url, engine_url=url), "local", stop=stop))
        server.worker = task
        try:
            await server.until_done()
        finally:
            stop.set()
            await task
    return server.outputs()


def said(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "temperature": 0}


@each_engine
async def test_it_is_recognised_and_tells_of_itself(kind: str, url: str) -> None:
    async with aiohttp.ClientSession() as session:
        engine = AttachedEngine(url)
        await engine.start(ServedModel(), "tiny")
        name = {"llama": "llama-cpp-python"}.get(kind, "vllm")
        assert engine.dialect.build.engine == name
        assert engine.dialect.build.version[0].isdigit()
        assert await healthy(session, url, path=engine.dialect.health)
        tokens = (await page_of(session, url)).tokens(engine.dialect.token_counters)
        assert (tokens is None) == (kind == "llama")
        if kind == "older":
            assert engine.dialect.metrics["kv_usage"] == "vllm:gpu_cache_usage_perc"


@each_engine
async def test_a_model_that_it_does_not_serve_is_told(kind: str, url: str) -> None:
    with pytest.raises(UnknownModel, match="serves tiny"):
        await AttachedEngine(url).start(ServedModel(), "other")


@pytest.mark.long
@pytest.mark.engine
async def test_llama_cpp_asks_for_our_key_too(guarded_llama: VllmEngine) -> None:
    await AttachedEngine(guarded_llama.url, api_key=KEY).start(ServedModel(), "tiny")
    with pytest.raises(EngineFailed, match="key"):
        await AttachedEngine(guarded_llama.url).start(ServedModel(), "tiny")


@each_engine
async def test_lines_are_answered_and_counted(kind: str, url: str) -> None:
    outputs = await run(url, [said(f"hello number {number}") | {"max_tokens": 4} for number in range(6)])
    assert len(outputs) == 6
    for line in outputs.values():
        body = line["response"]["body"]
        assert line["response"]["status_code"] == 200, line
        assert body["usage"]["prompt_tokens"] > 0
        assert 0 < body["usage"]["completion_tokens"] <= 4


@each_engine
async def test_both_names_of_the_limit_hold(kind: str, url: str) -> None:
    outputs = await run(url, [said("one two three four five six") | {"max_completion_tokens": 3}])
    assert outputs["c1"]["response"]["body"]["usage"]["completion_tokens"] <= 3


@each_engine
async def test_a_priority_harms_nothing(kind: str, url: str) -> None:
    outputs = await run(url, [said("hello") | {"max_tokens": 2, "priority": 7}])
    assert outputs["c1"]["response"]["status_code"] == 200


@each_engine
async def test_a_bad_line_fails_alone_and_says_why_as_openai_does(kind: str, url: str) -> None:
    outputs = await run(url, [said("hello") | {"max_tokens": 2}, said("hello") | {"max_tokens": 100_000}, {"messages": "no"}])
    assert outputs["c1"]["response"]["status_code"] == 200
    refused = outputs["c3"]["response"]
    assert 400 <= refused["status_code"] < 600
    error = refused["body"].get("error") or refused["body"]["detail"]
    assert isinstance(error, list) or error["message"]
    if kind != "llama":  # which takes what fits
        assert outputs["c2"]["response"]["body"]["error"]["code"] == 400


@each_engine
async def test_a_choice_is_kept_or_refused_never_passed_over(kind: str, url: str) -> None:
    asked = {"max_tokens": 12, "structured_outputs": {"choice": ["yes", "no"]}}
    line = (await run(url, [said("hello") | asked]))["c1"]["response"]
    if kind == "llama":
        assert line["body"]["error"]["type"] == "unsupported_by_engine"
        assert line["body"]["error"]["param"] == "structured_outputs"
    else:
        assert line["body"]["choices"][0]["message"]["content"] in {"yes", "no"}


@pytest.mark.parametrize("kind", KINDS[1:], indirect=True)
async def test_a_schema_is_kept(kind: str, url: str) -> None:
    """Not asked of the older server, whose words are no JSON; the real 0.9.2 takes it as it stands."""
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    line = (await run(url, [said("hello") | {"max_tokens": 120, "response_format": form}]))["c1"]["response"]
    answer = line["body"]["choices"][0]
    if answer["finish_reason"] == "stop":
        assert isinstance(json.loads(answer["message"]["content"])["a"], bool)
    else:
        assert answer["message"]["content"].lstrip().startswith("{")


@each_engine
async def test_one_that_is_gone_is_not_well(kind: str, url: str) -> None:
    async with aiohttp.ClientSession() as session:
        path = AttachedEngine(url).dialect.health
        assert not await healthy(session, "http://127.0.0.1:9", path=path)
