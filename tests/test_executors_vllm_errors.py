"""What the real vLLM does wrong or differently, case by case, and what a worker makes of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from batchsched.adapters import outfitted, resolved
from batchsched.errors import EngineFailed
from batchsched.executors.answers import Verdict, judge
from batchsched.executors.engine import AttachedEngine, VllmEngine, bearer
from batchsched.executors.worker import run_worker
from batchsched.fleet import Pool, ServedModel
from batchsched.settings import Worker
from tests.engine_fixture import MAX_LEN, ROOT, real_engine
from tests.fake_server import FakeServer, as_line
from tests.test_executors_driver import served

pytestmark = [pytest.mark.engine, pytest.mark.slow]
KEY = "a key of this engine"
QUEUE = 4
CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
HELLO = [{"role": "user", "content": "hello"}]
PIXEL = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
YES_OR_NO = {"type": "object", "properties": {"x": {"type": "boolean"}}, "required": ["x"], "additionalProperties": False}
CHOICE = {"type": "string", "enum": ["yes", "no"]}
TOOL = {"type": "function", "function": {"name": "f", "strict": True, "parameters": YES_OR_NO}}
START_S = 400.0


@pytest.fixture(scope="module")
def odd(tiny_model: ServedModel, tmp_path_factory: pytest.TempPathFactory) -> Generator[VllmEngine]:
    """A vLLM with a key, an adapter, tools and a short queue, that does not drain."""
    folder = tmp_path_factory.mktemp("odd")
    subprocess.run([real_engine().python, ROOT / "tests" / "tiny_adapter.py", folder / "adapter"], check=True)
    flags = ["--enable-auto-tool-choice", "--tool-call-parser", "hermes", "--max-num-queued-reqs", str(QUEUE)]
    flags += ["--shutdown-timeout", "0"]
    models = resolved({"tiny": tiny_model, "polite": ServedModel(adapter_of="tiny", adapter=str(folder / "adapter"))})
    settings = Worker(state_dir=str(folder), startup_timeout_s=START_S, engine_api_key=KEY)
    engine = VllmEngine(real_engine(), Pool(engine_args=flags), settings)
    asyncio.run(engine.start(outfitted(models, "tiny"), "tiny"))
    yield engine
    asyncio.run(engine.stop())


async def ask(url: str, path: str, body: Any, key: str = KEY) -> tuple[int, bytes]:
    """One answer of the engine; `body` goes as JSON, unless it is bytes."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"content-type": "application/json", **bearer(key)}
    async with aiohttp.ClientSession(headers=headers) as session, session.post(url + path, data=data) as answer:
        return answer.status, await answer.read()


@asynccontextmanager
async def working(server: FakeServer, **settings: Any) -> AsyncGenerator[None]:
    """A worker on its server."""
    stop = asyncio.Event()
    async with served(server.app()) as url:
        server.worker = asyncio.create_task(run_worker(Worker(engine_api_key=KEY, **settings), "local", url, stop=stop))
        try:
            yield
        finally:
            stop.set()
            await asyncio.gather(server.worker, return_exceptions=True)


async def drive(server: FakeServer, **settings: Any) -> dict[str, dict[str, Any]]:
    """Everything the server has, run; the output lines."""
    async with working(server, **settings):
        await server.until_done()
    return server.outputs()


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": HELLO, **fields}


