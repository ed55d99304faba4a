"""What one can do with a batch beyond OpenAI: pause, resume, change. By the real server and a worker driven by hand."""

from __future__ import annotations

import threading
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from batchsched.clock import ManualClock
from batchsched.queue import chunks
from batchsched.units import from_iso
from batchsched.wire import PREFIX
from tests.live import LiveServer, live_server, requests, wait_for

pytestmark = pytest.mark.slow

NOW = datetime(2026, 5, 1, tzinfo=UTC)


@pytest.fixture
def server(tmp_path: Path) -> Generator[LiveServer]:
    with live_server(tmp_path, clock=ManualClock(NOW), server__chunk_lines=3) as live:
        yield live


def _started(server: LiveServer, count: int, **fields: Any) -> str:
    batch_id: str = server.submit(requests(count), **fields)["id"]
    server.until(batch_id, "in_progress")
    return batch_id


def _do(server: LiveServer, batch_id: str, what: str = "", body: Any = None, status: int = 200) -> dict[str, Any]:
    path = f"{PREFIX}/batches/{batch_id}/{what}".rstrip("/")
    answer: dict[str, Any] = server.post(path, body, status)
    return answer


def _beat(server: LiveServer, worker_id: str, lease: dict[str, Any]) -> dict[str, Any]:
    held = {"leases": [{"chunk_id": lease["chunk_id"], "token": lease["token"]}]}
    answer: dict[str, Any] = server.post(f"{PREFIX}/workers/{worker_id}/heartbeat", held)
    return answer


def test_a_paused_batch_gives_back_what_runs_and_leases_nothing(server: LiveServer) -> None:
    batch_id, worker = _started(server, 6), server.worker()
    lease = worker.lease()
    worker.record(lease, [1])
    paused = _do(server, batch_id, "pause")
    since = paused["batchsched"]["paused_at"]
    assert paused["status"] == "in_progress"
    assert _do(server, batch_id, "pause")["batchsched"]["paused_at"] == since
    assert _beat(server, worker.worker_id, lease)["stop"] == {lease["chunk_id"]: "paused"}
    server.post(f"{PREFIX}/leases/{lease['chunk_id']}/release", {"token": lease["token"], "reason": "paused"})
    server.runtime.scheduler.plan_now()
    assert batch_id not in server.runtime.scheduler.published.jobs  # type: ignore[union-attr]
    assert worker.claim(max_chunks=5) == []
    progress = server.batch(batch_id)["batchsched"]["progress"]
    assert (progress["state"], progress["requests_done"]) == ("paused", 1)
    assert progress["waiting_for"] == "`batchsched resume`"
    assert any("paused since" in s for s in server.get(f"{PREFIX}/batches/{batch_id}/explain")["sentences"])
    assert _do(server, batch_id, "resume")["batchsched"]["paused_at"] is None
    assert _do(server, batch_id, "resume")["batchsched"]["paused_at"] is None
    with server.runtime.database.read() as connection:
        assert [row["attempts"] for row in chunks.of_batch(connection, batch_id)] == [0, 0]
    assert worker.drain(batch_id)["request_counts"] == {"total": 6, "completed": 6, "failed": 0}


def test_a_batch_that_is_paused_while_it_is_leased_leases_no_more_by_the_old_plan(server: LiveServer) -> None:
    """The plan in force still has the batch; the claim itself looks again."""
    batch_id, worker = _started(server, 6), server.worker()
    worker.lease()
    server.runtime.scheduler.stop()
    _do(server, batch_id, "pause")
    assert worker.claim(max_chunks=5) == []


def test_a_paused_batch_expires_at_its_deadline(server: LiveServer) -> None:
    batch_id, worker = _started(server, 6, batchsched={"deadline": "30s"}), server.worker()
    worker.finish(worker.lease())
    _do(server, batch_id, "pause")
    server.advance(30)
    done = server.until(batch_id, "expired")
    assert done["request_counts"] == {"total": 6, "completed": 3, "failed": 3}
    assert done["batchsched"]["progress"]["state"] == "done"


def test_a_batch_that_is_paused_before_its_validation_waits_after_it(server: LiveServer) -> None:
    batch_id = server.submit(requests(3))["id"]
    _do(server, batch_id, "pause")
    server.until(batch_id, "in_progress")
    server.runtime.scheduler.plan_now()
    assert server.worker().claim() == []


