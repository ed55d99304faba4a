"""A promised deadline that comes into doubt is told once, everywhere, with what would mend it; and so is that it holds again."""

from __future__ import annotations

import json
from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from batchsched.clock import ManualClock
from batchsched.planner import Plan
from batchsched.queue import deliveries
from batchsched.risks import Risks, in_doubt
from batchsched.server.webhooks import event
from batchsched.units import from_iso
from batchsched.wire import PREFIX
from tests.live import HandWorker, LiveServer, live_server, requests

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
CONFIG = """
[sites.home]
zone = "WORLD"
[pools.local]
gpu = "cpu"
count = 12
[models.big]
parameters_b = 1
[planner]
solver = "greedy"
[server]
chunk_lines = 100
lease_s = 100000
[webhooks.nobody_there]
url = "http://127.0.0.1:9/"
secret = "whsec_c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"
allow_private = true
events = ["batch.at_risk", "batch.recovered"]
"""


@pytest.fixture
def server(tmp_path: Path) -> Generator[LiveServer]:
    with live_server(tmp_path, CONFIG, clock=ManualClock(NOW)) as live:
        yield live


def _promised(server: LiveServer) -> tuple[str, list[HandWorker]]:
    """A batch that twelve workers make in time, and one would not."""
    workers = [server.worker() for _ in range(12)]
    batch_id = server.submit(requests(2000, model="big"), batchsched={"deadline": "15m"})["id"]
    assert server.until(batch_id, "in_progress")["batchsched"]["verdict"]["feasible"]
    server.runtime.scheduler.plan_now()
    assert _risk(server, batch_id) is None
    return batch_id, workers


def _risk(server: LiveServer, batch_id: str) -> dict[str, Any] | None:
    found: dict[str, Any] | None = server.batch(batch_id)["batchsched"]["risk"]
    return found


def _lose(server: LiveServer, workers: list[HandWorker]) -> None:
    for worker in workers:
        server.post(f"{PREFIX}/workers/{worker.worker_id}/bye")
    server.runtime.scheduler.plan_now()


def _events(server: LiveServer, batch_id: str) -> list[dict[str, Any]]:
    with server.runtime.database.read() as connection:
        return [json.loads(event(row)) for row in deliveries.of_batch(connection, batch_id)]


def _metric(server: LiveServer, name: str) -> float:
    lines = server.http.get("/metrics").text.splitlines()
    return next((float(line.split()[1]) for line in lines if line.startswith(f"batchsched_{name} ")), 0.0)


def test_a_lost_pool_puts_a_promise_at_risk_and_its_return_ends_that(server: LiveServer) -> None:
    batch_id, workers = _promised(server)
    _lose(server, workers[1:])
    risk = _risk(server, batch_id)
    assert risk is not None
    assert risk["probability"] < 0.98
    assert from_iso(risk["since"]) == NOW
    assert "now holds with a probability of" in risk["reason"]
    kinds = {option["kind"]: option for option in risk["options"]}
    assert from_iso(kinds["deadline"]["deadline_at"]) > from_iso(risk["deadline_at"])
    assert kinds["pool"]["replicas"] in (2, 4, 8)  # by how many were away when the server itself looked
    for _ in range(2):
        server.runtime.scheduler.plan_now()
    (told,) = _events(server, batch_id)
    assert told["type"] == "batch.at_risk"
    assert told["data"] == {"id": batch_id, "batchsched": risk}
    assert (_metric(server, "batches_at_risk"), _metric(server, "batches_worsened_total")) == (1, 1)
    entry = next(e for e in server.get(f"{PREFIX}/audit")["data"] if e["action"] == "batch.at_risk")
    assert (entry["actor"], entry["object_id"], entry["detail"]["probability"]) == ("scheduler", batch_id, risk["probability"])
    for _ in range(11):
        server.worker()
    server.runtime.scheduler.plan_now()
    assert _risk(server, batch_id) is None
    assert [told["type"] for told in _events(server, batch_id)] == ["batch.at_risk", "batch.recovered"]
    assert (_metric(server, "batches_at_risk"), _metric(server, "batches_worsened_total")) == (0, 1)


