"""`run`, `map` and `@batch`: requests in, answers out in their order, by a real server with a worker that is driven by hand."""

from __future__ import annotations

import asyncio
import contextlib
import io
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

import batchsched
from batchsched import Answer, AsyncClient, Batch, Client
from batchsched.client.answers import HELD_BYTES, InOrder, OutputLine, answer
from batchsched.client.loops import Loop
from batchsched.client.requests import BREATH, Asked, Writer, write, write_async
from batchsched.client.results import RequestCounts
from batchsched.errors import IdempotencyMismatch, InvalidInputFile, InvalidRequest, MissingExtra, RequestFailed, ServerError
from batchsched.lines import CHAT, EMBEDDINGS, RESPONSES
from batchsched.testing import FakeServer
from tests.live import HandWorker, LiveServer, live_server

PROMPTS = [f"say {number}" for number in range(6)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[LiveServer]:
    with live_server(tmp_path_factory.mktemp("runs"), server__chunk_lines=3) as live:
        yield live


@pytest.fixture
def client(server: LiveServer) -> Generator[Client]:
    with Client(server.url, "") as made:
        yield made


@pytest.fixture(scope="module")
def worker(server: LiveServer) -> HandWorker:
    """The only one of its pool."""
    return server.worker()


@pytest.fixture
def working(worker: HandWorker) -> Generator[Callable[..., None]]:
    """Answers the next chunks in a thread, each from its last line to its first; requests named `failing` fail."""
    threads: list[threading.Thread] = []

    def begin(chunks: int = 2, failing: tuple[int, ...] = ()) -> None:
        threads.append(threading.Thread(target=_answer_backwards, args=(worker, chunks, failing)))
        threads[-1].start()

    yield begin
    for thread in threads:
        thread.join()


def _answer_backwards(worker: HandWorker, chunks: int, failing: tuple[int, ...]) -> None:
    for _ in range(chunks):
        lease = worker.lease()
        for line in range(lease["first_line"] + lease["lines"] - 1, lease["first_line"] - 1, -1):
            worker.record(lease, [line], ok=line - 1 not in failing)


def _lines(answers: list[Answer]) -> list[int]:
    """The lines of the file that the worker says it answered."""
    return [found.body["line"] for found in answers if found.body]


def test_answers_come_in_the_order_of_the_requests(client: Client, working: Callable[..., None]) -> None:
    run = client.run(PROMPTS, model="tiny", deadline="6h", parameters={"max_tokens": 5})
    working(failing=(1, 4))
    answers = list(run)
    assert [found.index for found in answers] == [0, 1, 2, 3, 4, 5]
    assert _lines(answers) == [1, 2, 3, 4, 5, 6]
    assert [found.ok for found in answers] == [True, False, True, True, False, True]
    assert answers[1].error is not None
    assert answers[1].error.status_code == 400
    with pytest.raises(RequestFailed, match="Request 1 has no answer"):
        answers[1].require()
    assert answers[0].require() is answers[0]
    assert run.batch.status == "completed"  # as it was seen last
    assert _lines(list(run)) == [1, 2, 3, 4, 5, 6]  # they can be read again
    assert [found.index for found in client.attach(run.id)] == [0, 1, 2, 3, 4, 5]
    assert repr(run) == f"Run('{run.id}', 'completed')"


def test_as_they_come(client: Client, working: Callable[..., None]) -> None:
    run = client.run(iter(PROMPTS), model="tiny")
    working()
    seen: list[str] = []
    assert run.wait(on_progress=lambda batch: seen.append(batch.status), poll_s=0.2).status == run.batch.status == seen[-1]
    assert sorted(found.index for found in run.as_completed()) == [0, 1, 2, 3, 4, 5]
    assert run.report().energy_j is not None


def test_the_file_holds_what_was_asked(server: LiveServer, client: Client) -> None:
    whole = {"messages": [{"role": "user", "content": "c"}], "max_tokens": 1}
    requests: list[Asked] = ["a", [{"role": "system", "content": "s"}, {"role": "user", "content": "b"}], whole]
    run = client.run(requests, model="tiny", parameters={"max_tokens": 9, "temperature": 0.5}, metadata={"who": "test"})
    lines = server.content(run.batch.input_file_id)
    assert [line["custom_id"] for line in lines] == ["request-0", "request-1", "request-2"]
    assert {line["url"] for line in lines} == {CHAT}
    assert [len(line["body"]["messages"]) for line in lines] == [1, 2, 1]
    assert [line["body"]["max_tokens"] for line in lines] == [9, 9, 1]
    assert {(line["body"]["model"], line["body"]["temperature"]) for line in lines} == {("tiny", 0.5)}
    assert run.batch.metadata == {"who": "test"}
    server.until(run.id, "in_progress")
    assert run.cancel().status in {"cancelling", "cancelled"}
    run.wait(progress=False, poll_s=0.1)
    assert [found.error.code for found in run if found.error] == ["batch_cancelled"] * 3


@pytest.mark.parametrize(
    ("requests", "endpoint", "said"),
    [
        ("one prompt", CHAT, "put it into a list"),
        ({"messages": []}, CHAT, "put it into a list"),
        ([], CHAT, "nothing to run"),
        (["a", 5], CHAT, "Request 1 is an int"),
        (["a", None], CHAT, "Request 1 is a NoneType"),
        ([["a"]], CHAT, "Request 0 is a list"),
        ([{"role": "user", "content": "a"}], CHAT, "Request 0 is one message"),
        ([{"custom_id": "x", "body": {}}], CHAT, "whole line of a batch file"),
        ([{"prompt": "a"}], CHAT, "has no 'messages'"),
        ([[{"role": "user", "content": "a"}]], EMBEDDINGS, "list of messages"),
        ([{"messages": [], "temperature": float("nan")}], CHAT, "Request 0 cannot be written as JSON: nan"),
        ([{"messages": [], "seed": object()}], CHAT, "Request 0 cannot be written as JSON"),
        (["\ud800"], CHAT, "Request 0 cannot be written as JSON"),
        (["a"], "/v1/nothing", "not an endpoint"),
    ],
)
def test_what_is_no_request_is_refused_before_anything_is_sent(requests: Any, endpoint: str, said: str) -> None:
    with Client("http://127.0.0.1:1", "") as nowhere, pytest.raises(InvalidRequest, match=said):
        nowhere.run(requests, model="tiny", endpoint=endpoint)


def test_requests_without_a_model_are_refused() -> None:
    with Client("http://127.0.0.1:1", "") as nowhere, pytest.raises(InvalidRequest, match="Request 0 names no model"):
        nowhere.run(["a"])


def test_what_the_server_refuses_is_told_by_its_number(client: Client) -> None:
    run = client.run(["a", {"messages": [], "stream": True}], model="tiny")
    with pytest.raises(InvalidInputFile, match="request 1: Streaming is not supported"):
        list(run)


def test_batches_that_were_not_numbered_have_no_order(server: LiveServer, client: Client) -> None:
    line = b'{"custom_id": "mine", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "tiny", "messages": []}}\n'
    batch = client.batches.create(file=io.BytesIO(line))
    server.until(batch.id, "in_progress")
    client.batches.cancel(batch.id)
    with pytest.raises(InvalidRequest, match="'mine' has no number"):
        list(client.attach(batch.id))


def test_the_same_key_gives_the_same_batch(client: Client) -> None:
    first = client.run(["a"], model="tiny", idempotency_key="night-1")
    assert client.run(["a"], model="tiny", idempotency_key="night-1").id == first.id
    with pytest.raises(IdempotencyMismatch):
        client.run(["b"], model="tiny", idempotency_key="night-1")
    first.cancel()


def test_requests_are_streamed(tmp_path: Path) -> None:
    """40 MB of requests take a few MB of memory."""
    prompt = "word " * 2000

    def endless() -> Iterator[Asked]:
        for _ in range(4000):
            yield prompt

    tracemalloc.start()
    with (tmp_path / "out").open("w+b") as out:
        assert write(endless(), Writer(out, "tiny", CHAT, None)) == 4000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "out").stat().st_size > 40e6
    assert peak < 4e6


