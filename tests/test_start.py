"""Batches that are told to start now: planned as soon as there is room, leased at once, at no other deadline's cost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec
import pytest
from click.testing import CliRunner

from batchsched.cli.main import cli
from batchsched.client import AsyncClient, Client
from batchsched.clock import ManualClock
from batchsched.errors import Conflict, NotFound
from batchsched.planner import Problem, make_plan
from batchsched.planner.churn import settled
from batchsched.planner.fairness import Turns, Want
from batchsched.planner.last import standing
from batchsched.planner.uniform import one_each
from batchsched.planner.verify import verify
from batchsched.wire import PREFIX
from tests.live import EVENING, LiveServer, live_server, requests, wait_for
from tests.planner_cases import fleet_problem, job, pool, slots
from tests.test_fairness import want

NOW = datetime(2026, 5, 1, 19, tzinfo=UTC)
DIRTY_FIRST = [500.0] * 6 + [10.0] * 6


def _slots_of(problem: Problem, name: str, solver: Literal["cp-sat", "greedy", "at-once"] = "greedy") -> list[int]:
    plan = make_plan(problem, solver, work_s=0.2)
    verify(problem, plan)
    assert not plan.late
    return sorted({int(a.start_s // 900) for a in plan.of(name)})


@pytest.mark.parametrize("solver", ["greedy", "cp-sat", "at-once"])
def test_a_job_that_is_told_to_start_is_planned_at_once_and_no_other(solver: Literal["cp-sat", "greedy", "at-once"]) -> None:
    jobs = [job("other", 900.0, 10800.0), job("told", 1800.0, 10800.0, at_once=True)]
    problem = Problem(slots(12), [pool("a", DIRTY_FIRST)], jobs)
    assert _slots_of(problem, "told", solver) in ([0, 1], [1, 2] if solver == "at-once" else [0, 1])
    if solver != "at-once":
        assert min(_slots_of(problem, "other", solver)) >= 6


def test_it_takes_the_fastest_place_and_not_the_cleanest() -> None:
    pools = [pool("clean", [10.0] * 8), pool("dirty", [500.0] * 8)]
    told = job("told", {"clean": 3600.0, "dirty": 900.0}, 7200.0, at_once=True, max_replicas=1)
    assert make_plan(Problem(slots(8), pools, [told]), "greedy").of("told")[0].pool == "dirty"
    uniform = msgspec.structs.replace(told, uniform=True)
    assert one_each(Problem(slots(8), pools, [uniform])).jobs[0].pools == ["dirty"]


@pytest.mark.parametrize("solver", ["greedy", "cp-sat"])
def test_where_another_would_be_late_it_comes_right_after_it(solver: Literal["cp-sat", "greedy"]) -> None:
    jobs = [job("tight", 900.0, 900.0), job("told", 900.0, 10800.0, at_once=True)]
    problem = Problem(slots(12), [pool("a", DIRTY_FIRST)], jobs)
    assert _slots_of(problem, "tight", solver) == [0]
    assert _slots_of(problem, "told", solver) == [1]


def test_whatever_is_told_to_start_nobody_else_gets_later() -> None:
    for seed in range(8):
        problem = fleet_problem(seed, load=2.0)
        told = {one.batch_id for one in problem.jobs[::3]}
        jobs = [msgspec.structs.replace(one, at_once=one.batch_id in told) for one in problem.jobs]
        before, after = make_plan(problem, "greedy"), make_plan(msgspec.structs.replace(problem, jobs=jobs), "greedy")
        for name in {one.batch_id for one in jobs} - told:
            assert after.late.get(name, 0.0) <= before.late.get(name, 0.0) + 1e-2, (seed, name)


def test_a_limit_on_churn_does_not_hold_it_back() -> None:
    problem = Problem(slots(12), [pool("a", DIRTY_FIRST)], [job("told", 900.0, 10800.0)], churn=0.9)
    stood = standing(make_plan(problem, "greedy"), 0.0)
    told = msgspec.structs.replace(problem, jobs=[job("told", 900.0, 10800.0, at_once=True)], standing=stood)
    assert settled(told, make_plan(told, "greedy")).of("told")[0].slot_index == 0


def test_deadlines_in_danger_and_other_tenants_keep_their_turn() -> None:
    told = {"at_once": True, "deadline_s": 500.0}
    assert _first(want("told", "x", **told), want("other", "x", deadline_s=100.0, priority=9)) == "told"
    assert _first(want("told", "x", **told), want("due", "x", due=True)) == "due"
    assert _first(want("told", "x", **told), want("other", "y", requests=5.0), served={"x": 10.0}) == "other"


def _first(*wants: Want, served: dict[str, float] | None = None) -> str:
    first, _ = Turns(wants, served or {}, {}).pick({"m"})
    assert first is not None
    return first.batch_id


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """In the evening; the grid will be cleaner."""
    with live_server(tmp_path_factory.mktemp("start"), EVENING, ManualClock(NOW)) as live:
        yield live


def _waiting(server: LiveServer) -> str:
    """A batch that waits for cleaner power; a worker must be there already."""
    batch_id: str = server.submit(requests(2), batchsched={"deadline": "24h"})["id"]
    wait_for(lambda: server.batch(batch_id)["batchsched"]["progress"]["waiting_until"])
    return batch_id


def test_a_batch_that_waits_is_leased_at_once_when_it_is_told_to_start(server: LiveServer) -> None:
    worker, batch_id, other = server.worker(), _waiting(server), _waiting(server)
    assert worker.claim() == []
    done = CliRunner().invoke(cli, ["start", batch_id, "--server", server.url, "--json"], catch_exceptions=False)
    told = json.loads(done.output)["batchsched"]["started"]
    assert told["since"] == "2026-05-01T19:00:00Z"
    assert told["planned_at"] > "2026-05-01T20"
    with Client(server.url) as client:
        again = client.batches.start(batch_id).batchsched.started
    assert again is not None
    assert again.since == NOW, "telling it twice changes nothing"
    leases = wait_for(lambda: worker.claim(max_chunks=5))
    assert {lease["batch_id"] for lease in leases} == {batch_id}, f"{other} still waits"
    said = " ".join(server.get(f"{PREFIX}/batches/{batch_id}/explain")["sentences"])
    assert "told to start now at 01 May 19:00:00 UTC; by the plan it would have waited until" in said
    held = {"leases": [{"chunk_id": leases[0]["chunk_id"], "token": leases[0]["token"]}]}
    assert server.post(f"{PREFIX}/workers/{worker.worker_id}/heartbeat", held)["stop"] == {}
    worker.finish(leases[0])
    server.until(batch_id, "completed")
    with Client(server.url) as client, pytest.raises(Conflict, match="completed"):
        client.batches.start(batch_id)


def test_a_paused_batch_is_to_be_resumed_first(server: LiveServer) -> None:
    async def start(batch_id: str) -> bool:
        async with AsyncClient(server.url) as client:
            return (await client.batches.start(batch_id)).batchsched.started is not None

    with Client(server.url) as client:
        batch_id = server.submit(requests(1))["id"]
        client.batches.pause(batch_id)
        with pytest.raises(Conflict, match="paused"):
            client.batches.start(batch_id)
        client.batches.resume(batch_id)
        assert asyncio.run(start(batch_id))
        client.batches.cancel(batch_id)
        with pytest.raises(NotFound):
            client.batches.start("batch_unknown")


def test_what_was_told_outlives_the_server(tmp_path: Path) -> None:
    clock = ManualClock(NOW)
    with live_server(tmp_path, EVENING, clock) as server, Client(server.url) as client:
        server.worker()
        client.batches.start(_waiting(server))
    with live_server(tmp_path, EVENING, clock) as server:
        assert server.worker().lease()
