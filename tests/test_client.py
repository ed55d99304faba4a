"""The SDK: both clients against a real server on a real socket, with a worker driven by hand."""

from __future__ import annotations

import inspect
import json
import re
import socket
import threading
from collections.abc import AsyncGenerator, Generator, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

import batchsched
from batchsched import AsyncClient, Client
from batchsched.cli import exits
from batchsched.cli.main import main
from batchsched.client import (
    OutputLine,
    async_runs,
    asynchronous,
    blocking,
    forecasting,
    frames,
    operating,
    recurring,
    runs,
    windowing,
)
from batchsched.client.calls import Lines, Pauses
from batchsched.errors import (
    BatchschedError,
    InvalidConfiguration,
    InvalidRequest,
    InvalidValue,
    NotFound,
    ServerError,
    ServerUnreachable,
    Unauthorized,
)
from batchsched.transport import AsyncTransport, Transport
from tests.live import LiveServer, live_server, requests


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[LiveServer]:
    with live_server(tmp_path_factory.mktemp("client")) as live:
        yield live


@pytest.fixture
def client(server: LiveServer) -> Generator[Client]:
    with Client(server.url, "") as made:
        yield made


@pytest.fixture
async def asynchron(server: LiveServer) -> AsyncGenerator[AsyncClient]:
    async with AsyncClient(server.url, "") as made:
        yield made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_bytes(requests(5))
    return path


def work(server: LiveServer, failing: int = 0) -> None:
    """Answer one chunk by hand; its first `failing` lines fail."""
    worker = server.worker()
    lease = worker.lease()
    lines = list(range(lease["first_line"], lease["first_line"] + lease["lines"]))
    if failing:
        worker.record(lease, lines[:failing], ok=False)
    worker.finish(lease)


def test_a_batch_from_disk_to_results(server: LiveServer, client: Client, file: Path, tmp_path: Path) -> None:
    deadline_at = datetime.now(UTC) + timedelta(hours=6)
    batch = client.batches.create(file=file, deadline=deadline_at, metadata={"who": "test"}, confidence=0.9)
    assert batch.deadline_at == deadline_at
    assert (batch.metadata, batch.batchsched.confidence) == ({"who": "test"}, 0.9)
    worker = threading.Thread(target=work, args=(server, 1))
    worker.start()
    seen: list[str] = []
    done = client.batches.wait(batch.id, on_progress=lambda b: seen.append(b.status), poll_s=0.2)
    worker.join()
    assert done.done
    assert (done.status, seen[-1]) == ("completed", "completed")
    assert (done.request_counts.total, done.request_counts.completed, done.request_counts.failed) == (5, 4, 1)
    assert done.verdict is not None
    assert done.progress.requests_done == 5
    lines = list(client.batches.results(batch.id))
    assert len(lines) == 5
    assert [line.ok for line in lines] == [True] * 4 + [False]
    assert all(line.body for line in lines)
    assert done.output_file_id is not None
    path = client.files.download(done.output_file_id, tmp_path / "out.jsonl")
    assert path.read_bytes() == client.files.content(done.output_file_id)
    assert not list(tmp_path.glob("*.part"))
    report = client.batches.report(batch.id)
    assert report.energy_j is not None
    assert report.everything["batch_id"] == batch.id
    assert client.batches.explain(batch.id).sentences
    assert client.batches.plot(batch.id).startswith(b"\x89PNG")
    assert b"<svg" in client.batches.plot(batch.id, "svg")
    assert client.report().energy_j is not None
    assert client.plan().pools


