"""Windows and recurring jobs of two servers on one PostgreSQL: what is decided and released holds at both, and once."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest

from batchsched import Client
from batchsched.clock import ManualClock
from batchsched.server import recurring
from batchsched.wire import PREFIX
from tests.live import HandWorker, LiveServer, live_server, requests, wait_for
from tests.test_window_routes import CONFIG, NOW, at, beat, forecast, give_back

pytestmark = pytest.mark.slow
T = TypeVar("T")


@contextmanager
def two_servers(folder: Path, url: str, clock: ManualClock) -> Generator[tuple[LiveServer, LiveServer, ExitStack]]:
    """The first one leads, and goes with the stack."""
    shared = {
        "server__database_url": url,
        "server__data_dir": str(folder / "shared"),
        "server__inputs_dir": str(folder / "inputs"),
        "server__inputs_settle_s": 0,
    }
    (folder / "inputs" / "default").mkdir(parents=True)
    for name in "12":
        forecast(folder / name, [500, 400, 300, 200, *[300] * 140])
    with ExitStack() as leading:
        first = leading.enter_context(live_server(folder / "1", CONFIG, clock, **shared))
        with live_server(folder / "2", CONFIG, clock, **shared) as second:
            yield first, second, leading


def at_once(steps: Sequence[Callable[[], T]]) -> list[T]:
    """What each gives, all begun together."""
    with ThreadPoolExecutor(len(steps)) as pool:
        return [one.result() for one in [pool.submit(step) for step in steps]]


def test_no_decision_of_two_operators_is_lost(postgres_url: str, tmp_path: Path) -> None:
    with (
        two_servers(tmp_path, postgres_url, ManualClock(NOW)) as (leader, follower, _),
        Client(leader.url) as here,
        Client(follower.url) as there,
    ):
        here.windows.add("nights", pool="local", cron="0 22 * * *", duration="1h")
        skips = [partial(client.windows.skip, "nights") for client in [here, there] * 5]
        at_once([*skips, partial(here.windows.extend, "nights", by="1h")])
        found = there.windows.retrieve("nights", openings=12)
        assert (found.state, found.closes_at) == ("open", at(13))
        assert [one.skipped for one in found.openings] == [False, *[True] * 10, False]


def test_a_part_of_a_pool_and_clean_hours_hold_at_both_servers(postgres_url: str, tmp_path: Path) -> None:
    """The forecast: 500, 400, 300 g/kWh from noon on."""
    clock = ManualClock(NOW)
    with two_servers(tmp_path, postgres_url, clock) as (leader, follower, _), Client(follower.url) as client:
        batch_id = leader.submit(requests(12), batchsched={"deadline": "60h"})["id"]
        leader.until(batch_id, "in_progress")
        follower.post(f"{PREFIX}/batches/{batch_id}/start")
        workers = [server.worker() for server in (leader, follower) for _ in range(2)]
        client.windows.add("half", pool="local", cron="0 * * * *", duration="1h", share=0.5)
        published = leader.runtime.scheduler.plan_now()
        assert {count for state in published.problem.pools for count in state.capacity} == {2.0}
        leases = at_once([worker.claim for worker in workers])
        held = [(worker, lease) for worker, each in zip(workers, leases, strict=True) for lease in each]
        assert len(held) == 2  # although all four asked at once
        assert [beat(leader, worker, lease) for worker, lease in held] == [{}, {}]
        client.windows.add("clean", pool="local", cron="0 * * * *", duration="1h", max_intensity_g_per_kwh=300)
        client.windows.pause("half")
        number = leader.runtime.scheduler.plan_now().id
        _follows(follower, number)
        for server in (leader, follower):
            assert [beat(server, worker, lease) for worker, lease in held] == [
                {lease["chunk_id"]: "window_closed"} for _, lease in held
            ]
        for worker, lease in held:
            give_back(worker.server, lease)
        assert [HandWorker(server, workers[0].worker_id).claim() for server in (leader, follower)] == [[], []]
        clock.advance(2 * 3600)
        _follows(follower, leader.runtime.scheduler.plan_now().id)
        again = at_once([worker.lease for worker in workers])
        assert {lease["attempt"] for lease in again} == {1}


def _follows(follower: LiveServer, number: int) -> None:
    wait_for(lambda: (plan := follower.runtime.scheduler.published) and plan.id >= number)


def test_a_recurring_job_is_released_once_by_whoever_leads(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recurring, "LOOK_AGAIN_S", 0.2)
    monkeypatch.setattr(recurring, "LEAD_S", 0.2)
    clock = ManualClock(NOW + timedelta(minutes=30))
    with two_servers(tmp_path, postgres_url, clock) as (leader, follower, leading), Client(follower.url) as client:
        (tmp_path / "inputs" / "default" / "in.jsonl").write_bytes(requests(2))
        client.schedules.add("job", cron="0 * * * *", file="in.jsonl", deadline="10h")
        clock.advance(3600)
        (one,) = wait_for(lambda: client.schedules.history("job"))
        with Client(leader.url) as elsewhere:
            assert [each.batch_id for each in elsewhere.schedules.history("job")] == [one.batch_id]
        assert one.batch_id
        follower.until(one.batch_id, "in_progress")
        follower.post(f"{PREFIX}/batches/{one.batch_id}/start")
        follower.worker().drain(one.batch_id)
        leading.close()
        assert client.schedules.retrieve("job").trouble is None
        clock.advance(3600)
        wait_for(lambda: len(client.schedules.history("job")) == 2)
        assert [(each.state, each.batch_status) for each in client.schedules.history("job")][1] == ("submitted", "completed")
        assert len(list(client.batches.list())) == 2
