"""Several servers on one PostgreSQL go by one plan, and together hand out no more than it says."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from batchsched.clock import Clock, ManualClock
from batchsched.forecasts.archive import Archive
from batchsched.planner.fairness import arrivals
from batchsched.queue import plans, shares, tallies
from batchsched.queue.database import Database
from batchsched.queue.tables import leadership
from batchsched.wire import PREFIX
from tests.fake_providers import FakeProvider
from tests.live import BASIC, HTTP, PATIENCE_S, LiveServer, live_server, requests, wait_for
from tests.processes import BATCHSCHED, Stage, end, free_port, tagged

pytestmark = pytest.mark.slow

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)


@contextmanager
def two_servers(folder: Path, url: str, clock: Clock | None = None, **flags: Any) -> Generator[tuple[LiveServer, LiveServer]]:
    """The first one leads."""
    flags = {"server__database_url": url, "server__data_dir": str(folder / "shared"), **flags}
    with live_server(folder / "1", BASIC, clock, **flags) as first, live_server(folder / "2", BASIC, clock, **flags) as second:
        assert first.runtime.leadership.leading()
        assert not second.runtime.leadership.leading()
        yield first, second


def test_a_follower_serves_everything_by_the_leaders_plan(postgres_url: str, tmp_path: Path) -> None:
    with two_servers(tmp_path, postgres_url, planner__replan_s=3600) as (leader, follower):
        worker = follower.worker()
        batch_id = follower.submit(requests(10))["id"]
        lease = worker.lease()  # PATIENCE_S is far less than the leader takes who is not told of it
        assert leader.runtime.settings.planner.replan_s / 4 > PATIENCE_S
        assert lease["batch_id"] == batch_id
        assert leader.batch(batch_id)["batchsched"]["progress"]["running_on"] == ["local"]
        wait_for(lambda: follower.get(f"{PREFIX}/plan")["made_at"] == leader.get(f"{PREFIX}/plan")["made_at"])
        assert follower.get(f"{PREFIX}/plan") == leader.get(f"{PREFIX}/plan")
        assert follower.batch(batch_id)["batchsched"]["progress"]["latest_safe_start_at"]
        explained = f"{PREFIX}/batches/{batch_id}/explain"
        assert follower.get(explained) == leader.get(explained)
        beat = {"leases": [{"chunk_id": lease["chunk_id"], "token": lease["token"]}]}
        assert follower.post(f"{PREFIX}/workers/{worker.worker_id}/heartbeat", beat) == {"stale": [], "stop": {}, "ceiling": None}
        worker.finish(lease)
        assert follower.until(batch_id, "completed")["request_counts"]["completed"] == 10


def test_what_changes_at_a_follower_reaches_the_leader(postgres_url: str, tmp_path: Path) -> None:
    with two_servers(tmp_path, postgres_url) as (leader, follower):
        batch_id = leader.submit(requests(10))["id"]
        leader.until(batch_id, "in_progress")
        wait_for(lambda: leader.get(f"{PREFIX}/plan")["allotments"])
        assert not leader.get(f"{PREFIX}/plan")["pools"][0]["connected"]
        follower.worker()
        wait_for(lambda: leader.get(f"{PREFIX}/plan")["pools"][0]["connected"])
        wait_for(lambda: follower.get(f"{PREFIX}/plan")["pools"][0]["connected"])
        assert "batchsched_replans_asked_total" in leader.http.get("/metrics").text


def test_two_servers_hand_out_no_more_than_the_plans_share(postgres_url: str, tmp_path: Path) -> None:
    clock = ManualClock(NOW)
    with two_servers(tmp_path, postgres_url, clock, server__chunk_lines=5, server__lease_s=1e6) as (leader, follower):
        workers = [server.worker() for server in (leader, follower) for _ in range(6)]
        assert not any(worker.claim() for worker in workers)  # but now it is known what their engines have loaded
        batch_id = leader.submit(requests(4000), batchsched={"deadline": "90d"})["id"]
        leader.until(batch_id, "in_progress")
        published = leader.runtime.scheduler.plan_now()
        share = sum(a.requests for a in published.plan.of(batch_id) if a.start_s <= 0)
        assert 50 < share < 2000
        taken = _side_by_side([partial(_all_of, worker) for worker in workers])
        chunks = [lease["chunk_id"] for leases in taken for lease in leases]
        assert len(chunks) == len(set(chunks))
        assert share <= 5 * len(chunks) < share + 5
        again = leader.runtime.scheduler.plan_now()  # a new plan counts what its workers hold already
        share = sum(a.requests for a in again.plan.of(batch_id) if a.start_s <= 0)
        more = _side_by_side([partial(_all_of, worker) for worker in workers])
        assert 5 * (len(chunks) + sum(map(len, more))) < share + 10


def _all_of(worker: Any) -> list[dict[str, Any]]:
    taken: list[dict[str, Any]] = []
    while leases := worker.claim(2):
        taken += leases
    return taken


def _into(results: list[list[dict[str, Any]]], step: Callable[[], list[dict[str, Any]]]) -> None:
    results.append(step())


def _side_by_side(steps: list[Callable[[], list[dict[str, Any]]]]) -> list[list[dict[str, Any]]]:
    results: list[list[dict[str, Any]]] = []
    threads = [threading.Thread(target=partial(_into, results, step)) for step in steps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == len(steps)
    return results


def test_a_stale_leaders_plan_is_refused(postgres_url: str, tmp_path: Path) -> None:
    with live_server(tmp_path, server__database_url=postgres_url) as server:
        server.until(server.submit(requests(5))["id"], "in_progress")
        before = wait_for(lambda: server.runtime.scheduler.published)
        with server.runtime.database.write() as connection:
            connection.execute(leadership.update().values(epoch=leadership.c.epoch + 1))
        refused = server.runtime.scheduler.plan_now()
        assert refused.id == 0
        with server.runtime.database.read() as connection:
            newest = plans.newest(connection)
        assert server.runtime.scheduler.published is not refused
        assert newest >= before.id


@pytest.mark.slow
def test_a_batch_goes_on_at_the_follower_when_the_leader_is_killed(postgres_url: str, tmp_path: Path) -> None:
    with Stage(tmp_path, lease_s=10.0, chunk_lines=4, delay_s=0.3) as stage:
        port = free_port()
        url = {"BATCHSCHED_SERVER_DATABASE_URL": postgres_url}
        leader = stage.server(extra=url)
        stage.start([*BATCHSCHED, "serve", "--config", str(stage.config), "--port", str(port)], "follower", url)
        stage.url = f"http://127.0.0.1:{port}"
        wait_for(lambda: stage.answers(stage.url))
        stage.engine()
        stage.worker()
        with httpx.Client(base_url=stage.url, timeout=PATIENCE_S) as client:
            upload = client.post("/v1/files", files={"file": ("in.jsonl", tagged(80))}, data={"purpose": "batch"}).json()
            body = {"input_file_id": upload["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
            batch_id = client.post("/v1/batches", json=body).json()["id"]
            wait_for(lambda: client.get(f"/v1/batches/{batch_id}").json()["request_counts"]["completed"] >= 8)
            end(leader, signal.SIGKILL)
            done = wait_for(lambda: _in_state(client, batch_id, "completed"))
        assert done["request_counts"] == {"total": 80, "completed": 80, "failed": 0}
    assert max(stage.computed().values()) == 1
    database = Database(postgres_url)
    with database.read() as connection:
        newest = plans.latest(connection)
    database.close()
    assert newest is not None
    assert newest["epoch"] >= 2


def _in_state(client: httpx.Client, batch_id: str, state: str) -> dict[str, Any] | None:
    found: dict[str, Any] = client.get(f"/v1/batches/{batch_id}").json()
    return found if found["status"] == state else None


SOURCE = """
[forecast.sources.grid]
kind = "gb"
zones = {{ GB = "national" }}
base_url = "{url}"
min_interval_s = 0
refresh_s = 0.5
"""


def test_only_the_leader_asks_for_forecasts_and_who_takes_over_goes_on(postgres_url: str, tmp_path: Path) -> None:
    """Each server has a provider of its own to ask, that says the same; the archive's folder is shared."""
    began = datetime.now(UTC)
    mine, theirs = (FakeProvider("gb", "", began) for _ in range(2))
    url = {"BATCHSCHED_SERVER_DATABASE_URL": postgres_url}
    with closing(mine), closing(theirs), Stage(tmp_path, more=SOURCE.format(url=mine.url)) as stage:
        leader = stage.server(extra=url)
        wait_for(lambda: mine.asked)
        other = tmp_path / "other.toml"
        other.write_text(stage.config.read_text().replace(mine.url, theirs.url))
        stage.port = free_port()
        stage.start([*BATCHSCHED, "serve", "--config", str(other), "--port", str(stage.port)], "follower", url)
        stage.url = f"http://127.0.0.1:{stage.port}"
        wait_for(lambda: stage.answers(stage.url))
        wait_for(lambda: _said_by(stage.url))
        learnt = HTTP.post(f"{stage.url}{PREFIX}/forecasts/GB/train")
        assert learnt.status_code == 200, learnt.text
        assert learnt.json()["known_h"] >= 40
        asked = len(mine.asked)
        wait_for(lambda: len(mine.asked) >= asked + 6)
        assert not theirs.asked
        end(leader, signal.SIGKILL)
        wait_for(lambda: theirs.asked)
        asked = len(mine.asked)  # what the dead one sent at last was heard by now
        wait_for(lambda: len(theirs.asked) >= 6)
        assert len(mine.asked) == asked
        assert _said_by(stage.url) == {"grid"}
        switches = (tmp_path / "data" / "forecasts" / "switches.jsonl").read_text().split()
        assert len(switches) == len(set(switches))
    archive = Archive(tmp_path / "data" / "forecasts")
    now = datetime.now(UTC)
    grid = archive.receipts("GB", began - timedelta(days=1), now, as_of=now, provider="grid")
    assert len({one.forecast.issued_at for one in grid}) == len(grid) >= 4
    lines = [json.loads(line.partition(b" ")[2]) for line in _journal(tmp_path / "data" / "forecasts")]
    slots = [tuple(slot) for kind, *said in lines if kind == "measured" for slot in said[2]]  # after feed and receipt
    assert len(slots) == len(set(slots)) >= 90