@pytest.mark.parametrize(
    ("path", "body", "status", "verdict"),
    [
        (CHAT, chat(max_tokens=MAX_LEN + 1), 400, Verdict.REFUSED),
        (CHAT, chat(messages=[{"role": "user", "content": "word " * MAX_LEN}]), 400, Verdict.REFUSED),
        (CHAT, chat(max_tokens=MAX_LEN - 5, ignore_eos=True), 200, Verdict.OK),
        (CHAT, chat(ignore_eos=True), 200, Verdict.OK),
        (CHAT, chat(model="other"), 404, Verdict.WRONG_ENGINE),
        (CHAT, {"messages": HELLO, "max_tokens": 2}, 200, Verdict.OK),
        (CHAT, chat(max_tokens=2, nonsense=1, messages=[{"role": "stranger", "content": "a"}]), 200, Verdict.OK),
        (CHAT, {"model": "tiny"}, 400, Verdict.REFUSED),
        (CHAT, chat(messages=[{"role": "user", "content": None}]), 400, Verdict.REFUSED),
        (CHAT, b"not json", 400, Verdict.REFUSED),
        (CHAT, chat(messages=[]), 400, Verdict.REFUSED),
        (CHAT, chat(max_tokens=0), 400, Verdict.REFUSED),
        (CHAT, chat(max_tokens=-1), 400, Verdict.REFUSED),
        (CHAT, chat(n=0), 400, Verdict.REFUSED),
        (CHAT, chat(temperature=-1), 400, Verdict.REFUSED),
        (CHAT, b'{"model":"tiny","messages":[{"role":"user","content":"a"}],"temperature":NaN}', 400, Verdict.REFUSED),
        (CHAT, chat(logprobs=True, top_logprobs=50), 400, Verdict.REFUSED),
        (CHAT, chat(response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "odd"}}}), 400,
         Verdict.REFUSED),
        (CHAT, b'{"model":"tiny","messages":[{"role":"user","content":"\\ud800"}]}', 400, Verdict.REFUSED),
        ("/v1/nowhere", chat(), 404, Verdict.REFUSED),
        ("/v1/embeddings", {"model": "tiny", "input": "a"}, 404, Verdict.REFUSED),
        (COMPLETIONS, {"model": "tiny", "prompt": "a", "n": 2 * QUEUE}, 503, Verdict.OVERLOADED),
    ],
)  # fmt: skip
async def test_an_answer_is_judged_right(odd: VllmEngine, path: str, body: Any, status: int, verdict: Verdict) -> None:
    answered = await ask(odd.url, path, body)
    assert answered[0] == status, answered
    assert judge(*answered)[0] is verdict


async def test_a_key_that_is_missing_is_trouble_of_the_engine_and_of_no_line(odd: VllmEngine) -> None:
    answered = await ask(odd.url, CHAT, chat(max_tokens=2), key="")
    assert (answered[0], judge(*answered)[0]) == (401, Verdict.WRONG_ENGINE)
    with pytest.raises(EngineFailed, match="key"):
        await AttachedEngine(odd.url).start(ServedModel(), "tiny")


async def test_answers_that_the_context_cuts_are_told_from_others(odd: VllmEngine) -> None:
    server = FakeServer([])
    server.add([
        as_line("fits", "hello", max_tokens=20, ignore_eos=True),
        as_line("cut", "hello", max_tokens=MAX_LEN - 5, ignore_eos=True),
        as_line("no limit", "hello", ignore_eos=True),
        as_line("too long", "word " * MAX_LEN, max_tokens=20),
    ])  # fmt: skip
    outputs = await drive(server, engine_url=odd.url)
    engine = {"name": "vllm", "version": real_engine().version, "dtype": None, "quantization": None}
    assert all(line["batchsched"]["engine"] == engine for line in outputs.values())
    cuts = {name: line["batchsched"].get("cut") for name, line in outputs.items()}
    read = outputs["fits"]["response"]["body"]["usage"]["prompt_tokens"]
    assert cuts == {
        "fits": None,
        "cut": {"context": MAX_LEN, "asked": MAX_LEN - 5, "prompt": read, "written": MAX_LEN - read},
        "no limit": {"context": MAX_LEN, "asked": None, "prompt": read, "written": MAX_LEN - read},
        "too long": None,
    }
    assert outputs["too long"]["response"]["status_code"] == 400
    assert (odd.identity.dtype, odd.identity.quantization) == ("bfloat16", "none")  # an engine of ours tells more


