"""Leases, fencing and the recording of results, by the workers' protocol on a real server."""

from __future__ import annotations

from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from batchsched.clock import ManualClock
from batchsched.queue import chunks, ledger
from batchsched.queue.store import Record
from batchsched.server.workers import RETRY_PAUSE_S
from batchsched.wire import PREFIX
from tests.live import BASIC, HandWorker, LiveServer, live_server, meter, requests, wait_for

pytestmark = pytest.mark.slow

NOW = datetime(2026, 5, 1, tzinfo=UTC)


@pytest.fixture
def server(tmp_path: Path, database_url: str) -> Generator[LiveServer]:
    with live_server(tmp_path, clock=ManualClock(NOW), server__chunk_lines=3, server__database_url=database_url) as live:
        yield live


def _started(server: LiveServer, count: int, **fields: Any) -> str:
    batch_id: str = server.submit(requests(count), **fields)["id"]
    server.until(batch_id, "in_progress")
    return batch_id


def _counter(server: LiveServer, name: str) -> int:
    with server.runtime.database.read() as connection:
        return ledger.counted(connection).get(name, 0)


def _lose(server: LiveServer, lease: dict[str, Any]) -> None:
    """Let a lease run out, as it does when no heartbeat comes."""
    with server.runtime.database.write() as connection:
        chunks.extend(connection, [(lease["chunk_id"], lease["token"])], server.runtime.clock.now(), -1.0)
    server.runtime.lifecycle.poke()
    wait_for(lambda: _state(server, lease["chunk_id"])["state"] == "pending")


def _state(server: LiveServer, chunk_id: str) -> dict[str, Any]:
    with server.runtime.database.read() as connection:
        return chunks.get(connection, chunk_id)


def test_a_file_is_cut_into_chunks_that_hold_every_line_once(server: LiveServer) -> None:
    batch_id = _started(server, 8)
    with server.runtime.database.read() as connection:
        rows = chunks.of_batch(connection, batch_id)
    assert [(row["first_line"], row["lines"]) for row in rows] == [(1, 3), (4, 3), (7, 2)]
    worker = server.worker()
    seen = [request["custom_id"] for _ in rows for request in worker.input(worker.lease())]
    assert seen == [f"r{i}" for i in range(8)]


def test_the_token_grows_and_a_stale_one_changes_nothing(server: LiveServer) -> None:
    batch_id = _started(server, 3)
    zombie, other = server.worker(), server.worker()
    old = zombie.lease()
    zombie.record(old, [1])
    _lose(server, old)
    new = other.lease()
    assert (new["chunk_id"], new["done"]) == (old["chunk_id"], [1])
    assert new["token"] > old["token"]
    before = _state(server, old["chunk_id"])
    path = f"{PREFIX}/leases/{old['chunk_id']}"
    zombie.record(old, [2], status=409)
    for verb, extra in (("finish", {}), ("release", {"reason": "shutdown"}), ("fail", {"message": "x", "suspects": []})):
        assert server.post(f"{path}/{verb}", {"token": old["token"], **extra}, 409)["error"]["code"] == "stale_lease"
    held = [{"chunk_id": old["chunk_id"], "token": old["token"]}]
    answer = server.post(f"{PREFIX}/workers/{zombie.worker_id}/heartbeat", {"leases": held})
    assert answer["stale"] == [old["chunk_id"]]
    assert server.http.get(f"{PREFIX}/chunks/{old['chunk_id']}/input", params={"token": old["token"]}).status_code == 409
    assert _state(server, old["chunk_id"]) == before
    assert _counter(server, "stale_completions_total") == 5
    other.finish(new)
    assert server.until(batch_id, "completed")["request_counts"]["completed"] == 3