def test_servers_that_see_it_at_once_tell_it_once(server: LiveServer) -> None:
    batch_id, workers = _promised(server)
    before = server.runtime.scheduler.observer.look(NOW)
    _lose(server, workers[1:])
    scheduler = server.runtime.scheduler
    after, plan = scheduler.observer.look(NOW), Plan([], [])
    others = [Risks(server.runtime.database, scheduler.observer) for _ in range(2)]
    for other in others:
        other.look(after, plan)
    assert len(_events(server, batch_id)) == 1
    for other in others:
        other.look(before, plan)
    assert len(_events(server, batch_id)) == 2


def test_a_new_deadline_brings_a_new_verdict_and_ends_the_risk(server: LiveServer) -> None:
    batch_id, workers = _promised(server)
    _lose(server, workers[1:])
    assert _risk(server, batch_id) is not None
    later = server.post(f"{PREFIX}/batches/{batch_id}", {"deadline": "5h"})["batchsched"]
    assert later["verdict"]["feasible"]
    server.runtime.scheduler.plan_now()
    assert _risk(server, batch_id) is None
    sooner = server.post(f"{PREFIX}/batches/{batch_id}", {"deadline": "3m"})["batchsched"]
    assert not sooner["verdict"]["feasible"]
    server.runtime.scheduler.plan_now()
    assert _risk(server, batch_id) is None  # nothing is promised any more
    assert [told["type"] for told in _events(server, batch_id)] == ["batch.at_risk", "batch.recovered"]


@pytest.mark.slow
def test_one_that_is_paused_for_too_long_is_at_risk_until_it_has_more_time(server: LiveServer) -> None:
    batch_id, _ = _promised(server)
    server.post(f"{PREFIX}/batches/{batch_id}/pause")
    server.runtime.scheduler.plan_now()
    assert _risk(server, batch_id) is None
    clock = server.runtime.clock
    assert isinstance(clock, ManualClock)
    clock.advance(14.5 * 60)
    server.runtime.scheduler.plan_now()
    risk = _risk(server, batch_id)
    assert risk is not None
    assert "even if it is resumed at once" in risk["reason"]
    server.post(f"{PREFIX}/batches/{batch_id}", {"deadline": "5h"})
    server.runtime.scheduler.plan_now()
    assert _risk(server, batch_id) is None


def test_one_that_is_paused_alone_is_judged_by_what_opens_before_its_deadline(tmp_path: Path) -> None:
    later = CONFIG + '[windows.later]\npool = "local"\ncron = "0 17 * * *"\nduration = "2h"\n'
    with live_server(tmp_path, later, clock=ManualClock(NOW)) as server:
        server.worker()
        batch_id = server.submit(requests(10, model="big"), batchsched={"deadline": "8h"})["id"]
        assert server.until(batch_id, "in_progress")["batchsched"]["verdict"]["feasible"]
        server.post(f"{PREFIX}/batches/{batch_id}/pause")
        server.runtime.scheduler.plan_now()
        assert _risk(server, batch_id) is None


def test_many_are_told_in_one_transaction_and_the_first_get_advice(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    batch_id, workers = _promised(server)
    other_id = server.submit(requests(1000, model="big"), batchsched={"deadline": "20m"})["id"]
    assert server.until(other_id, "in_progress")["batchsched"]["verdict"]["feasible"]
    monkeypatch.setattr("batchsched.judging.JOBS_ADVISED", 1)
    written: list[int] = []
    tell = Risks._tell  # pyright: ignore[reportPrivateUsage]

    def noted(*known: Any) -> None:
        written.append(len(known[2]))
        tell(*known)

    monkeypatch.setattr(Risks, "_tell", noted)
    _lose(server, workers[1:])
    assert written == [2]
    first, second = (_risk(server, name) or {} for name in (batch_id, other_id))
    assert "would do" in first["reason"]
    assert "would do" not in second["reason"]


@pytest.mark.parametrize(
    ("confidence", "chance", "doubt"), [(0.99, 0.981, False), (0.99, 0.979, True), (0.5, 0.26, False), (0.5, 0.24, True)]
)
def test_a_promise_isin_doubt_when_a_miss_is_twice_as_likely_as_allowed(confidence: float, chance: float, doubt: bool) -> None:
    assert in_doubt(chance, confidence) == doubt