async def test_what_requests_ask_for_is_passed_through_whole(odd: VllmEngine) -> None:
    """More lines than the engine's queue takes: those that are turned away come again."""
    schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": CHOICE}}
    greedy: dict[str, Any] = {"temperature": 0}
    picture = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": PIXEL}}]
    wanted: dict[str, dict[str, Any]] = {
        "schema": {"response_format": schema, "max_tokens": 200},
        "tool": {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}, "max_tokens": 200},
        "logprobs": {"logprobs": True, "top_logprobs": 2, "max_tokens": 2},
        "picture": {"messages": [{"role": "user", "content": picture}], "max_tokens": 2},
        "two": {"n": 2, "max_tokens": 3, "ignore_eos": True, "temperature": 0.5},
        **{f"plain {number}": {"max_tokens": 30, "ignore_eos": True} for number in range(12)},
    }
    server = FakeServer([])
    server.add([as_line(name, "hello", **(greedy | fields)) for name, fields in wanted.items()])
    outputs = await drive(server, engine_url=odd.url)
    choices = {name: (line["response"]["body"].get("choices") or [{}])[0] for name, line in outputs.items()}
    assert json.loads(choices["schema"]["message"]["content"]) in {"yes", "no"}
    (call,) = choices["tool"]["message"]["tool_calls"]
    assert (call["function"]["name"], set(json.loads(call["function"]["arguments"]))) == ("f", {"x"})
    assert len(choices["logprobs"]["logprobs"]["content"][0]["top_logprobs"]) == 2
    assert len(outputs["two"]["response"]["body"]["choices"]) == 2
    assert outputs["picture"]["response"]["status_code"] == 400
    assert "not a multimodal model" in outputs["picture"]["response"]["body"]["error"]["message"]
    assert [name for name, line in outputs.items() if line["response"]["status_code"] != 200] == ["picture"]
    assert not server.heard("fail")


async def test_an_adapter_answers_under_its_own_name(odd: VllmEngine) -> None:
    answers = {}
    for model in ("tiny", "polite"):
        server = FakeServer([], model=model)
        server.add([as_line("a", "hello", model, COMPLETIONS, max_tokens=16, temperature=0, ignore_eos=True)], COMPLETIONS)
        (line,) = (await drive(server, engine_url=odd.url)).values()
        assert line["response"]["body"]["model"] == model
        answers[model] = line["response"]["body"]["choices"][0]["text"]
    assert answers["tiny"] != answers["polite"]
    for name in ("polite", "tiny"):
        assert odd.takes_up(name)
        assert (odd.served, odd.context) == (name, MAX_LEN)
    assert not odd.takes_up("rude")
    refused = await ask(odd.url, COMPLETIONS, {"model": "rude", "prompt": "hello"})
    assert (refused[0], judge(*refused).verdict) == (404, Verdict.WRONG_ENGINE)  # the base never answers in its place


async def test_responses_and_completions_with_their_own_fields(odd: VllmEngine) -> None:
    server = FakeServer([])
    format_ = {"format": {"type": "json_schema", "name": "a", "schema": CHOICE}}
    server.add([as_line("r", "hello", endpoint=RESPONSES, text=format_, max_output_tokens=200, temperature=0)], RESPONSES)
    server.add([as_line("c", "hello", endpoint=COMPLETIONS, echo=True, logprobs=2, max_tokens=3, ignore_eos=True)], COMPLETIONS)
    outputs = await drive(server, engine_url=odd.url)
    assert json.loads(outputs["r"]["response"]["body"]["output"][0]["content"][0]["text"]) in {"yes", "no"}
    (choice,) = outputs["c"]["response"]["body"]["choices"]
    assert choice["text"].startswith("hello")
    assert len(choice["logprobs"]["tokens"]) > 3