def test_a_result_that_comes_twice_counts_once(server: LiveServer) -> None:
    batch_id, worker = _started(server, 3), server.worker()
    lease = worker.lease()
    assert worker.record(lease, [1, 2]) == {"recorded": 2, "duplicates": 0}
    assert worker.record(lease, [2, 3]) == {"recorded": 1, "duplicates": 1}
    done = server.until(batch_id, "completed")
    assert done["request_counts"] == {"total": 3, "completed": 3, "failed": 0}
    assert len(server.content(done["output_file_id"])) == 3
    assert done["usage"]["output_tokens"] == 15


def test_lines_of_another_chunk_and_results_of_two_lines_are_refused(server: LiveServer) -> None:
    _started(server, 4)
    worker = server.worker()
    lease = worker.lease()
    body = {"token": lease["token"], "results": [{"line": 4, "ok": True, "output": {}, "input_tokens": 0, "cached_tokens": 0,
                                                  "output_tokens": 0}]}  # fmt: skip
    assert server.post(f"{PREFIX}/leases/{lease['chunk_id']}/results", body, 400)
    assert _state(server, lease["chunk_id"])["completed"] == 0


def test_what_was_written_but_not_acknowledged_is_not_read_and_runs_again(server: LiveServer) -> None:
    """A crash between the write of a result and its acknowledgement leaves bytes that no row names."""
    batch_id, worker = _started(server, 3), server.worker()
    lease = worker.lease()
    worker.record(lease, [1])
    row = _state(server, lease["chunk_id"])
    server.runtime.store.append(row, [Record(2, True, b'{"half": "born"}')])
    _lose(server, lease)
    again = worker.lease()
    assert again["done"] == [1]
    worker.finish(again)
    lines = server.content(server.until(batch_id, "completed")["output_file_id"])
    assert [line["custom_id"] for line in lines] == ["r0", "r1", "r2"]


def test_release_costs_no_attempt_and_failure_does(server: LiveServer) -> None:
    batch_id, worker = _started(server, 3), server.worker()
    lease = worker.lease()
    path = f"{PREFIX}/leases/{lease['chunk_id']}"
    server.post(f"{path}/release", {"token": lease["token"], "reason": "window_closed"})
    assert _state(server, lease["chunk_id"])["attempts"] == 0
    lease = worker.lease()
    assert lease["attempt"] == 1
    server.post(f"{path}/fail", {"token": lease["token"], "message": "it died", "suspects": [2]})
    row = _state(server, lease["chunk_id"])
    assert (row["attempts"], row["state"], row["suspects"]) == (1, "pending", [2])
    assert row["not_before"] > server.runtime.clock.now()
    server.advance(RETRY_PAUSE_S)
    lease = worker.lease()
    assert (lease["attempt"], lease["suspects"]) == (2, [2])
    worker.finish(lease)
    server.until(batch_id, "completed")


def test_a_search_for_the_guilty_line_spends_no_attempt_while_it_gets_nearer(server: LiveServer) -> None:
    _started(server, 8)
    worker = server.worker()

    def failed(suspects: list[int], set_aside: int = 0, erring: list[int] | None = None) -> tuple[int, list[int]]:
        lease = worker.lease()
        body = {"token": lease["token"], "message": "it died", "suspects": suspects, "set_aside": set_aside}
        body |= {"erring": erring} if erring else {}
        server.post(f"{PREFIX}/leases/{lease['chunk_id']}/fail", body)
        row = _state(server, lease["chunk_id"])
        if row["not_before"] > server.runtime.clock.now():
            server.advance(RETRY_PAUSE_S * 2 ** row["attempts"])
        return row["attempts"], row["suspects"]

    assert failed([2, 1, 3, 4]) == (1, [2, 1, 3, 4])
    assert failed([1, 2]) == (1, [1, 2])
    assert failed([2]) == (1, [2])
    assert failed([2]) == (2, [2])  # no nearer
    assert failed([5, 6], set_aside=1) == (2, [5, 6])  # the second was found, and there is another
    assert failed([7, 8]) == (3, [7, 8])
    assert failed([7, 1, 3], erring=[1, 3]) == (3, [7, 1, 3])
    lease = worker.lease()
    assert (lease["suspects"], lease["erring"]) == ([7, 1, 3], [1, 3])
    server.post(f"{PREFIX}/leases/{lease['chunk_id']}/release", {"token": lease["token"], "reason": "shutdown"})
    assert failed([1, 3], erring=[1, 3]) == (4, [1, 3])