def test_cancelling_wins_over_a_pause_within_one_heartbeat(server: LiveServer) -> None:
    batch_id, worker = _started(server, 6), server.worker()
    lease = worker.lease()
    _do(server, batch_id, "pause")
    server.post(f"/v1/batches/{batch_id}/cancel")
    assert _beat(server, worker.worker_id, lease)["stop"] == {lease["chunk_id"]: "cancelled"}
    assert _do(server, batch_id, "resume", status=409)["error"]["message"].startswith("A batch with status 'cancelling'")
    server.post(f"{PREFIX}/leases/{lease['chunk_id']}/release", {"token": lease["token"], "reason": "cancelled"})
    assert server.until(batch_id, "cancelled")["request_counts"] == {"total": 6, "completed": 0, "failed": 6}


def test_what_has_ended_can_be_neither_paused_nor_changed(server: LiveServer) -> None:
    batch_id = _started(server, 1)
    server.worker().drain(batch_id)
    for what, body in (("pause", None), ("resume", None), ("", {"priority": 1})):
        error = _do(server, batch_id, what, body, status=409)["error"]
        assert error["code"] == "conflict"
        assert "completed" in error["message"]
    for what, body in (("pause", None), ("resume", None), ("", {"priority": 1})):
        assert _do(server, "batch_unknown", what, body, status=404)["error"]["code"] == "not_found"


def test_a_new_deadline_brings_a_new_verdict(tmp_path: Path) -> None:
    clock = ManualClock(NOW)
    with live_server(tmp_path, clock=clock) as server:
        batch_id = _started(server, 50, batchsched={"deadline": "6h"})
        assert server.batch(batch_id)["batchsched"]["verdict"]["feasible"]
        changed = _do(server, batch_id, body={"deadline": "1s", "priority": 7, "metadata": {"a": "b"}})
        ours = changed["batchsched"]
        assert not ours["verdict"]["feasible"]
        assert ours["priority"] == 7
        assert changed["metadata"] == {"a": "b"}
        assert from_iso(ours["deadline_at"]) == clock.now() + timedelta(seconds=1)
        assert changed["completion_window"] == "24h"
        later = _do(server, batch_id, body={"deadline": "2026-05-02T00:00:00Z"})
        assert later["batchsched"]["verdict"]["feasible"]
        assert later["expires_at"] == int(datetime(2026, 5, 2, tzinfo=UTC).timestamp())
        assert later["batchsched"]["priority"] == 7
        server.runtime.scheduler.plan_now()
        published = server.runtime.scheduler.published
        assert published is not None
        assert [job.deadline_s for job in published.problem.jobs] == [86400.0]


def test_a_deadline_that_changes_during_the_validation_is_the_one_that_is_judged(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge, changed = server.runtime.scheduler.verdicts, threading.Event()

    def slow(batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
        verdicts = judge(batches)
        if not changed.is_set():
            changed.set()
            _do(server, batches[0]["id"], body={"deadline": "1s"})
        return verdicts

    monkeypatch.setattr(server.runtime.scheduler, "verdicts", slow)
    batch_id = _started(server, 50, batchsched={"on_deadline": "finish"})
    assert changed.is_set()
    assert not server.batch(batch_id)["batchsched"]["verdict"]["feasible"]


def test_a_deadline_that_is_moved_on_saves_a_batch_from_expiring(tmp_path: Path) -> None:
    clock = ManualClock(NOW)
    with live_server(tmp_path, clock=clock) as server:
        batch_id = _started(server, 2, batchsched={"deadline": "1h"})
        _do(server, batch_id, body={"deadline": "3h"})
        clock.advance(2 * 3600)
        server.runtime.lifecycle.round()
        assert server.batch(batch_id)["status"] == "in_progress"
        server.advance(2 * 3600)
        server.until(batch_id, "expired")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, None),
        ([], None),
        ({"deadline": "yesterday"}, "deadline"),
        ({"deadline": "2001-01-01T00:00:00Z"}, "deadline"),
        ({"deadline": "9999-12-31T23:59:59-05:00"}, "deadline"),
        ({"deadline": 5}, "deadline"),
        ({"priority": 101}, "priority"),
        ({"priority": "high"}, "priority"),
        ({"metadata": {"k": 1}}, "metadata.k"),
        ({"state": "completed"}, None),
    ],
)
def test_changes_that_make_no_sense_are_refused(server: LiveServer, body: Any, param: str | None) -> None:
    batch_id = server.submit(requests(1))["id"]
    error = _do(server, batch_id, body=body, status=400)["error"]
    assert (error["param"], bool(error["message"])) == (param, True)


def test_a_priority_is_kept_and_shown(server: LiveServer) -> None:
    batch = server.submit(requests(1), batchsched={"priority": -100})
    assert server.batch(batch["id"])["batchsched"]["priority"] == -100
    _do(server, batch["id"], body={"priority": 100})
    assert wait_for(lambda: server.batch(batch["id"]))["batchsched"]["priority"] == 100
