"""Results while a batch runs: by cursor, by following, through restarts and across the merge; and the cursor by itself."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Generator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchsched import AsyncClient, Client
from batchsched.cli import exits
from batchsched.cli.main import main
from batchsched.clock import ManualClock
from batchsched.errors import InvalidValue, NotFound, ServerUnreachable, StorageUnavailable
from batchsched.server import results
from batchsched.server.cursor import MAX_PIECES, Cursor
from batchsched.wire import CURSOR_HEADER, PREFIX, STATUS_HEADER
from tests.live import PATIENCE_S, HandWorker, LiveServer, live_server, requests, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture
def server(tmp_path: Path) -> Generator[LiveServer]:
    with live_server(tmp_path, clock=ManualClock(datetime(2026, 5, 1, tzinfo=UTC)), server__chunk_lines=3) as live:
        yield live


def _started(server: LiveServer, count: int, **fields: Any) -> str:
    """A batch that is late, so that every chunk may be leased at once: a plan's slot may end in the middle of a test."""
    batch_id: str = server.submit(requests(count), **{"batchsched": {"deadline": "1s", "on_deadline": "finish"}, **fields})["id"]
    server.until(batch_id, "in_progress")
    return batch_id


def _read(server: LiveServer, batch_id: str, cursor: str | None = None) -> tuple[list[str], str, str]:
    """The custom_ids of what is new, the next cursor, the status."""
    params = {} if cursor is None else {"cursor": cursor}
    answer = server.http.get(f"{PREFIX}/batches/{batch_id}/results", params=params)
    assert answer.status_code == 200, answer.text
    names = [json.loads(line)["custom_id"] for line in answer.text.splitlines()]
    return names, answer.headers[CURSOR_HEADER], answer.headers[STATUS_HEADER]


def test_each_look_brings_what_came_since_the_last(server: LiveServer) -> None:
    batch_id, worker = _started(server, 8), server.worker()
    assert _read(server, batch_id) == ([], "0..", "in_progress")
    one, two = worker.lease(), worker.lease()
    worker.record(one, [1, 3])
    worker.record(two, [5], ok=False)
    names, cursor, status = _read(server, batch_id)
    assert (names, status) == (["r0", "r2", "r4"], "in_progress")
    assert _read(server, batch_id, cursor) == ([], cursor, "in_progress")
    worker.record(one, [2])
    worker.record(two, [4])
    names, cursor, _ = _read(server, batch_id, cursor)
    assert names == ["r1", "r3"]
    assert cursor.startswith("0.0-0.1-")
    assert _read(server, batch_id)[0] == ["r0", "r2", "r1", "r4", "r3"]
    worker.record(two, [6])
    worker.finish(worker.lease())
    server.until(batch_id, "completed")
    # The chunk that was read whole does not come again; of the one that was growing all lines do.
    names, end, status = _read(server, batch_id, cursor)
    assert (names, end, status) == (["r3", "r5", "r6", "r7", "r4"], "0.end", "completed")
    assert _read(server, batch_id, end) == ([], end, "completed")
    assert _read(server, batch_id)[0] == ["r0", "r2", "r1", "r3", "r5", "r6", "r7", "r4"]


def test_an_expired_batch_tells_the_lines_that_never_ran(server: LiveServer) -> None:
    batch_id, worker = _started(server, 5, batchsched={"deadline": "30s"}), server.worker()
    worker.finish(worker.lease())
    names, cursor, _ = _read(server, batch_id)
    assert names == ["r0", "r1", "r2"]
    server.advance(30)
    server.until(batch_id, "expired")
    assert _read(server, batch_id, cursor)[0] == ["r3", "r4"]


def test_a_retry_begins_anew_with_what_was_answered(server: LiveServer) -> None:
    batch_id, worker = _started(server, 3), server.worker()
    lease = worker.lease()
    worker.record(lease, [1], ok=False)
    worker.record(lease, [2, 3])
    server.until(batch_id, "completed")
    _, cursor, _ = _read(server, batch_id)
    server.post(f"{PREFIX}/batches/{batch_id}/retry")
    lease = worker.lease()
    assert _read(server, batch_id, cursor)[0] == ["r1", "r2"]
    worker.finish(lease)
    server.until(batch_id, "completed")
    assert _read(server, batch_id, cursor)[0] == ["r0", "r1", "r2"] or _read(server, batch_id, cursor)[0] == ["r1", "r2", "r0"]