def test_after_the_last_attempt_unfinished_lines_become_error_lines(tmp_path: Path) -> None:
    with live_server(tmp_path, clock=ManualClock(NOW), server__max_attempts=2) as server:
        batch_id, worker = _started(server, 3), server.worker()
        worker.record(lease := worker.lease(), [2])
        for _ in range(2):
            body = {"token": lease["token"], "message": "it died", "suspects": []}
            server.post(f"{PREFIX}/leases/{lease['chunk_id']}/fail", body)
            server.advance(RETRY_PAUSE_S)
            found = _state(server, lease["chunk_id"])
            lease = worker.lease() if found["state"] == "pending" else lease
        done = server.until(batch_id, "completed")
        assert done["request_counts"] == {"total": 3, "completed": 1, "failed": 2}
        errors = server.content(done["error_file_id"])
        assert [(e["custom_id"], e["error"]["code"]) for e in errors] == [("r0", "engine_failed"), ("r2", "engine_failed")]
        assert "it died" in errors[0]["error"]["message"]


def test_a_worker_that_says_goodbye_holds_nothing_any_more(server: LiveServer) -> None:
    _started(server, 3)
    worker = server.worker()
    lease = worker.lease()  # perhaps one whose answer it never saw
    server.post(f"{PREFIX}/workers/{worker.worker_id}/bye")
    row = _state(server, lease["chunk_id"])
    assert (row["state"], row["attempts"]) == ("pending", 0)


def test_an_engine_start_costs_energy_and_teaches_how_long_it_takes(server: LiveServer) -> None:
    batch_id, worker = _started(server, 3), server.worker()
    lease = worker.lease()
    start = {**meter(0), "busy_s": 40.0, "startup_s": 33.0}
    server.post(f"{PREFIX}/leases/{lease['chunk_id']}/results", {"token": lease["token"], "results": [], "meter": start})
    worker.finish(lease)
    assert server.until(batch_id, "completed")["batchsched"]["carbon"]["energy_j"] == 200.0
    profile = server.runtime.scheduler.observer.current_profiles()["tiny", "local"]
    assert profile.startup_s == 33.0
    assert profile.seconds(9, 15) < 40.0  # the start is no part of the speed


def test_what_a_meter_says_of_the_host_and_of_others_reaches_the_report(server: LiveServer) -> None:
    batch_id, worker = _started(server, 3), server.worker()
    lease = worker.lease()
    said = {"energy_source": "nvml_counter", "host_j": 25.0, "host_source": "rapl", "mark": "shared"}
    for second in (0, 10):
        span = {**meter(second), "ended_at": f"2026-01-01T00:00:{second + 10}Z", **said}
        server.post(f"{PREFIX}/leases/{lease['chunk_id']}/results", {"token": lease["token"], "results": [], "meter": span})
    worker.finish(lease)
    server.until(batch_id, "completed")
    report = server.get(f"{PREFIX}/batches/{batch_id}/report")
    assert report["energy_by_source"] == {"nvml_counter": 200.0, "modelled": 100.0, "rapl": 50.0}
    assert sum(row["busy_s"] for row in report["rows"]) == 30.0
    assert any("computed for others" in note for note in report["notes"])
    ran = [line for line in server.get(f"{PREFIX}/batches/{batch_id}/explain")["sentences"] if line.startswith("It ran")]
    assert len(ran) == len(
        {(row["pool"], row["model"], row["zone"]) for row in report["rows"]}
    )  # once a place, whatever its meters