def _said_by(url: str) -> set[str]:
    found = HTTP.get(f"{url}{PREFIX}/forecasts").json()["data"]
    return {feed["provider"] for feed in found if feed["newest_issue_at"] and feed["realised_until"]}


def _journal(folder: Path) -> list[bytes]:
    return [line for path in (folder / "journal").glob("*.log") for line in path.read_bytes().splitlines() if line]


# -- the rows, on both databases --


def test_tallies_count_from_the_look_that_a_plan_was_made_from(database: Database) -> None:
    with database.write() as connection:
        tallies.add(connection, "b", "p", 10)
        tallies.add(connection, "b", "p", 5)
        tallies.add(connection, "gone", "p", 7)
    with database.read() as connection:
        seen = tallies.of_all(connection)
    assert seen == {("b", "p"): 15, ("gone", "p"): 7}
    with database.write() as connection:  # while the plan was being made
        tallies.add(connection, "b", "p", 3)
        tallies.add(connection, "b", "q", 2)
    with database.write() as connection:
        tallies.rebase(connection, {("b", "p"): 4.0, ("c", "p"): 6.0}, seen)
        assert tallies.of_all(connection) == {("b", "p"): 7, ("b", "q"): 2, ("c", "p"): 6}
        assert tallies.of_pool(connection, "p") == {"b": 7, "c": 6}


