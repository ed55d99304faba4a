"""What would make an infeasible batch feasible: every option that is told holds when it is taken."""

from __future__ import annotations

from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from batchsched.clock import ManualClock
from batchsched.planner import make_plan
from batchsched.planner.advice import options
from batchsched.planner.verdict import verdict
from batchsched.units import from_iso
from batchsched.wire import PREFIX
from tests.live import LiveServer, live_server, requests
from tests.planner_cases import fleet_problem

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
CONFIG = """
[sites.home]
zone = "Z"
[sites.north]
zone = "N"
[pools.local]
gpu = "cpu"
[pools.north]
site = "north"
gpu = "cpu"
count = 12
[models.big]
parameters_b = 1
[models.middle]
parameters_b = 0.1
[models.tiny]
parameters_b = 0.01
[planner]
solver = "greedy"
[server]
chunk_lines = 100
"""


@pytest.fixture
def server(tmp_path: Path) -> Generator[LiveServer]:
    with live_server(tmp_path, CONFIG, clock=ManualClock(NOW)) as live:
        yield live


def _judged(server: LiveServer, **ours: Any) -> dict[str, Any]:
    batch_id = server.submit(requests(2000, model="big"), batchsched=ours)["id"]
    found: dict[str, Any] = server.until(batch_id, "in_progress")["batchsched"]["verdict"]
    server.post(f"/v1/batches/{batch_id}/cancel")
    server.until(batch_id, "cancelled")
    return found


def test_each_option_that_a_verdict_names_would_do(server: LiveServer) -> None:
    calm = _judged(server, deadline="30d", sites=["home"])
    assert calm["feasible"]
    assert calm["options"] == []
    needed_s = (from_iso(calm["expected_finish_at"]) - NOW).total_seconds()
    asked: dict[str, Any] = {"deadline": f"{int(0.6 * needed_s)}s", "sites": ["home"]}
    tight = _judged(server, **asked)
    assert not tight["feasible"]
    found = {option["kind"]: option for option in tight["options"]}
    assert list(found) == ["deadline", "sites", "model", "pool"]
    assert found["sites"]["sites"] == ["home", "north"]
    assert found["model"]["model"] == "middle"  # the tiny one would do as well, but is further from what was asked for
    assert (found["pool"]["pool"], found["pool"]["replicas"]) == ("local", 8)
    assert "the sites home and north, so would accepting the model middle, so would 8 more replicas" in tight["reason"]
    changes = ({"deadline": found["deadline"]["deadline_at"]}, {"sites": ["home", "north"]}, {"models": ["middle"]})
    for kind, change in zip(("deadline", "sites", "model"), changes, strict=True):
        with_it = _judged(server, **asked | change)
        assert with_it["feasible"], kind
        assert with_it["probability"] >= found[kind]["probability"] - 0.01


def test_another_zone_is_an_option_and_a_site_comes_with_its_zone(server: LiveServer) -> None:
    calm = _judged(server, deadline="30d", zones=["Z"])
    asked = {"deadline": f"{int(0.6 * (from_iso(calm['expected_finish_at']) - NOW).total_seconds())}s"}
    by_zone = {option["kind"]: option for option in _judged(server, **asked, zones=["Z"])["options"]}
    assert by_zone["zones"]["zones"] == ["Z", "N"]
    assert "sites" not in by_zone
    tight = _judged(server, **asked, zones=["Z"], sites=["home"])
    by_both = {option["kind"]: option for option in tight["options"]}
    assert (by_both["sites"]["sites"], by_both["sites"]["zones"]) == (["home", "north"], ["Z", "N"])
    assert "zones" not in by_both  # none of its sites lies there
    assert "the sites home and north with the zones Z and N" in tight["reason"]


def test_pools_that_operators_closed_are_named_and_give_back_what_they_have(server: LiveServer) -> None:
    worker = server.worker("local", ready="big")
    batch_id = server.submit(requests(200, model="big"), batchsched={"sites": ["home"]})["id"]
    server.until(batch_id, "in_progress")
    server.runtime.scheduler.plan_now()
    lease = worker.lease()

    def stopped() -> dict[str, str]:
        body = {"leases": [{"chunk_id": lease["chunk_id"], "token": lease["token"]}]}
        found: dict[str, str] = server.post(f"{PREFIX}/workers/{worker.worker_id}/heartbeat", body)["stop"]
        return found

    server.runtime.scheduler.stop()  # no plan tells of what is closed now
    server.post(f"{PREFIX}/pools/local/cordon")
    assert stopped() == {}
    server.post(f"{PREFIX}/pools/local/drain")
    assert stopped() == {lease["chunk_id"]: "window_closed"}
    server.runtime.scheduler.plan_now()
    risk = server.batch(batch_id)["batchsched"]["risk"]
    assert "Pool local could work on it, but is closed: open pool local." in risk["reason"]
    said = " ".join(server.get(f"{PREFIX}/batches/{batch_id}/explain")["sentences"])
    assert "Pool local is drained since" in said
    server.post(f"{PREFIX}/workers/{worker.worker_id}/bye")
    assert server.batch(batch_id)["batchsched"]["progress"]["waiting_for"] == "pool local to be opened"


def test_a_batch_that_names_a_model_nobody_serves_at_its_sites_is_told_where_it_is(server: LiveServer) -> None:
    """And nothing is told of a batch that no change would save."""
    hopeless = _judged(server, deadline="1s")
    assert [option["kind"] for option in hopeless["options"]] == ["deadline"]
    assert hopeless["probability"] == 0


@pytest.mark.parametrize("seed", range(4))
def test_options_hold_beside_all_other_jobs(seed: int) -> None:
    problem = fleet_problem(seed, jobs=12, load=2.5)
    plan = make_plan(problem, "greedy")
    judged = {job.batch_id: verdict(problem, plan, job.batch_id) for job in problem.jobs}
    missed = [job for job in problem.jobs if not judged[job.batch_id].feasible]
    assert missed
    for job in missed:
        assert judged[job.batch_id].options == options(problem, job)
        for option in judged[job.batch_id].options:
            if option.deadline_s is None or option.deadline_s > problem.end_s:
                continue
            later = msgspec.structs.replace(job, deadline_s=option.deadline_s)
            moved = msgspec.structs.replace(problem, jobs=[later if other is job else other for other in problem.jobs])
            assert verdict(moved, plan, job.batch_id).feasible