def _line(number: int, size: int = 10) -> OutputLine:
    body = {"choices": [{"message": {"content": "x" * size}}]}
    return OutputLine(f"id{number}", f"request-{number}", {"status_code": 200, "request_id": "r", "body": body})


def test_what_comes_too_early_waits_on_disk() -> None:
    order, size, count = InOrder(), 1 << 20, HELD_BYTES // (1 << 20) + 8
    tracemalloc.start()
    for number in range(count, 0, -1):
        assert list(order.add(_line(number, size))) == []
    assert tracemalloc.get_traced_memory()[0] < HELD_BYTES + 3 * size
    tracemalloc.stop()
    assert [found.index for found in order.add(_line(0))] == list(range(count + 1))
    assert list(order.add(_line(3))) == []  # a second time: told before
    order.close()


def test_an_answer_that_is_nowhere_is_an_error() -> None:
    with contextlib.closing(InOrder()) as order:
        assert [found.index for found in order.add(_line(0))] == [0]
        ended = Batch("batch_1", CHAT, "file-1", "24h", "completed", 0, request_counts=RequestCounts(2, 2, 0))
        with pytest.raises(ServerError, match="batch_1 is completed, but request 1 has neither"):
            order.end(ended)
        with pytest.raises(RequestFailed, match="cancelled before its requests were looked at"):
            order.end(Batch("batch_1", CHAT, "file-1", "24h", "cancelled", 0))