def test_tallies_of_claims_side_by_side_add_up(database: Database) -> None:
    def add() -> list[dict[str, Any]]:
        for _ in range(10):
            with database.write() as connection:
                tallies.take_turns(connection, "p")
                before = tallies.of_pool(connection, "p").get("b", 0.0)
                tallies.add(connection, "b", "p", 1)
                assert tallies.of_pool(connection, "p")["b"] == before + 1
        return []

    _side_by_side([add] * 4)
    with database.read() as connection:
        assert tallies.of_all(connection) == {("b", "p"): 40}


def test_shares_are_charged_and_newcomers_begin_level(database: Database) -> None:
    def settle(*active: str) -> dict[str, float]:
        with database.write() as connection:
            shares.settle(connection, set(active), arrivals)
            return shares.served(connection)

    def charge(tenant: str, served_s: float) -> None:
        with database.write() as connection:
            shares.charge(connection, tenant, served_s)

    assert settle("a") == {"a": 0.0}
    charge("a", 30.0)
    charge("a", 20.0)
    assert settle("a", "b") == {"a": 50.0, "b": 50.0}
    charge("b", 10.0)
    assert settle("b") == {"a": 50.0, "b": 60.0}
    charge("b", 100.0)
    assert settle("a", "b") == {"a": 160.0, "b": 160.0}
    assert settle() == {"a": 160.0, "b": 160.0}
    assert settle("c") == {"a": 160.0, "b": 160.0, "c": 160.0}


def test_plans_are_published_by_who_leads_and_pruned_by_age(database: Database) -> None:
    with database.write() as connection:
        assert plans.newest(connection) == 0
        numbers = [plans.add(connection, NOW + timedelta(days=day), {"day": day}) for day in range(5)]
        assert plans.newest(connection) == numbers[-1]
        assert (plans.latest(connection, by=NOW + timedelta(days=2)) or {})["body"] == {"day": 2}
        assert plans.prune(connection, NOW + timedelta(days=2)) == 2
        assert plans.prune(connection, NOW + timedelta(days=99)) == 2  # never the one in force
        assert (plans.latest(connection) or {})["body"] == {"day": 4}
        connection.execute(leadership.insert().values(id=1, epoch=7, server_id="s", since=NOW))
        assert plans.add(connection, NOW, {}, epoch=6) is None
        assert plans.add(connection, NOW, {}, epoch=7) == plans.newest(connection)