def test_what_is_merged_between_the_look_and_the_reading_is_read_from_the_files(
    server: LiveServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id, worker = _started(server, 3), server.worker()
    lease = worker.lease()
    worker.record(lease, [1])

    def late(*arguments: Any) -> Iterator[bytes]:
        worker.record(lease, [2, 3])
        server.until(batch_id, "completed")
        wait_for(lambda: not (tmp_path / "data" / "results" / batch_id).exists())
        yield from recorded(*arguments)

    recorded = results.recorded
    monkeypatch.setattr(results, "recorded", late)
    assert _read(server, batch_id) == (["r0", "r1", "r2"], "0.end", "completed")


@pytest.mark.parametrize(
    "cursor", ["", "x", "0", "0.", "0.1.2", "0.1-2.3", "0.end.", "-1..", "0.." + "1-1_" * 3, "0.." + "1-1_" * 500 + "1-1"]
)
def test_a_cursor_that_we_never_gave_is_refused(server: LiveServer, cursor: str) -> None:
    batch_id = server.submit(requests(1))["id"]
    answer = server.http.get(f"{PREFIX}/batches/{batch_id}/results", params={"cursor": cursor})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "cursor")


def test_a_cursor_in_the_middle_of_a_line_is_refused(server: LiveServer) -> None:
    batch_id, worker = _started(server, 3), server.worker()
    worker.record(worker.lease(), [1])
    answer = server.http.get(f"{PREFIX}/batches/{batch_id}/results", params={"cursor": "0..0-9"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "cursor")


def test_no_results(server: LiveServer) -> None:
    bad = server.submit(b"{nonsense\n")["id"]
    server.until(bad, "failed")
    assert _read(server, bad) == ([], "0.end", "failed")
    assert server.http.get(f"{PREFIX}/batches/batch_unknown/results").status_code == 404


def _deleted(server: LiveServer) -> str:
    batch_id, worker = _started(server, 3), server.worker()
    done = worker.drain(batch_id)
    assert server.http.delete(f"/v1/files/{done['output_file_id']}").status_code == 200
    return batch_id


def test_results_that_were_deleted_are_not_there(server: LiveServer) -> None:
    with Client(server.url, "") as client, pytest.raises(NotFound):
        list(client.batches.results(_deleted(server)))


def _work(worker: HandWorker, steps: list[threading.Event], failing: bool = True) -> None:
    """Record the lines of two chunks one by one, each when it is asked for; the last line fails."""
    leases = [worker.lease(), worker.lease()]
    for number, step in enumerate(steps):
        assert step.wait(PATIENCE_S)
        worker.record(leases[number % 2], [leases[number % 2]["first_line"] + number // 2], ok=not failing or number < 5)


def test_following_brings_each_line_once_as_it_appears(server: LiveServer) -> None:
    batch_id = _started(server, 6)
    steps = [threading.Event() for _ in range(6)]
    thread = threading.Thread(target=_work, args=(server.worker(), steps))
    thread.start()
    got: list[str] = []
    with Client(server.url, "") as client:
        steps[0].set()
        for line in client.batches.results(batch_id, follow=True, poll_s=0.1):
            got.append(line.custom_id)
            if len(got) < 6:
                steps[len(got)].set()  # the next result is made only once this one was told
    thread.join()
    assert got == ["r0", "r3", "r1", "r4", "r2", "r5"]
    assert server.batch(batch_id)["request_counts"] == {"total": 6, "completed": 5, "failed": 1}


async def test_the_asynchronous_twin_follows_too(server: LiveServer) -> None:
    batch_id = _started(server, 6)
    steps = [threading.Event() for _ in range(6)]
    thread = threading.Thread(target=_work, args=(server.worker(), steps))
    thread.start()
    got: list[bool] = []
    async with AsyncClient(server.url, "") as client:
        steps[0].set()
        async for line in client.batches.results(batch_id, follow=True, poll_s=0.1):
            got.append(line.ok)
            if len(got) < 6:
                steps[len(got)].set()
    thread.join()
    assert got == [True] * 5 + [False]


def test_following_goes_on_through_a_restart(tmp_path: Path) -> None:
    """The server goes away with the stream half read, and is back at another address."""
    got: list[str] = []
    with Client("http://127.0.0.1:1", "") as client:
        with live_server(tmp_path, server__chunk_lines=3) as server:
            client._transport._client.base_url = server.url  # pyright: ignore[reportPrivateUsage]
            batch_id, worker = _started(server, 4), server.worker()
            worker.record(worker.lease(), [1, 2])
            told = client.batches.results(batch_id, follow=True, poll_s=0.1)
            got += [next(told).custom_id, next(told).custom_id]
        with live_server(tmp_path, server__chunk_lines=3) as server:
            client._transport._client.base_url = server.url  # pyright: ignore[reportPrivateUsage]
            thread = threading.Thread(target=server.worker().drain, args=(batch_id,))
            thread.start()
            server.post(f"{PREFIX}/workers/{worker.worker_id}/bye")
            got += [line.custom_id for line in told]
            thread.join()
    assert sorted(got) == ["r0", "r1", "r2", "r3"]


def test_a_stream_that_breaks_off_is_taken_up_again(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    batch_id, worker = _started(server, 3), server.worker()
    worker.drain(batch_id)
    blocks: Callable[..., Iterator[bytes]] = server.runtime.store.blocks
    breaks = iter([True, False])

    def breaking(*arguments: Any) -> Iterator[bytes]:
        whole = b"".join(blocks(*arguments))
        if next(breaks):
            yield whole[: len(whole) // 2]
            raise StorageUnavailable
        yield whole

    monkeypatch.setattr(server.runtime.store, "blocks", breaking)
    with Client(server.url, "") as client:
        got = [line.custom_id for line in client.batches.results(batch_id, follow=True, poll_s=0.1)]
        assert got == ["r0", "r1", "r2"]
        breaks = iter([True])
        with pytest.raises(ServerUnreachable):
            list(client.batches.results(batch_id))


def test_the_command(
    server: LiveServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCHSCHED_WORKER_SERVER_URL", server.url)

    def call(*arguments: str) -> tuple[int, list[str]]:
        with pytest.raises(SystemExit) as stop:
            main(list(arguments))
        assert isinstance(stop.value.code, int)
        return stop.value.code, capsys.readouterr().out.splitlines()

    batch_id, worker = _started(server, 4), server.worker()
    assert call("results", batch_id) == (exits.OK, [])
    assert call("results", batch_id, "--out", str(tmp_path / "none")) == (exits.OK, [])
    lease = worker.lease()
    worker.record(lease, [1, 2])
    worker.record(lease, [3], ok=False)
    code, lines = call("results", batch_id)
    assert (code, len(lines)) == (exits.OK, 3)
    code, paths = call("results", batch_id, "--out", str(tmp_path / "some"))
    assert [len(Path(path).read_bytes().splitlines()) for path in paths] == [2, 1]
    assert sorted(path.name for path in (tmp_path / "some").iterdir()) == ["errors.jsonl", "output.jsonl"]
    thread = threading.Thread(target=worker.drain, args=(batch_id,))
    thread.start()
    code, lines = call("results", batch_id, "--follow")
    thread.join()
    assert (code, len(lines)) == (exits.FAILED_LINES, 4)
    code, paths = call("results", batch_id, "--follow", "--out", str(tmp_path / "all"), "--json")
    assert (code, len(json.loads(paths[0])["files"])) == (exits.FAILED_LINES, 2)


GROWTH = st.lists(st.tuples(st.integers(0, 11), st.integers(1, 3)), max_size=60)


@given(growth=GROWTH, looks=st.lists(st.booleans(), max_size=60))
def test_a_reader_reads_every_byte_once_in_whatever_order_chunks_grow(growth: list[tuple[int, int]], looks: list[bool]) -> None:
    size = 4
    lengths, read = [0] * 12, [0] * 12
    cursor = Cursor(3)

    def look() -> Cursor:
        rows = [
            {"position": position, "result_bytes": length, "state": "done" if length == size else "leased"}
            for position, length in enumerate(lengths)
            if length and position >= cursor.first
        ]
        fresh, after = Cursor.parse(str(cursor)).advance(rows)
        for row, start in fresh:
            assert start == read[row["position"]]
            read[row["position"]] = row["result_bytes"]
        return after

    for number, (position, more) in enumerate(growth):
        lengths[position] = min(size, lengths[position] + more)
        if number < len(looks) and looks[number]:
            cursor = look()
    cursor = look()
    assert read == lengths
    assert Cursor.parse(str(cursor)) == cursor
    assert [cursor.has(position) for position in range(12)] == [length == size for length in lengths]


def test_a_cursor_stays_short_and_loses_nothing() -> None:
    """Every second chunk is done: what has no room in the cursor waits until its neighbours are done."""
    rows = [{"position": position, "result_bytes": 5, "state": "done"} for position in range(10_000)]
    fresh, cursor = Cursor(0).advance(rows[::2])
    assert len(fresh) == MAX_PIECES
    assert len(str(cursor)) < 6_000
    rest, cursor = Cursor.parse(str(cursor)).advance(rows)
    assert len(rest) == 10_000 - MAX_PIECES
    assert str(cursor) == "0.0-9999."
    with pytest.raises(InvalidValue):
        Cursor.parse("0.0-9999")
