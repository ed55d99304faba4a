"""What happens to the fleet makes a new plan at once: a worker that falls silent, a chunk that is slower than was thought."""

from __future__ import annotations

from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from batchsched.clock import ManualClock
from batchsched.wire import PREFIX
from tests.live import HandWorker, LiveServer, live_server, requests, wait_for

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
CONFIG = """
[sites.home]
zone = "WORLD"
[pools.local]
gpu = "cpu"
count = 2
[models.tiny]
parameters_b = 1
[planner]
solver = "greedy"
replan_s = 100000
slot_s = 43200
"""


@pytest.fixture
def server(tmp_path: Path) -> Generator[LiveServer]:
    with live_server(tmp_path, CONFIG, clock=ManualClock(NOW)) as live:
        yield live


@pytest.fixture
def pokes(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Each time that somebody asks for a new plan from now on."""
    asked: list[str] = []
    monkeypatch.setattr(server.runtime.scheduler, "poke", lambda: asked.append("poke"))
    return asked


def _beat(worker: HandWorker, *leases: dict[str, object]) -> None:
    held = [{"chunk_id": lease["chunk_id"], "token": lease["token"]} for lease in leases]
    worker.server.post(f"{PREFIX}/workers/{worker.worker_id}/heartbeat", {"leases": held})


def test_an_idle_worker_that_falls_silent_is_missed_at_once(server: LiveServer, pokes: list[str]) -> None:
    clock = server.runtime.clock
    assert isinstance(clock, ManualClock)
    silent, alive = server.worker(), server.worker()
    server.runtime.lifecycle.round()
    pokes.clear()
    for _ in range(7):
        clock.advance(10)
        _beat(alive)
        server.runtime.lifecycle.round()
    assert pokes
    pokes.clear()
    _beat(silent)
    server.runtime.lifecycle.round()
    assert pokes
    pokes.clear()
    server.runtime.lifecycle.round()
    assert pokes == []


def test_a_chunk_that_is_slower_than_thought_makes_one_new_plan(server: LiveServer) -> None:
    clock = server.runtime.clock
    assert isinstance(clock, ManualClock)
    worker = server.worker()
    batch_id = server.submit(requests(100), batchsched={"deadline": "24h"})["id"]
    server.until(batch_id, "in_progress")
    server.runtime.scheduler.plan_now()
    lease = worker.lease()
    first = wait_for(lambda: server.runtime.scheduler.published)
    expected_s = first.jobs[batch_id].seconds_on["local"]
    asked: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server.runtime.scheduler, "poke", lambda: asked.append("poke"))
        _beat(worker, lease)
        for share, told in ((0.9, 0), (0.5, 0), (0.2, 1), (0.2, 1), (5.0, 1)):
            clock.advance(share * expected_s)
            _beat(worker, lease)
            assert len(asked) == told, share
