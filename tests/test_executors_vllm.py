"""The worker's parts on the real vLLM with the tiny model."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Generator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from batchsched.executors.answers import Verdict, judge
from batchsched.executors.engine import VllmEngine
from batchsched.executors.orphans import end_orphans, wait_until
from batchsched.executors.probes import page_of
from batchsched.executors.spare.governor import Budget, Governor, Traits
from batchsched.executors.spare.window import Window
from batchsched.executors.worker import run_worker
from batchsched.fleet import Pool, ServedModel, Slo
from batchsched.settings import Worker
from tests import test_examples as examples
from tests.engine_fixture import MAX_LEN, embedding_model, held_by_another, real_engine
from tests.fake_server import FakeServer
from tests.live import PATIENCE_S
from tests.test_executors_driver import served
from tests.test_executors_engine import gone

pytestmark = [pytest.mark.engine, pytest.mark.slow]
CHAT = "/v1/chat/completions"
TOOL_CALL = b"""{"model": "tiny", "messages": [{"role": "user", "content": "a"}], "tool_choice": "auto",
    "tools": [{"type": "function", "function": {"name": "f"}}]}"""


async def drive(server: FakeServer, engine_url: str) -> dict[str, dict[str, Any]]:
    """Everything the server has, run on an engine; the output lines."""
    stop = asyncio.Event()
    async with served(server.app()) as url:
        server.worker = asyncio.create_task(run_worker(Worker(engine_url=engine_url), "local", url, stop=stop))
        try:
            await server.until_done()
        finally:
            stop.set()
            await asyncio.gather(server.worker, return_exceptions=True)
    return server.outputs()


async def test_chat_with_one_line_too_long(vllm: VllmEngine) -> None:
    server = FakeServer(["Say something.", "word " * 3 * MAX_LEN, *(f"Number {number}" for number in range(30))])
    for chunk in server.chunks:
        chunk.data = [line.replace(b'"model"', b'"max_tokens": 8, "ignore_eos": true, "model"') for line in chunk.data]
    outputs = await drive(server, vllm.url)
    refused = outputs.pop("c2")
    assert refused["response"]["status_code"] == 400
    assert refused["response"]["body"]["error"]["type"] == "BadRequestError"
    assert len(outputs) == 31
    for line in outputs.values():
        assert line["response"]["body"]["usage"]["completion_tokens"] == 8
        assert line["response"]["request_id"] == line["response"]["body"]["id"]
    assert server.results[1].output_tokens == 8
    assert server.results[1].input_tokens > 0


async def test_what_the_engine_holds_and_how_it_fares_is_read(vllm: VllmEngine) -> None:
    async with aiohttp.ClientSession() as session:
        capacity = (await page_of(session, vllm.url)).capacity(MAX_LEN)
        async with asyncio.timeout(PATIENCE_S):  # it counts what other tests have let go until its next step
            while (await page_of(session, vllm.url)).load(vllm.dialect.metrics) != (0, 0, 0):
                await asyncio.sleep(0.1)
    assert capacity.tokens == 2**30 // 1024  # 1 GiB; vllm.md counts 1,024 bytes a token of the tiny model
    assert (capacity.block, capacity.context) == (128, MAX_LEN)


async def test_completions(vllm: VllmEngine) -> None:
    server = FakeServer(["The wind", "The sun"], endpoint="/v1/completions")
    outputs = await drive(server, vllm.url)
    assert all(isinstance(line["response"]["body"]["choices"][0]["text"], str) for line in outputs.values())


async def test_an_accepted_model_answers_lines_that_name_another(vllm: VllmEngine) -> None:
    server = FakeServer(["The wind", "The sun"])
    for chunk in server.chunks:
        chunk.rename, chunk.data = True, [line.replace(b'"tiny"', b'"large"') for line in chunk.data]
    assert b'"large"' in server.chunks[0].data[0]
    outputs = await drive(server, vllm.url)
    for line in outputs.values():
        assert (line["response"]["status_code"], line["response"]["body"]["model"]) == (200, "tiny")


async def test_responses(vllm: VllmEngine) -> None:
    server = FakeServer(["The wind", "The sun", "word " * 3 * MAX_LEN], endpoint="/v1/responses")
    for chunk in server.chunks:
        chunk.data = [line.replace(b'"model"', b'"max_output_tokens": 8, "ignore_eos": true, "model"') for line in chunk.data]
    outputs = await drive(server, vllm.url)
    assert outputs.pop("c3")["response"]["status_code"] == 400
    for line in outputs.values():
        body = line["response"]["body"]
        assert body["output"][0]["content"][0]["type"] == "output_text"
        assert body["usage"]["output_tokens"] == 8
    assert server.results[1].output_tokens == 8
    assert server.results[1].input_tokens > 0


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Generator[VllmEngine]:
    """A running vLLM that serves a model of embeddings as `tiny`."""
    engine = VllmEngine(real_engine(), Pool(), Worker(state_dir=str(tmp_path_factory.mktemp("embedder"))))
    asyncio.run(engine.start(embedding_model(), "tiny"))
    yield engine
    asyncio.run(engine.stop())


async def test_embeddings_with_real_weights(embedder: VllmEngine) -> None:
    server = FakeServer(["the wind blows", "a breeze is blowing", "tax law", "word " * 600], endpoint="/v1/embeddings")
    outputs = await drive(server, embedder.url)
    assert outputs["c4"]["response"]["status_code"] == 400
    wind, breeze, law = (outputs[name]["response"]["body"]["data"][0]["embedding"] for name in ("c1", "c2", "c3"))
    assert len(wind) == 384
    assert _dot(wind, breeze) > _dot(wind, law)
    assert server.results[1].output_tokens == 0


async def test_the_example_finds_the_line_that_means_the_same(embedder: VllmEngine, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("the wind blows\nthe tax on income\na breeze is blowing\nwhat one owes the treasury\n")
    async with examples.served(tmp_path, engine=embedder.url) as server:
        said = await examples.said("examples/embed.py", corpus, "tiny", server.url)
    assert said[0] == "the wind blows -> a breeze is blowing"
    assert said[3] == "what one owes the treasury -> the tax on income"


async def test_a_server_of_embeddings_is_shared_by_how_long_its_requests_stay(
    embedder: VllmEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    seen: list[tuple[Window, bool]] = []
    see = Governor.see

    def noted(governor: Governor, window: Window, traits: Traits) -> Budget:
        budget = see(governor, window, traits)
        seen.append((window, governor.model.known))
        return budget

    monkeypatch.setattr(Governor, "see", noted)
    texts = [f"number {number} " + "and so on " * (number % 20) for number in range(5000)]  # more than there is time for
    pool = Pool(kind="spare", slo=Slo(ttft_ms=20_000, tpot_ms=50), ceiling=8)
    server, stop = FakeServer(texts, endpoint="/v1/embeddings", pool=pool, chunk_lines=500), asyncio.Event()

    async def user() -> None:
        while True:
            await ask(embedder.url, "/v1/embeddings", b'{"model": "tiny", "input": "who is there?"}')
            await asyncio.sleep(0.1)

    online = asyncio.create_task(user())
    async with served(server.app()) as url:
        server.worker = asyncio.create_task(run_worker(Worker(engine_url=embedder.url), "local", url, stop=stop))
        try:
            await server.until(lambda: server.results and any(window.only_reads and known for window, known in seen))
        finally:
            stop.set()
            online.cancel()
            await asyncio.gather(online, server.worker, return_exceptions=True)
    assert all(line["error"] is None for line in server.outputs().values())
    assert any(window.step and window.step.seconds > 0 for window, _ in seen)


def _dot(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


async def ask(url: str, path: str, body: bytes) -> tuple[int, bytes]:
    """One answer of the engine."""
    headers = {"content-type": "application/json"}
    async with aiohttp.ClientSession() as session, session.post(url + path, data=body, headers=headers) as answer:
        return answer.status, await answer.read()


@pytest.mark.parametrize(
    ("path", "body", "status", "verdict"),
    [
        (CHAT, b'{"model": "other", "messages": [{"role": "user", "content": "a"}]}', 404, Verdict.WRONG_ENGINE),
        ("/v1/embeddings", b'{"model": "tiny", "input": "a"}', 404, Verdict.REFUSED),
        (CHAT, b'{"model": "tiny"}', 400, Verdict.REFUSED),
        (CHAT, b'{"model": "tiny", "messages": []}', 400, Verdict.REFUSED),
        (CHAT, b'{"model": "tiny", "messages": [{"role": "user", "content": null}]}', 400, Verdict.REFUSED),
        (CHAT, b'{"model": "tiny", "messages": [{"role": "user", "content": "\\ud800"}]}', 400, Verdict.REFUSED),
        (CHAT, b'{"model": "tiny", "messages": [{"role": "user", "content": "a"}], "max_tokens": 0}', 400, Verdict.REFUSED),
        (CHAT, b"not json", 400, Verdict.REFUSED),
        (CHAT, TOOL_CALL, 400, Verdict.REFUSED),
        (CHAT, b'{"model": "tiny", "messages": [{"role": "user", "content": "a"}], "max_tokens": 2}', 200, Verdict.OK),
    ],
)
async def test_what_vllm_answers_is_judged_right(vllm: VllmEngine, path: str, body: bytes, status: int, verdict: Verdict) -> None:
    answered = await ask(vllm.url, path, body)
    assert answered[0] == status, answered
    assert judge(*answered)[0] is verdict


async def test_a_request_that_is_let_go_leaves_the_engine(vllm: VllmEngine) -> None:
    body = b'{"model": "tiny", "prompt": "a", "max_tokens": 500, "ignore_eos": true, "n": 16}'
    metrics = vllm.dialect.metrics
    asking = asyncio.create_task(ask(vllm.url, "/v1/completions", body))
    async with aiohttp.ClientSession() as session, asyncio.timeout(PATIENCE_S):
        while ((await page_of(session, vllm.url)).in_flight(metrics)) != 16:
            assert not asking.done()
        asking.cancel()
        while ((await page_of(session, vllm.url)).in_flight(metrics)) != 0:
            await asyncio.sleep(0.02)
    assert asking.cancelled()


@pytest.mark.long  # each half has a cheaper test: the tether, and what a SIGTERM does to an engine that is held by nothing else
def test_kill_9_of_the_worker_leaves_no_engine(tiny_model: ServedModel, tmp_path: Path) -> None:
    with held_by_another(tiny_model, tmp_path) as (holder, pids):
        assert len(pids) > 1
        holder.kill()
        holder.wait()
        assert wait_until(lambda: all(map(gone, pids)), PATIENCE_S)


def test_kill_9_of_worker_and_api_server_leaves_an_orphan_that_is_found_and_ended(
    tiny_model: ServedModel, tmp_path: Path
) -> None:
    with held_by_another(tiny_model, tmp_path) as (holder, (api_server, *rest)):
        os.kill(holder.pid, signal.SIGSTOP)  # it must not see the API server die and clean up
        os.kill(api_server, signal.SIGKILL)
        holder.kill()
        holder.wait()
        assert end_orphans() >= 1 or all(map(gone, rest))  # a worker of another test that starts just now ends them as well
        assert wait_until(lambda: all(map(gone, rest)), PATIENCE_S)