def test_texts_and_vectors_of_every_endpoint() -> None:
    def found(body: dict[str, Any]) -> Answer:
        return answer(OutputLine("i", "request-7", {"status_code": 200, "request_id": "r", "body": body}))

    assert found({"choices": [{"message": {"content": "hi"}}]}).text == "hi"
    assert found({"choices": [{"message": {"content": None, "tool_calls": []}}]}).text is None
    assert found({"choices": [{"text": "hi"}]}).text == "hi"
    said = {"type": "message", "content": [{"type": "output_text", "text": "h"}, {"type": "output_text", "text": "i"}]}
    assert found({"output": [{"type": "reasoning", "content": None}, said]}).text == "hi"
    assert found({"output": [{"type": "function_call"}]}).text is None
    vector = found({"data": [{"embedding": [0.5]}]})
    assert (vector.text, vector.embedding, vector.index) == (None, [0.5], 7)
    late = answer(OutputLine("i", "request-0", None, {"code": "batch_expired", "message": "late"}))
    assert late.error is not None
    assert (late.error.code, late.error.message, late.error.status_code) == ("batch_expired", "late", None)
    odd = answer(OutputLine("i", "request-0", {"status_code": 500, "request_id": "r", "body": {"error": "broken"}}))
    assert odd.error is not None
    assert (odd.error.code, odd.error.message) == ("500", "broken")


def test_prompts_of_every_endpoint(tmp_path: Path) -> None:
    for endpoint, field in ((RESPONSES, b'"input":"hello"'), (EMBEDDINGS, b'"input":"hello"')):
        out = io.BytesIO()
        write(["hello"], Writer(out, "tiny", endpoint, None))
        assert field in out.getvalue()


def test_as_tables(client: Client, working: Callable[..., None]) -> None:
    run = client.run(PROMPTS[:3], model="tiny")
    working(chunks=1, failing=(1,))
    frame = run.to_pandas()
    assert list(frame["index"]) == [0, 1, 2]
    assert list(frame["status_code"]) == [200, 400, 200]
    assert frame["error_code"].notna().tolist() == [False, True, False]
    assert str(frame["input_tokens"].dtype) == "Int64"
    assert list(client.batches.results(run.id).to_pandas()["custom_id"]) == ["request-2", "request-0", "request-1"]
    table = run.to_polars()
    assert table.columns == list(frame.columns)
    assert table["status_code"].to_list() == [200, 400, 200]
    arrow = run.to_arrow()
    assert arrow.column_names == table.columns
    assert arrow.to_pydict() == table.to_dict(as_series=False)


