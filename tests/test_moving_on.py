"""Housekeeping acts on what a batch is, not on what it was when the round began: other requests and other servers move it too."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import batchsched.judging
from batchsched.clock import ManualClock
from batchsched.observe import Observer
from batchsched.planner.verdict import verdict
from batchsched.queue import batches, chunks, deliveries, retention
from batchsched.scheduler import Scheduler
from batchsched.server.operations import Operations
from batchsched.wire import PREFIX
from tests.inprocess import InProcess, in_process
from tests.live import requests

NOW = datetime(2026, 5, 1, tzinfo=UTC)


def accepted(server: InProcess, **fields: Any) -> str:
    """A batch of five requests in one chunk, to be validated."""
    upload = server.request("POST", "/v1/files", files={"file": ("f", requests(5))}, data={"purpose": "batch"}).json()["id"]
    body = {"input_file_id": upload, "endpoint": "/v1/chat/completions", "completion_window": "1h", **fields}
    batch_id: str = server.post("/v1/batches", body).json()["id"]
    return batch_id


def submitted(server: InProcess, **fields: Any) -> str:
    """The same, in progress."""
    batch_id = accepted(server, **fields)
    server.round()
    assert server.json(f"/v1/batches/{batch_id}")["status"] == "in_progress"
    return batch_id


def states(server: InProcess, batch_id: str) -> dict[str, int]:
    with server.runtime.database.read() as connection:
        return chunks.by_state(connection, batch_id)


def after_the_look(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Let something happen once, between what a round of the housekeeping reads and what it does."""
    look, acts = batches.due, [act]

    def due(*arguments: Any) -> Any:
        found = look(*arguments)
        if acts:
            acts.pop()()
        return found

    monkeypatch.setattr(batches, "due", due)