async def test_requests_that_hang_after_a_sigterm_are_let_go_and_their_chunk_goes_back(odd: VllmEngine) -> None:
    """Without a drain vLLM closes its door, ends its engine and leaves those inside without a word. The last test: it is gone."""
    server = FakeServer([])
    lines = 300  # more than can be answered until the engine is down
    server.add([as_line(f"n{number}", "hello", max_tokens=MAX_LEN - 40, ignore_eos=True) for number in range(lines)])
    async with working(server, engine_url=odd.url):
        async with aiohttp.ClientSession() as session, asyncio.timeout(START_S):
            while not await in_flight(session, odd.url):
                await asyncio.sleep(0.02)
        os.kill(odd.pids()[0], signal.SIGTERM)
        await server.until(lambda: server.heard("fail"), START_S)
        await _until_nobody_listens(odd.url)
    assert len(server.results) < lines
    assert not set(server.heard("fail")[0].suspects) & set(server.results)


async def _until_nobody_listens(url: str) -> None:
    async with asyncio.timeout(START_S):
        while True:
            try:
                await ask(url, CHAT, chat(max_tokens=2))
            except aiohttp.ClientConnectorError:
                return
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.02)  # it is still going down


async def in_flight(session: aiohttp.ClientSession, url: str) -> float:
    """Requests that run in the engine."""
    async with session.get(f"{url}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:num_requests_running"))


async def test_a_request_that_really_ends_engines_is_set_aside_and_its_neighbours_finish(
    tiny_model: ServedModel, tmp_path: Path
) -> None:
    """A seed with a temperature, and a prompt that is read in two pieces: fatal to vLLM on a CPU. Two engines are enough."""
    pool = Pool(engine_args=["--max-num-batched-tokens", "256"])
    server = FakeServer([], pool=pool, lease_s=60.0, heartbeat_s=5.0)
    server.models["tiny"] = tiny_model
    poison = as_line("poison", "wind " * 300, max_tokens=4, seed=7, temperature=0.8)
    server.add([as_line("a", "hello", max_tokens=4), as_line("b", "hello", max_tokens=4), poison])
    server.input_open.clear()
    settings = {"engine_python": real_engine().python, "state_dir": str(tmp_path), "startup_timeout_s": START_S}
    async with working(server, **settings):
        await server.until(lambda: server.chunks[0].state == "leased", START_S)
        url = _url_of_child()
        long = {"model": "tiny", "prompt": "a", "max_tokens": 500, "ignore_eos": True, "n": 32}
        plain = asyncio.create_task(_until_cut(url, long))
        stream = asyncio.create_task(_until_cut(url, {**long, "stream": True}))
        async with aiohttp.ClientSession() as session:
            while (await in_flight(session, url)) < 2:
                await asyncio.sleep(0.02)
        server.input_open.set()
        status, body = await plain
        assert (status, judge(status, body)[0]) == (500, Verdict.OVERLOADED)
        status, body = await stream
        assert status == 200
        assert b'"error"' in body
        assert b'"finish_reason":"length"' not in body
        assert judge(status, body)[0] is Verdict.TROUBLE  # should ever a stream be asked for
        await server.until_done(START_S)
    outputs = server.outputs()
    assert outputs["poison"]["error"]["code"] == "engine_crash"
    assert "2 times" in outputs["poison"]["error"]["message"]
    assert all(outputs[name]["response"]["status_code"] == 200 for name in "ab")
    assert len(server.heard("fail")) == server.chunks[0].attempt == 1


async def _until_cut(url: str, body: dict[str, Any]) -> tuple[int, bytes]:
    """Ask again and again, so that something is in flight when the engine dies; the first answer that is not whole."""
    while True:
        status, answer = await ask(url, COMPLETIONS, body)
        if status != 200 or b'"error"' in answer:
            return status, answer


def _url_of_child() -> str:
    """Of the engine that the worker in this process has started."""
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # another test's, on its way out
            if "--port" in (line := child.cmdline()):
                return f"http://127.0.0.1:{line[line.index('--port') + 1]}"
    raise AssertionError("no engine runs")