def test_a_table_whose_library_is_missing_says_so(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    run = client.run(["a"], model="tiny")
    for library, act in (("pandas", run.to_pandas), ("polars", run.to_polars), ("pyarrow", run.to_arrow)):
        monkeypatch.setitem(sys.modules, library, None)
        with pytest.raises(MissingExtra, match=f"{library} is not installed") as missing:
            act()
        assert missing.value.hint == f"pip install {library}"
    run.cancel()


def _summary(number: int) -> Generator[str, Answer, str]:
    found = yield f"say {number}"
    if number == 1:
        raise ValueError("no")
    return f"{number}: {found.body['line'] if found.body else None}"


def test_a_loop_becomes_one_batch(server: LiveServer, client: Client, working: Callable[..., None]) -> None:
    before = len(list(client.batches.list()))
    values = client.map(_summary, range(3), model="tiny", deadline="6h")
    working(chunks=1)
    assert next(values) == "0: 1"
    with pytest.raises(ValueError, match="no"):
        next(values)
    assert list(values) == ["2: 3"]
    assert len(list(client.batches.list())) == before + 1
    assert values.run is not None
    assert server.content(values.run.batch.input_file_id)[2]["body"]["messages"][0]["content"] == "say 2"


def test_a_plain_function_maps_to_answers(client: Client, working: Callable[..., None]) -> None:
    answers = client.map(lambda number: f"say {number}", range(3), model="tiny")
    working(chunks=1)
    assert [(found.index, found.ok) for found in answers] == [(0, True), (1, True), (2, True)]
    assert list(client.map(_summary, [], model="tiny")) == []


def test_functions_that_are_no_round_of_a_loop() -> None:
    def twice(_: int) -> Generator[str, Answer, None]:
        yield "a"
        yield "b"

    def never(item: int) -> Generator[str, Answer, None]:
        if item:
            yield "a"

    with Client("http://127.0.0.1:1", "") as nowhere:
        with pytest.raises(InvalidRequest, match="before it yielded the request of item 0"):
            nowhere.map(never, [0], model="tiny")
        with pytest.raises(InvalidRequest, match="One text alone"):
            nowhere.map(lambda text: text, "abc", model="tiny")
    loop = batchsched.client.loops.Loop[int, None](twice)
    assert list(loop.requests([1])) == ["a"]
    with pytest.raises(InvalidRequest, match="yielded twice for item 0"):
        loop.value(answer(_line(0)))


def test_the_decorator(server: LiveServer, monkeypatch: pytest.MonkeyPatch, working: Callable[..., None]) -> None:
    monkeypatch.setenv("BATCHSCHED_WORKER_SERVER_URL", server.url)

    @batchsched.batch(model="tiny", deadline="6h", parameters={"max_tokens": 3})
    def summarise(number: int) -> Generator[str, Answer, str]:
        """Of a number."""
        found = yield f"say {number}"
        return f"{number} {found.ok}"

    working(chunks=1)
    assert list(summarise.map([7, 8], deadline="5h")) == ["7 True", "8 True"]
    working(chunks=1)
    assert summarise(9) == "9 True"
    assert (summarise.__name__, summarise.__doc__) == ("summarise", "Of a number.")


@pytest.mark.parametrize("given", [lambda number: f"say {number}", "tiny"])
def test_the_decorator_takes_all_by_name(given: Any) -> None:
    with pytest.raises(InvalidRequest, match="parentheses"):
        batchsched.batch(given)


def test_a_call_that_raises_closes_the_client_that_it_made(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[Client] = []

    def close(self: Client) -> None:
        closed.append(self)
        self._transport.close()

    monkeypatch.setattr(Client, "close", close)

    @batchsched.batch(model="any")
    def fussy(number: int) -> Generator[str, Answer, str]:
        yield f"say {number}"
        raise ValueError("not this one")

    with FakeServer() as fake:
        monkeypatch.setenv("BATCHSCHED_WORKER_SERVER_URL", fake.url)
        with pytest.raises(ValueError, match="not this one"):
            fussy(1)
    assert len(closed) == 1


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_the_event_loop_breathes_while_requests_are_written(asynchronous: bool) -> None:
    """Neither kind of iterable need ever wait for anything."""
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def numbers() -> AsyncIterator[int]:
        for number in range(4 * BREATH):
            yield number

    task = asyncio.create_task(others())
    items = numbers() if asynchronous else range(4 * BREATH)
    requests = Loop[int, Answer](str).requests_async(items)
    assert await write_async(requests, Writer(io.BytesIO(), "any", CHAT, None)) == 4 * BREATH
    task.cancel()
    assert turns == 4


async def test_the_asynchronous_twin(server: LiveServer, working: Callable[..., None]) -> None:
    async def prompts() -> AsyncIterator[Asked]:
        for prompt in PROMPTS:
            yield prompt

    async with AsyncClient(server.url, "") as client:
        run = await client.run(prompts(), model="tiny", deadline="6h")
        working(failing=(5,))
        assert [found.index async for found in run] == [0, 1, 2, 3, 4, 5]
        assert (await run.wait(poll_s=0.1)).status == "completed"
        assert sorted([found.index async for found in run.as_completed()]) == [0, 1, 2, 3, 4, 5]
        assert list((await run.to_pandas())["status_code"]) == [200] * 5 + [400]
        assert (await run.to_polars()).height == 6
        assert (await run.to_arrow()).num_rows == 6
        assert (await run.report()).energy_j is not None
        again = await client.attach(run.id)
        assert repr(again) == f"AsyncRun('{run.id}', 'completed')"
        values = await client.map(_summary, [0, 2], model="tiny")
        working(chunks=1)
        assert [value async for value in values] == ["0: 1", "2: 2"]
        assert [value async for value in await client.map(_summary, [], model="tiny")] == []
        with pytest.raises(InvalidRequest, match="nothing to run"):
            await client.run([], model="tiny")


async def test_the_blocking_client_works_where_an_event_loop_runs(server: LiveServer, working: Callable[..., None]) -> None:
    """As in a notebook."""
    with Client(server.url, "") as client:
        run = client.run(PROMPTS[:3], model="tiny")
        working(chunks=1)
        assert run.wait(poll_s=0.1).done
        assert len(list(run)) == 3


@pytest.mark.slow
def test_tables_are_imported_only_when_asked_for() -> None:
    code = "import sys, batchsched; batchsched.Client; batchsched.batch; print('pandas' in sys.modules, 'polars' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
