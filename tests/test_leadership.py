"""One of several servers leads, and the lead moves when it dies."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from batchsched.clock import SystemClock
from batchsched.queue import leadership
from batchsched.queue.database import Database
from batchsched.queue.leadership import Leadership
from tests.live import PATIENCE_S, wait_for
from tests.postgres import PostgresServer, database_in
from tests.processes import BATCHSCHED, Stage, end, free_port, tagged


@contextmanager
def _candidate(database: Database, name: str, won: Callable[[], None] = lambda: None) -> Iterator[Leadership]:
    one = Leadership(database, name, SystemClock(), won)
    one.start()
    yield one
    one.stop()


@pytest.fixture(autouse=True)
def _swift(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leadership, "BEAT_S", 0.05)


def test_one_leads_and_the_next_takes_over_with_a_higher_epoch(postgres_url: str) -> None:
    database = Database(postgres_url)
    with _candidate(database, "a") as first:
        assert (first.leading(), first.epoch) == (True, 1)
        with _candidate(database, "b") as second:
            time.sleep(0.2)  # long enough for some tries
            assert first.leading()
            assert not second.leading()
            first.stop()
            assert not first.leading()
            wait_for(second.leading)
            assert second.epoch == 2
    database.close()


def test_on_sqlite_the_one_server_leads_from_its_start(database: Database) -> None:
    for epoch in (1, 2):
        with _candidate(database, "a") as one:
            assert (one.leading(), one.epoch) == (True, epoch)


def test_a_lost_connection_is_a_lost_lead_which_comes_back(postgres: PostgresServer, postgres_url: str) -> None:
    database = Database(postgres_url)
    times: list[int] = []
    with _candidate(database, "a", lambda: times.append(1)) as one:
        postgres.terminate(database_in(postgres_url))
        wait_for(lambda: not one.leading() or one.epoch == 2)
        wait_for(lambda: one.leading() and one.epoch == 2)
    assert len(times) == 2
    database.close()


def test_who_cannot_begin_does_not_lead_until_he_can(postgres_url: str) -> None:
    database = Database(postgres_url)
    tries = iter([True, False])

    def begin() -> None:
        if next(tries):
            raise RuntimeError("not yet")

    with _candidate(database, "a", begin) as one:
        assert not one.leading()
        wait_for(one.leading)
    database.close()


def test_a_leader_that_is_silent_is_deposed(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leadership, "IDLE_S", 1)
    monkeypatch.setattr(leadership, "SURE_S", 0.5)
    database = Database(postgres_url)
    with _candidate(database, "a") as one, _candidate(database, "b") as other:
        leader = wait_for(lambda: next((each for each in (one, other) if each.leading()), None))  # a slow start costs the lead
        monkeypatch.setattr(leader, "_beat", lambda _: None)  # it hangs, and its connection stays open
        wait_for((one if leader is other else other).leading)
        assert not leader.leading()
    database.close()


@pytest.mark.slow
def test_when_the_leading_server_is_killed_the_other_finishes_the_batch(postgres_url: str, tmp_path: Path) -> None:
    with Stage(tmp_path, chunk_lines=5) as stage:
        other = free_port()
        url = {"BATCHSCHED_SERVER_DATABASE_URL": postgres_url}
        leader = stage.server(extra=url)
        stage.start([*BATCHSCHED, "serve", "--config", str(stage.config), "--port", str(other)], "other", url)
        address = f"http://127.0.0.1:{other}"
        wait_for(lambda: stage.answers(address))
        with httpx.Client(base_url=address, timeout=PATIENCE_S) as client:
            upload = client.post("/v1/files", files={"file": ("in.jsonl", tagged(20))}, data={"purpose": "batch"}).json()
            end(leader, signal.SIGKILL)
            body = {"input_file_id": upload["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
            batch_id = client.post("/v1/batches", json=body).json()["id"]
            wait_for(lambda: client.get(f"/v1/batches/{batch_id}").json()["status"] == "in_progress")
            stage.engine()
            stage.url = address
            stage.worker()
            wait_for(lambda: client.get(f"/v1/batches/{batch_id}").json()["status"] == "completed")
    assert len(stage.computed()) == 20