def test_idle_power_that_a_worker_measured_is_the_pools(server: LiveServer) -> None:
    worker = server.worker()
    beat = {"leases": [], "idle": {"power_w": 1.25, "source": "rapl"}}
    server.post(f"{PREFIX}/workers/{worker.worker_id}/heartbeat", beat)
    server.post(f"{PREFIX}/workers/{worker.worker_id}/heartbeat", {"leases": []})  # which takes nothing back
    server.worker()
    assert server.runtime.scheduler.observer.current_profiles()["tiny", "local"].idle_w == 1.25


def test_finish_needs_every_line(server: LiveServer) -> None:
    _started(server, 3)
    worker = server.worker()
    lease = worker.lease()
    error = server.post(f"{PREFIX}/leases/{lease['chunk_id']}/finish", {"token": lease["token"]}, 400)["error"]
    assert "3 line(s)" in error["message"]


def test_a_uniform_batch_stays_on_one_pool(tmp_path: Path) -> None:
    two = BASIC + "[pools.other]\ngpu = 'cpu'\n"
    with live_server(tmp_path, two, ManualClock(NOW), server__chunk_lines=1) as server:
        body = {"batchsched": {"uniform": True, "deadline": "5s"}}  # no time to wait: every pool is offered the work
        batch_id = server.submit(requests(2), **body)["id"]
        server.until(batch_id, "in_progress")
        first, second = server.worker("local"), server.worker("other")
        lease = first.lease()
        for _ in range(5):
            assert not second.claim()
        first.finish(lease)
        first.drain(batch_id)


def test_a_model_that_is_not_ready_is_asked_for(server: LiveServer) -> None:
    _started(server, 1, batchsched={"deadline": "30s"})
    worker = server.worker()
    body = {"worker_id": worker.worker_id, "ready_models": []}
    answer = wait_for(lambda: (a := server.post(f"{PREFIX}/leases", body))["prepare"] and a)
    assert (answer["prepare"], answer["leases"]) == ("tiny", [])


def test_unknown_pools_and_workers_are_refused(server: LiveServer) -> None:
    body = {"pool": "nowhere", "host": "h", "pid": 1}
    assert "declared: local" in server.post(f"{PREFIX}/workers", body, 404)["error"]["message"]
    assert server.post(f"{PREFIX}/workers", {**body, "pool": "local", "protocol": 99}, 400)
    assert server.post(f"{PREFIX}/leases", {"worker_id": "nobody"}, 404)
    assert server.post(f"{PREFIX}/workers/nobody/heartbeat", {"leases": []}, 404)
    assert server.post(f"{PREFIX}/leases", {"nonsense": 1}, 400)


def test_a_restart_gives_leases_their_full_time_again(tmp_path: Path) -> None:
    clock = ManualClock(NOW)
    with live_server(tmp_path, clock=clock) as server:
        batch_id, worker = _started(server, 3), server.worker()
        lease = worker.lease()
        worker.record(lease, [1])
    clock.advance(3600)  # the server is down for an hour; the worker goes on
    with live_server(tmp_path, clock=clock) as server:
        again = HandWorker(server, worker.worker_id)
        again.record(lease, [2, 3])
        assert server.until(batch_id, "completed")["request_counts"]["completed"] == 3


def test_energy_of_every_message_is_in_the_ledger(server: LiveServer) -> None:
    batch_id, worker = _started(server, 3), server.worker()
    lease = worker.lease()
    worker.record(lease, [1])
    worker.record(lease, [2, 3])
    server.post(f"{PREFIX}/leases/{lease['chunk_id']}/finish", {"token": lease["token"], "meter": meter(30)})
    with server.runtime.database.read() as connection:
        entries = ledger.of_batch(connection, batch_id)
    assert [(entry["requests"], entry["energy_j"]) for entry in entries] == [(1, 100.0), (2, 100.0), (0, 100.0)]
    finish = {"token": lease["token"], "meter": meter(30)}
    server.post(f"{PREFIX}/leases/{lease['chunk_id']}/finish", finish)  # the answer was lost and the message comes again
    carbon = server.until(batch_id, "completed")["batchsched"]["carbon"]
    assert carbon["energy_j"] == 300.0
    assert carbon["grams"] > 0
