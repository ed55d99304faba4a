"""A pool whose GPUs are ill or slow is noticed: told to operators, planned anew, and its work moves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from batchsched.client import Client
from batchsched.clock import ManualClock
from batchsched.server.health import STEADY
from batchsched.wire import PREFIX
from tests.inprocess import in_process
from tests.live import HandWorker, LiveServer, live_server, requests, wait_for
from tests.test_plans import command
from tests.two_pools import answers, two_pools

TWO = two_pools(2)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    with live_server(tmp_path, TWO, ManualClock(datetime.now(UTC))) as running:
        yield running


def beat(worker: HandWorker, *cards: dict[str, Any]) -> None:
    worker.server.post(f"{PREFIX}/workers/{worker.worker_id}/heartbeat", {"leases": [], "cards": list(cards)})


def ills(server: LiveServer, pool: str) -> list[str]:
    found: list[str] = next(one["ills"] for one in server.get(f"{PREFIX}/pools")["data"] if one["id"] == pool)
    return found


def test_what_a_card_suffers_from_is_told_until_it_is_well(server: LiveServer) -> None:
    worker, well = server.worker("old"), {"uuid": "GPU-0", "name": "V100"}
    beat(worker, well)
    assert ills(server, "old") == []
    beat(worker, well | {"throttled": ["heat"], "temperature_c": 91}, {"uuid": "GPU-1", "uncorrected_errors": 2})
    said = ills(server, "old")
    assert len(said) == 3
    assert said[0] == f"V100 GPU-0: slowed by heat at 91 C (worker {worker.worker_id} on test)"
    assert "GPU-1: 2 memory errors that could not be corrected" in said[1]
    assert ills(server, "new") == []
    server.post(f"{PREFIX}/workers/{worker.worker_id}/heartbeat", {"leases": []})  # an older worker says nothing of cards
    assert len(ills(server, "old")) == 3  # and that it gets no work
    beat(worker, well)
    assert len(ills(server, "old")) == 3  # not well before it was for a while
    server.advance(STEADY.total_seconds())
    beat(worker, well)
    assert ills(server, "old") == []


def test_a_card_that_falls_ill_asks_for_a_new_plan(server: LiveServer) -> None:
    worker = server.worker("old")
    beat(worker, {"uuid": "GPU-0"})
    server.runtime.scheduler.plan_now()
    made_at = server.get(f"{PREFIX}/plan")["made_at"]
    server.advance(1)
    beat(worker, {"uuid": "GPU-0", "throttled": ["hardware"]})

    def told() -> bool:
        plan = server.get(f"{PREFIX}/plan")
        return bool(plan["made_at"] != made_at and any("slowed by its hardware" in note for note in plan["notes"]))

    wait_for(told)


def test_a_card_that_heat_slows_again_and_again_makes_one_new_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, pokes = ManualClock(datetime(2026, 11, 23, tzinfo=UTC)), list[str]()
    hot: dict[str, Any] = {"uuid": "GPU-0", "throttled": ["heat"]}
    cool: dict[str, Any] = {"uuid": "GPU-0"}
    with in_process() as make, closing(make(tmp_path, clock, TWO)) as server:
        worker = server.post(f"{PREFIX}/workers", {"pool": "old", "host": "test", "pid": 1}).json()["worker_id"]
        monkeypatch.setattr(server.runtime.scheduler, "poke", lambda: pokes.append("poke"))

        def told(*cards: dict[str, Any]) -> list[str]:
            for card in cards:
                clock.advance(20)
                server.post(f"{PREFIX}/workers/{worker}/heartbeat", {"leases": [], "cards": [card]})
            found: list[str] = server.json(f"{PREFIX}/pools")["data"][0]["ills"]
            return found

        assert told(cool, *[hot, cool, cool, hot, cool] * 4) == [f"GPU-0: slowed by heat (worker {worker} on test)"]
        assert pokes == ["poke"]
        assert told(*[cool] * 15) == []  # five minutes and more
        assert pokes == ["poke"] * 2


def test_who_has_a_broken_card_gets_no_work_until_it_is_well_or_may_go_on(server: LiveServer) -> None:
    batch_id = server.submit(requests(20), batchsched={"deadline": "20h"})["id"]
    server.post(f"{PREFIX}/batches/{batch_id}/start")
    old, other, new = server.worker("old"), server.worker("old"), server.worker("new")
    beat(old, {"uuid": "GPU-0", "uncorrected_errors": 2})
    beat(other, {"uuid": "GPU-1"})
    beat(new)
    server.runtime.scheduler.plan_now()
    assert old.ask() == {"leases": [], "prepare": None, "next_at": None, "poll_s": 5.0, "keep": False, "ceiling": None}
    other.finish(other.lease())  # the pool goes on
    beat(other, {"uuid": "GPU-1", "lost": True})
    assert server.runtime.scheduler.plan_now().notes[-1] == (
        f"Pool old: worker {other.worker_id} on test gets no work: reset or replace the GPU, or let it go on as it is by "
        "`batchsched pool open old`."
    )
    assert {one["pool"] for one in server.get(f"{PREFIX}/plan")["allotments"]} == {"new"}
    server.post(f"{PREFIX}/pools/old/open")
    server.runtime.scheduler.plan_now()
    old.finish(old.lease())
    assert other.claim() == []  # nobody can let a card pass that is not there
    again = server.worker("old")
    beat(again, {"uuid": "GPU-0", "uncorrected_errors": 2})
    again.finish(again.lease())  # a worker that starts anew on the same card
    beat(again, {"uuid": "GPU-0", "uncorrected_errors": 3})
    assert again.claim() == []
    server.advance(STEADY.total_seconds())
    beat(again, {"uuid": "GPU-0"})
    beat(new)
    server.runtime.scheduler.plan_now()
    again.finish(again.lease())


def test_a_card_that_breaks_again_after_a_reset_is_let_pass_no_more(server: LiveServer) -> None:
    """Its errors are counted from the reset: one new error is fewer than the five that an operator let pass."""
    batch_id = server.submit(requests(20), batchsched={"deadline": "20h"})["id"]
    server.post(f"{PREFIX}/batches/{batch_id}/start")
    first, name = server.worker("old"), "GPU-0"
    beat(first, {"uuid": name, "uncorrected_errors": 5})
    with Client(server.url) as client:
        said = f"GPU GPU-0 may go on with 5 memory errors (worker {first.worker_id} on test)"
        assert client.pools.open("old").pardoned == (said,)
        assert client.pools.open("old").pardoned == (), "that was said already"
        assert [one.pardoned for one in client.pools.list()] == [(), ()]
    server.runtime.scheduler.plan_now()
    first.finish(first.lease())
    beat(first, {"uuid": name, "uncorrected_errors": 0})
    server.runtime.scheduler.plan_now()
    first.finish(first.lease())  # well at once: nobody waits for a card that was let pass while it was worse
    again = server.worker("old")
    beat(again, {"uuid": name, "uncorrected_errors": 0})
    for worker in (first, again):
        beat(worker, {"uuid": name, "uncorrected_errors": 1})
        assert worker.claim() == []
    third = server.worker("old")
    beat(third, {"uuid": name, "uncorrected_errors": 1})
    assert third.claim() == [], "nor does a worker that starts anew know of the pardon"


def test_opening_a_pool_tells_on_the_command_line_which_cards_go_on(server: LiveServer) -> None:
    worker = server.worker("old")
    beat(worker, {"uuid": "GPU-0", "uncorrected_errors": 2}, {"uuid": "GPU-1", "lost": True})
    said = command(server, "pool", "open", "old")
    assert f"old: GPU GPU-0 may go on with 2 memory errors (worker {worker.worker_id} on test), until there are more" in said
    assert "GPU GPU-1 may" not in said, "nobody can let a card pass that is not there"


def work(worker: HandWorker, chunks: int, busy_s: float, at: datetime) -> datetime:
    """Chunks that took so long each, one after the other from then on."""
    for _ in range(chunks):
        lease = worker.lease()
        lines = set(range(lease["first_line"], lease["first_line"] + lease["lines"])) - set(lease["done"])
        at += timedelta(seconds=busy_s)
        worker.server.post(f"{PREFIX}/leases/{lease['chunk_id']}/results", answers(lease["token"], sorted(lines), at, busy_s))
        worker.server.post(f"{PREFIX}/leases/{lease['chunk_id']}/finish", {"token": lease["token"]})
    return at


@pytest.mark.slow
def test_work_moves_off_a_pool_that_slows(server: LiveServer) -> None:
    """Eight chunks as ever and five at a third of the speed, of a batch that either pool may do."""
    at = datetime.now(UTC) - timedelta(minutes=20)
    batch_id = server.submit(requests(200), batchsched={"deadline": "20h"})["id"]
    server.post(f"{PREFIX}/batches/{batch_id}/start")
    old, new = server.worker("old"), server.worker("new")
    at = work(old, 8, 20.0, at)
    work(new, 6, 20.0, at - timedelta(minutes=2))

    def share() -> float:
        """Of the planned seconds that are the old pool's."""
        server.runtime.scheduler.plan_now()
        planned = server.get(f"{PREFIX}/plan")["allotments"]
        mine = sum(one["requests"] for one in planned if one["pool"] == "old")
        return float(mine / (sum(one["requests"] for one in planned) or 1))

    before = share()
    work(old, 5, 60.0, at)
    after = share()
    profile = next(one for one in server.get(f"{PREFIX}/profiles")["profiles"] if one["pool"] == "old")
    assert profile["drift_factor"] == pytest.approx(3.0, rel=0.2)
    assert before > 0.5 > after