def test_who_gets_more_time_in_the_last_moment_has_it(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock(NOW)
    with in_process() as make, closing(make(tmp_path, clock, server__database_url=database_url)) as server:
        batch_id = submitted(server)
        clock.advance(3601)
        after_the_look(monkeypatch, lambda: server.post(f"{PREFIX}/batches/{batch_id}", {"deadline": "2h"}))
        server.round()
        assert server.json(f"/v1/batches/{batch_id}")["status"] == "in_progress"
        assert states(server, batch_id) == {"pending": 1}
        clock.advance(7201)
        server.round()
        assert server.json(f"/v1/batches/{batch_id}")["status"] == "expired"


@pytest.mark.parametrize("end", ["expired", "cancelled"])
def test_a_leader_that_slept_through_a_retry_does_not_end_it(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    clock = ManualClock(NOW)
    with in_process() as make, closing(make(tmp_path, clock, server__database_url=database_url)) as server:
        batch_id = submitted(server)
        if end == "expired":
            clock.advance(3601)
        else:
            server.post(f"/v1/batches/{batch_id}/cancel")

        def all_that_the_next_leader_does() -> None:
            server.round()
            assert server.json(f"/v1/batches/{batch_id}")["status"] == end
            assert server.post(f"{PREFIX}/batches/{batch_id}/retry").status_code == 200
            server.round()
            assert states(server, batch_id) == {"pending": 1}

        after_the_look(monkeypatch, all_that_the_next_leader_does)
        server.round()
        server.round()
        assert server.json(f"/v1/batches/{batch_id}")["status"] == "in_progress"
        assert states(server, batch_id) == {"pending": 1}


def test_a_chunk_given_back_while_its_batch_is_cancelled_is_closed_too(
    tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a retry would find it pending, with results that were put away."""
    clock = ManualClock(NOW)
    with in_process() as make, closing(make(tmp_path, clock, server__database_url=postgres_url)) as server:
        batch_id, database = submitted(server), server.runtime.database
        with database.write() as connection:
            (lease,) = chunks.claim(connection, batch_id, worker_id="w", pool="local", limit=1, now=NOW, lease_s=60)
        server.post(f"/v1/batches/{batch_id}/cancel")
        close, held = chunks.close, [lease]

        def closed(*arguments: Any, **options: Any) -> None:
            close(*arguments, **options)
            for one in (held.pop() for _ in held[:]):
                with database.write() as other:
                    chunks.release(other, one["id"], one["token"])

        monkeypatch.setattr(chunks, "close", closed)
        server.round()
        server.round()
        assert server.json(f"/v1/batches/{batch_id}")["status"] == "cancelled"
        assert states(server, batch_id) == {"closed": 1}


def test_a_batch_that_is_retried_is_not_forgotten(tmp_path: Path, database_url: str) -> None:
    """Housekeeping looks for what ended long ago, and a moment later removes it."""
    clock = ManualClock(NOW)
    with in_process() as make, closing(make(tmp_path, clock, server__database_url=database_url)) as server:
        batch_id, database = submitted(server), server.runtime.database
        clock.advance(3601)
        server.round()
        with database.read() as connection:
            (old,) = retention.over(connection, clock.now() + timedelta(days=1), 10)
        server.post(f"{PREFIX}/batches/{old}/retry")
        with database.write() as connection:
            retention.forget(connection, old)
        server.round()
        assert states(server, batch_id) == {"pending": 1}


def test_what_webhooks_are_to_be_told_does_not_wait_for_a_clock_that_jumped_back(tmp_path: Path, database_url: str) -> None:
    clock = ManualClock(NOW)
    with in_process() as make, closing(make(tmp_path, clock, server__database_url=database_url)) as server:
        batch_id = submitted(server)
        server.post(f"/v1/batches/{batch_id}/cancel")
        server.round()
        clock.set_wall(NOW - timedelta(hours=1))
        server.round()
        with server.runtime.database.read() as connection:
            (told,) = deliveries.due(connection, deliveries.NOBODY, clock.now(), 10)
        assert (told["batch_id"], told["type"]) == (batch_id, "batch.cancelled")


def _feasible(server: InProcess, batch_id: str) -> bool:
    answer: bool = server.json(f"/v1/batches/{batch_id}")["batchsched"]["verdict"]["feasible"]
    return answer


def test_a_deadline_that_changes_while_a_retry_begins_is_the_one_that_is_judged(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ManualClock(NOW)
    with in_process() as make, closing(make(tmp_path, clock, server__database_url=database_url)) as server:
        batch_id = submitted(server)
        clock.advance(3601)
        server.round()
        server.post(f"{PREFIX}/batches/{batch_id}/retry", {"deadline": "1s"})
        after_the_look(monkeypatch, lambda: server.post(f"{PREFIX}/batches/{batch_id}", {"deadline": "90h"}))
        server.round()
        assert _feasible(server, batch_id)


def test_a_deadline_that_changes_as_the_validation_ends_is_judged_too(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ManualClock(NOW)
    with in_process() as make, closing(make(tmp_path, clock, server__database_url=database_url)) as server:
        batch_id = accepted(server)
        judged = Operations._judged  # pyright: ignore[reportPrivateUsage]

        def and_then_validated(*arguments: Any) -> Any:
            found = judged(*arguments)
            server.round()
            return found

        monkeypatch.setattr(Operations, "_judged", and_then_validated)
        answer = server.post(f"{PREFIX}/batches/{batch_id}", {"deadline": "1s"}).json()
        assert not answer["batchsched"]["verdict"]["feasible"]
        assert not _feasible(server, batch_id)


def test_those_that_came_together_are_judged_beside_each_other_by_one_plan(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with in_process() as make, closing(make(tmp_path, ManualClock(NOW), server__database_url=database_url)) as server:
        found = [accepted(server) for _ in range(5)]
        refused = accepted(server, batchsched={"deadline": "1s", "require_feasible": True})
        rounds: list[int] = []
        judge = Scheduler.verdicts

        def counted(scheduler: Scheduler, new: Any) -> Any:
            rounds.append(len(new))
            return judge(scheduler, new)

        monkeypatch.setattr(Scheduler, "verdicts", counted)
        server.round()
        assert sorted(rounds) == [1, 5]
        assert {server.json(f"/v1/batches/{name}")["status"] for name in found} == {"in_progress"}
        assert [_feasible(server, name) for name in found] == [True] * 5
        assert server.json(f"/v1/batches/{refused}")["status"] == "failed"


def test_one_that_cannot_be_read_or_judged_leaves_the_others_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with in_process() as make, closing(make(tmp_path, ManualClock(NOW))) as server:
        good, unread, unjudged = (accepted(server) for _ in range(3))
        job = Observer._job  # pyright: ignore[reportPrivateUsage]

        def failing(observer: Observer, row: Any, *more: Any) -> Any:
            return 1 / 0 if row["id"] == unread else job(observer, row, *more)

        def erring(problem: Any, plan: Any, batch_id: str, *more: Any) -> Any:
            return 1 / 0 if batch_id == unjudged else verdict(problem, plan, batch_id, *more)

        monkeypatch.setattr(Observer, "_job", failing)
        monkeypatch.setattr(batchsched.judging, "verdict", erring)
        server.round()
        assert _feasible(server, good)
        for name in (unread, unjudged):
            found = server.json(f"/v1/batches/{name}")["batchsched"]["verdict"]
            assert not found["feasible"]
            assert "could not be judged" in found["reason"]
        published = server.runtime.scheduler.plan_now()
        assert set(published.jobs) == {good, unjudged}
        assert any(unread in note and "ZeroDivisionError" in note for note in published.notes)