async def test_the_asynchronous_twin(server: LiveServer, asynchron: AsyncClient, file: Path, tmp_path: Path) -> None:
    batch = await asynchron.batches.create(file=file, deadline="6h")
    worker = threading.Thread(target=work, args=(server,))
    worker.start()
    done = await asynchron.batches.wait(batch.id, poll_s=0.2)
    worker.join()
    assert (done.status, done.request_counts.completed) == ("completed", 5)
    assert len([line async for line in asynchron.batches.results(batch.id)]) == 5
    assert done.output_file_id is not None
    await asynchron.files.download(done.output_file_id, tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_bytes() == await asynchron.files.content(done.output_file_id)
    assert batch.id in [found.id async for found in asynchron.batches.list()]
    assert (await asynchron.models.list())[0].id == "tiny"
    with pytest.raises(NotFound):
        await asynchron.batches.retrieve("batch_unknown")


def test_the_twins_offer_the_same() -> None:
    for one, other in (
        (blocking.Client, asynchronous.AsyncClient),
        (blocking.Files, asynchronous.AsyncFiles),
        (blocking.Batches, asynchronous.AsyncBatches),
        (blocking.Models, asynchronous.AsyncModels),
        (forecasting.Forecasts, forecasting.AsyncForecasts),
        (operating.Plans, operating.AsyncPlans),
        (operating.Pools, operating.AsyncPools),
        (windowing.Windows, windowing.AsyncWindows),
        (recurring.Schedules, recurring.AsyncSchedules),
        (runs.Run, async_runs.AsyncRun),
        (frames.Results, frames.AsyncResults),
    ):
        names = {name for name in dir(one) if not name.startswith("_")}
        assert names == {name for name in dir(other) if not name.startswith("_")}
        for name in (name for name in names if callable(getattr(one, name))):
            assert list(inspect.signature(getattr(one, name)).parameters) == list(
                inspect.signature(getattr(other, name)).parameters
            )


def test_lists_page_through_everything(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "one.jsonl"
    path.write_bytes(requests(1))
    made = [client.files.create(path).id for _ in range(103)]  # a page holds 100
    listed = [found.id for found in client.files.list(purpose="batch")]
    assert listed[:103] == made[::-1]
    assert len(listed) == len(set(listed))
    client.files.delete(made[0])
    with pytest.raises(NotFound):
        client.files.retrieve(made[0])


def test_cancel_keeps_what_is_done(client: Client, file: Path) -> None:
    batch = client.batches.create(file=file, deadline="6h")
    client.batches.cancel(batch.id)
    assert client.batches.wait(batch.id, poll_s=0.1).status == "cancelled"


@pytest.mark.parametrize("batch_id", ["", "..", "batch_a/../batch_b", "batch_a?limit=1"])
def test_what_is_no_id_reaches_no_other_path(client: Client, batch_id: str) -> None:
    for act in (client.batches.retrieve, client.batches.cancel, client.batches.report, client.files.delete):
        with pytest.raises(InvalidRequest, match="is not an id"):
            act(batch_id)


def test_errors_are_ours(client: Client, file: Path) -> None:
    with pytest.raises(NotFound):
        client.batches.retrieve("batch_unknown")
    with pytest.raises(InvalidValue) as bad:
        client.batches.create(file=file, endpoint="/v1/nothing")
    assert bad.value.param == "endpoint"
    with pytest.raises(InvalidRequest, match="either"):
        client.batches.create()


def test_a_wrong_key_is_refused(tmp_path: Path) -> None:
    with live_server(tmp_path, '\n[server]\napi_key = "right"\n') as live:
        with Client(live.url, "wrong") as client, pytest.raises(Unauthorized):
            list(client.batches.list())
        with Client(live.url, "right") as client:
            assert list(client.batches.list()) == []


def test_what_is_no_batchsched_server_is_told(tmp_path: Path) -> None:
    def answer(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello")
        connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer, args=(listener,))
        thread.start()
        with (
            Client(f"http://127.0.0.1:{listener.getsockname()[1]}", "") as client,
            pytest.raises(ServerError, match="cannot be read"),
        ):
            client.batches.retrieve("batch_1")
        thread.join()


def test_server_and_key_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BATCHSCHED_WORKER_SERVER_URL", "http://somewhere:1")
    with Client() as client:
        assert repr(client) == "Client('http://somewhere:1')"
    monkeypatch.setenv("BATCHSCHED_CONFIG", str(tmp_path / "absent.toml"))
    with pytest.raises(InvalidConfiguration):
        Client()


def test_lines_are_cut_at_newlines_only_wherever_blocks_end() -> None:
    content = '{"a": "x\u2028y"}\n\n{"b": 1}\n{"c": 2}'.encode()
    for size in range(1, len(content) + 1):
        lines, found = Lines(), list[bytes]()
        for at in range(0, len(content), size):
            found += lines.feed(content[at : at + size])
        assert [json.loads(line) for line in found + lines.end()] == [{"a": "x\u2028y"}, {"b": 1}, {"c": 2}]


def test_the_text_of_a_result_line() -> None:
    def line(body: dict[str, Any], status: int = 200) -> OutputLine:
        return OutputLine("batch_req_1", "a", {"status_code": status, "request_id": "r", "body": body})

    assert line({"choices": [{"message": {"role": "assistant", "content": "hi"}}]}).text == "hi"
    assert line({"choices": [{"text": "hi"}]}).text == "hi"
    assert line({"data": [{"embedding": [0.5]}]}).text is None
    assert line({"error": {"message": "too long"}}, 400).text is None
    assert not OutputLine("batch_req_1", "a", None, {"code": "batch_expired", "message": "late"}).ok


def test_a_silent_server_is_borne_for_a_while_only() -> None:
    pauses = Pauses(5.0, patience_s=10.0)
    problem = ServerUnreachable()
    assert sum(pauses.after_silence(problem) for _ in range(5)) == 10.0
    with pytest.raises(ServerUnreachable):
        pauses.after_silence(problem)
    assert pauses.after_answer() == 0.25
    assert pauses.after_silence(problem) > 0


def test_the_public_face_is_all_there() -> None:
    for name in batchsched.__all__:
        assert getattr(batchsched, name) is not None
    with pytest.raises(AttributeError):
        _ = batchsched.nothing


def test_the_commands_about_a_batch(
    server: LiveServer, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCHSCHED_WORKER_SERVER_URL", server.url)

    def call(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as stop:
            main(list(arguments))
        assert isinstance(stop.value.code, int)
        return stop.value.code, capsys.readouterr().out

    code, out = call("submit", str(file), "--deadline", "6h", "--json")
    assert code == exits.OK
    batch_id = json.loads(out)["id"]
    work(server, failing=2)
    code, out = call("wait", batch_id, "--json")
    assert code == exits.FAILED_LINES
    assert json.loads(out)["request_counts"]["failed"] == 2
    code, out = call("results", batch_id)
    assert [json.loads(line)["id"] for line in out.splitlines()]
    code, out = call("results", batch_id, "--out", str(tmp_path / "got"), "--json")
    assert [Path(path).name for path in json.loads(out)["files"]] == ["output.jsonl", "errors.jsonl"]
    for command in (["show", batch_id], ["explain", batch_id], ["report", batch_id], ["report"], ["plan", "show"]):
        assert call(*command)[0] == exits.OK
        code, out = call(*command, "--json")
        assert isinstance(json.loads(out), dict)
    assert batch_id in [json.loads(line)["id"] for line in call("list", "--json")[1].splitlines()]
    assert call("list")[1].startswith("id\tstatus\t")
    assert call("report", batch_id, "--plot", str(tmp_path / "plot.svg"))[0] == exits.OK
    assert b"<svg" in (tmp_path / "plot.svg").read_bytes()
    assert call("show", "batch_unknown")[0] == exits.NOT_FOUND
    assert call("cancel", batch_id)[0] == exits.FAILURE  # it is completed
    assert call("update", batch_id)[0] == exits.USAGE
    code, out = call("retry", batch_id, "--deadline", "3h", "--json")
    assert (code, json.loads(out)["batchsched"]["round"]) == (exits.OK, 1)
    assert "paused since" in call("pause", batch_id)[1]
    assert "in_progress (paused)" in call("list")[1]
    assert "paused" not in call("resume", batch_id)[1]
    assert re.search(r"^told to start +now, at", call("start", batch_id)[1], re.MULTILINE)
    assert "in_progress (told to start now)" in call("list")[1]
    code, out = call("update", batch_id, "--deadline", "4h", "--priority", "-5", "--json")
    assert (code, json.loads(out)["batchsched"]["priority"]) == (exits.OK, -5)
    work(server)
    assert call("wait", batch_id)[0] == exits.OK


def test_a_batch_whose_requests_nobody_counted_is_not_said_to_be_done(
    server: LiveServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (path := tmp_path / "bad.jsonl").write_bytes(requests(1) + b"no JSON\n")
    with pytest.raises(SystemExit) as stop:
        main(["submit", str(path), "--server", server.url, "--deadline", "6h", "--wait"])
    said = capsys.readouterr()
    assert stop.value.code == exits.FAILURE
    assert "line 2:" in said.out
    assert "0 of 0" not in said.out + said.err


def answering(*answers: httpx.Response | httpx.TransportError) -> tuple[Transport, list[httpx.Request]]:
    """A transport whose network gives these answers in turn, and the requests that reached it."""
    seen, left = list[httpx.Request](), iter(answers)

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        answer = next(left)
        if isinstance(answer, httpx.TransportError):
            raise answer
        return answer

    return Transport("http://server", backend=httpx.MockTransport(handle)), seen


LOST = [httpx.ReadError("cut"), httpx.ReadTimeout("slow"), httpx.Response(500), httpx.Response(502), httpx.Response(408)]
NOT_TAKEN = [httpx.ConnectError("none"), httpx.ConnectTimeout("none"), *(httpx.Response(code) for code in (429, 503, 507))]


@pytest.mark.parametrize("trouble", LOST, ids=str)
def test_a_post_whose_answer_is_lost_is_not_sent_again(
    trouble: httpx.Response | httpx.TransportError, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchsched.transport.time.sleep", lambda _: None)
    transport, seen = answering(trouble, httpx.Response(200))
    with transport, pytest.raises(BatchschedError):
        transport.request("POST", "/v1/batches", json={})
    assert len(seen) == 1
    transport, seen = answering(trouble, httpx.Response(200))
    with transport:
        assert transport.request("GET", "/v1/batches").status_code == 200
    assert len(seen) == 2


@pytest.mark.parametrize("trouble", NOT_TAKEN, ids=str)
def test_a_post_that_was_not_taken_is_sent_again(
    trouble: httpx.Response | httpx.TransportError, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchsched.transport.time.sleep", lambda _: None)
    transport, seen = answering(trouble, httpx.Response(200))
    with transport:
        transport.request("POST", "/v1/batches", json={})
    assert len(seen) == 2


async def test_the_asynchronous_transport_keeps_the_same_rule() -> None:
    seen: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request.method)
        raise httpx.ReadError("cut")

    async with AsyncTransport("http://server", max_retries=1, backend=httpx.MockTransport(handle)) as transport:
        for method in ("POST", "GET"):
            with pytest.raises(ServerUnreachable):
                await transport.request(method, "/v1/batches")
    assert seen == ["POST", "GET", "GET"]


@pytest.mark.parametrize(
    ("headers", "least_s", "most_s"),
    [
        ({"retry-after": "3"}, 3, 3),
        ({"retry-after": "0.5"}, 0.5, 0.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25, 0.25),
        ({"retry-after": "86400"}, 120, 120),
        ({"retry-after": format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)}, 120, 120),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0, 0),
        ({"retry-after": "nan"}, 0.375, 0.5),
        ({"retry-after": "soon"}, 0.375, 0.5),
        ({}, 0.375, 0.5),
    ],
)
def test_a_pause_is_as_long_as_the_server_says(
    headers: dict[str, str], least_s: float, most_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("batchsched.transport.time.sleep", pauses.append)
    transport, _ = answering(httpx.Response(429, headers=headers), httpx.Response(200))
    with transport:
        transport.request("GET", "/v1/batches")
    assert least_s <= pauses[0] <= most_s


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, Unauthorized), (404, NotFound), (502, ServerUnreachable), (504, ServerUnreachable), (418, ServerError)],
)
def test_errors_of_what_stands_before_the_server_have_their_kind(status: int, kind: type[BatchschedError]) -> None:
    transport, _ = answering(*[httpx.Response(status, text="<html>a proxy</html>")] * 3)
    with transport, pytest.raises(kind, match=f"answered {status}") as caught:
        transport.with_options(None, 0).request("GET", "/v1/batches")
    assert caught.value.http_status == status


def test_a_stream_is_opened_again_but_never_read_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchsched.transport.time.sleep", lambda _: None)

    def breaking() -> Iterator[bytes]:
        yield b"half"
        raise httpx.ReadError("cut")

    transport, seen = answering(httpx.Response(503), httpx.ConnectError("none"), httpx.Response(200, content=breaking()))
    got: list[bytes] = []
    with transport, pytest.raises(ServerUnreachable), transport.stream("GET", "/v1/files/f/content") as response:
        got.extend(response.iter_bytes())
    assert (len(seen), got) == (3, [b"half"])


async def test_an_asynchronous_stream_too(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([httpx.Response(503, headers={"retry-after": "0"}), httpx.Response(200, text="whole"), httpx.Response(404)])
    backend = httpx.MockTransport(lambda _: next(answers))
    async with AsyncTransport("http://server", backend=backend) as transport:
        async with transport.stream("GET", "/v1/files/f/content") as response:
            assert await response.aread() == b"whole"
        with pytest.raises(NotFound):
            async with transport.stream("GET", "/v1/files/f/content"):
                pass


def test_other_patience_with_the_same_connections() -> None:
    seen: list[Any] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request.extensions["timeout"]["read"])
        return httpx.Response(200, json={"object": "list", "data": [], "has_more": False, "first_id": None, "last_id": None})

    with Client(transport=Transport("http://server", backend=httpx.MockTransport(handle))) as client:
        list(client.with_options(timeout_s=2.5).batches.list())
        list(client.batches.list())
    assert seen == [2.5, 600.0]
