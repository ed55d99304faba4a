"""What launchers are told to run: by the plan, a lead before it, and where a batch can wait no longer."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from batchsched.cli.main import cli
from batchsched.client import Client
from batchsched.clock import ManualClock
from batchsched.planner import Problem, make_plan
from batchsched.published import Published
from batchsched.queue.launchers import in_service, share_of
from batchsched.wanted import Crew, crew
from batchsched.wire import PREFIX, replica_title
from tests.live import EVENING, LiveServer, live_server, requests, wait_for
from tests.planner_cases import job, pool, slots
from tests.test_planner_holding import CLEAN, DIRTY, START_S, gap
from tests.test_start import NOW

LEAD_S = 30.0


def planned(problem: Problem, latest: dict[str, datetime | None] | None = None) -> Published:
    return Published(NOW, problem, make_plan(problem, "greedy"), latest or {})


def wanted(published: Published, at_s: float, unfinished: str = "x", count: int = 9, lead_s: float = LEAD_S) -> int:
    now = NOW + timedelta(seconds=at_s)
    return crew(published, "a", now, count=count, lead_s=lead_s, unfinished={unfinished}).replicas


def test_replicas_are_wanted_while_the_plan_has_work_and_a_lead_before() -> None:
    published = planned(gap(4))
    starts_s = 5 * 900.0
    assert [wanted(published, at_s) for at_s in (0.0, 899.0, 901.0, starts_s - START_S - LEAD_S - 1)] == [1, 1, 0, 0]
    assert [wanted(published, at_s) for at_s in (starts_s - START_S - LEAD_S, starts_s + 1, 6300.0)] == [1, 1, 0]
    assert wanted(published, 0.0, unfinished="another") == 0, "its work is done before its time"
    now = NOW + timedelta(seconds=901)
    told = crew(published, "a", now, count=9, lead_s=0.0, unfinished={"x"})
    assert told == Crew(0, frozenset(), NOW + timedelta(seconds=starts_s))


def test_an_engine_that_the_plan_keeps_ready_keeps_its_replica() -> None:
    published = planned(gap(1, idle_w=5.0))
    assert [wanted(published, at_s) for at_s in (100.0, 1000.0, 1850.0)] == [1, 1, 1]
    at = NOW + timedelta(seconds=1000)
    assert crew(published, "a", at, count=9, lead_s=0.0, unfinished={"x"}).keep == {"m"}
    assert wanted(planned(gap(1)), 1000.0, lead_s=0.0) == wanted(planned(gap(4)), 1000.0) == 0


@pytest.mark.parametrize(("work_s", "replicas"), [(5.0, 1), (800.0, 1), (2600.0, 3), (20_000.0, 4)])
def test_as_many_as_the_work_of_a_slot_takes(work_s: float, replicas: int) -> None:
    levels = [CLEAN, DIRTY]
    one = job("x", work_s, 1800.0, max_replicas=None)
    problem = Problem(slots(2), [pool("a", levels, replicas=4)], [one])
    published = planned(problem)
    assert wanted(published, 0.0) == replicas
    assert wanted(published, 0.0, count=2) == min(2, replicas)


def test_what_can_wait_no_longer_wants_all_that_it_can_use() -> None:
    problem = gap(4)
    wide = msgspec.structs.replace(problem, jobs=[msgspec.structs.replace(problem.jobs[0], max_replicas=3)])
    latest = NOW + timedelta(seconds=2000)
    published = planned(wide, {"x": latest})
    assert [wanted(published, 2000 - START_S - LEAD_S + late_s) for late_s in (-1, 0)] == [0, 3]
    assert wanted(planned(problem, {"x": None}), 1000.0, count=5) == 5
    assert wanted(planned(wide, {"x": latest}), 2500.0, unfinished="another") == 0


def test_replicas_in_service_are_those_that_can_be_started_and_those_that_nobody_started() -> None:
    hand, launched, other = alive("", "one", "silent")
    able = [{"name": "one", "pool": "a", "replicas": 2}, {"name": "one", "pool": "b", "replicas": 7}]
    cases = [([hand], []), ([], able), ([launched], able), ([launched, hand], able), ([launched] * 3, []), ([launched] * 3, able)]
    cases += [([launched, other], able)]
    assert [in_service(9, there, can, "a") for there, can in cases] == [1, 2, 2, 3, 3, 3, 3]
    assert in_service(2, [hand] * 5, able, "a") == 2
    rests = {**launched, "broken": {"GPU-0": 1}}
    assert in_service(9, [rests, launched], able, "a") == 1
    assert in_service(9, [{**rests, "pardoned": {"GPU-0": 1}}, launched], able, "a") == 2


def alive(*launchers: str) -> list[dict[str, Any]]:
    """Live workers by who started them."""
    return [{"pool": "a", "replica": launcher and replica_title(launcher, "a.0")} for launcher in launchers]


@pytest.mark.parametrize(
    ("wanted", "running", "able", "shares"),
    [
        (3, "", {"one": (2, 0), "two": (2, 0)}, [2, 1]),
        (5, "", {"one": (2, 0), "two": (2, 0)}, [2, 2]),
        (3, "- -", {"one": (2, 0), "two": (2, 0)}, [1, 0]),
        (2, "gone gone", {"two": (2, 0)}, [0]),
        (3, "gone gone", {"two": (2, 0)}, [1]),
        (2, "two two", {"one": (2, 0), "two": (2, 2)}, [0, 2]),
        (2, "two", {"one": (2, 0), "two": (2, 2)}, [0, 2]),
        (2, "two two", {"one": (2, 0), "two": (2, 0)}, [0, 2]),
        (3, "two two", {"one": (2, 0), "two": (2, 2)}, [1, 2]),
        (3, "two two", {"one": (1, 0), "two": (1, 2)}, [1, 1]),
        (1, "one two two", {"one": (2, 1), "two": (2, 2)}, [1, 0]),
        (0, "one two", {"one": (2, 1), "two": (2, 1)}, [0, 0]),
    ],
    ids=[
        "the first by name first", "no more than they can", "by hand comes first", "who fell silent left its workers",
        "only what is lacking", "one that came back takes nothing away", "even while a worker is replaced",
        "also of an older server", "what is lacking goes to the first", "a place that fails goes to another",
        "fewer are wanted", "none are wanted",
    ],
)  # fmt: skip
def test_launchers_share_what_is_wanted_and_keep_what_they_have(
    wanted: int, running: str, able: dict[str, tuple[int, int]], shares: list[int]
) -> None:
    there = alive(*(name.strip("-") for name in running.split()))
    can = [{"name": name, "replicas": replicas, "share": share} for name, (replicas, share) in able.items()]
    assert [share_of(name, wanted, there, can) for name in able] == shares


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    """In the evening; the grid will be cleaner."""
    evening = EVENING.replace('gpu = "cpu"', 'gpu = "cpu"\ncount = 3')
    with live_server(tmp_path, evening, ManualClock(NOW), server__chunk_lines=100) as live:
        yield live


def ask(server: LiveServer, name: str = "one", replicas: int = 2, lead_s: float = LEAD_S) -> dict[str, Any]:
    """What one launcher is told of the pool."""
    body = {"name": name, "pools": {"local": {"replicas": replicas}}, "lead_s": lead_s}
    answer: dict[str, Any] = server.post(f"{PREFIX}/launchers", body)["pools"]["local"]
    return answer


def test_a_launcher_makes_the_plan_count_on_what_it_can_start(server: LiveServer) -> None:
    server.worker("local")  # without a launcher only the workers that are there count
    assert ask(server)["replicas"] == 0, "nothing is to be done"
    batch_id = server.submit(requests(2), batchsched={"deadline": "24h"})["id"]
    waiting = wait_for(lambda: server.batch(batch_id)["batchsched"]["progress"]["waiting_until"])
    (planned,) = (one for one in server.get(f"{PREFIX}/plan")["pools"] if one["name"] == "local")
    assert (planned["connected"], planned["replicas"]) == (True, 3)
    told = ask(server)
    assert (told["replicas"], told["next_at"]) == (0, waiting)
    server.post(f"{PREFIX}/batches/{batch_id}/start")
    assert wait_for(lambda: ask(server)["replicas"] == 0 and server.batch(batch_id)["batchsched"]["started"])


def test_replicas_are_shared_out_among_launchers_and_the_drained_pool_wants_none(server: LiveServer) -> None:
    late = {"deadline": "1s", "on_deadline": "finish"}
    batch_id = server.submit(requests(900), batchsched=late)["id"]
    wait_for(lambda: ask(server, "a", 2)["replicas"] == 2)
    assert ask(server, "b", 9)["replicas"] == 1
    assert ask(server, "c", 9)["replicas"] == 0
    server.post(f"{PREFIX}/pools/local/drain")
    assert [ask(server, name)["replicas"] for name in "ab"] == [0, 0]
    server.post(f"{PREFIX}/pools/local/open")
    assert ask(server, "a", 2)["replicas"] == 2
    server.post(f"/v1/batches/{batch_id}/cancel")
    wait_for(lambda: ask(server, "a", 2)["replicas"] == 0)


def test_a_launcher_that_fell_silent_leaves_its_workers_and_none_is_started_twice(server: LiveServer) -> None:
    server.submit(requests(900), batchsched={"deadline": "1s", "on_deadline": "finish"})
    wait_for(lambda: ask(server, "a", 2)["replicas"] == 2)
    ids = [
        server.post(f"{PREFIX}/workers", {"pool": "local", "host": "h", "pid": n, "replica": replica_title("a", f"local.{n}")})
        for n in range(2)
    ]

    def beat() -> None:
        for one in ids:
            server.post(f"{PREFIX}/workers/{one['worker_id']}/heartbeat", {"leases": []})

    server.advance(61)
    beat()
    assert ask(server, "b", 9)["replicas"] == 1, "two run already"
    assert ask(server, "a", 2)["replicas"] == 2, "it is back, and goes on with them"
    assert ask(server, "b", 9)["replicas"] == 1
    server.advance(61)
    for one in ids:
        server.post(f"{PREFIX}/workers/{one['worker_id']}/bye")
    assert ask(server, "b", 9)["replicas"] == 3
    assert ask(server, "a", 2)["replicas"] == 0, "nothing is moved back"


def test_metrics_tell_what_launchers_do(server: LiveServer) -> None:
    def told() -> dict[str, float]:
        lines = server.http.get("/metrics").text.splitlines()
        found = [line.split() for line in lines if line.startswith(("batchsched_launchers{", "batchsched_replicas_"))]
        return {name.removeprefix("batchsched_").removesuffix('{pool="local"}'): float(value) for name, value in found}

    assert told() == {}
    server.submit(requests(900), batchsched={"deadline": "1s", "on_deadline": "finish"})
    wait_for(lambda: ask(server, "a", 2)["replicas"] == 2)
    server.post(f"{PREFIX}/launchers", {"name": "b", "pools": {"local": {"replicas": 0, "failing": 1}}})
    server.post(f"{PREFIX}/workers", {"pool": "local", "host": "h", "pid": 1, "replica": replica_title("a", "local.0")})
    now = {"launchers": 2, "replicas_startable": 2, "replicas_wanted": 2, "replicas_running": 1, "replicas_failing": 1}
    assert told() == now
    server.advance(61)
    assert told() == dict.fromkeys(now, 0), "all fell silent"


def test_how_launched_workers_do_is_told(server: LiveServer) -> None:
    registered = {"pool": "local", "host": "h", "pid": 1, "replica": "local.0"}
    worker = server.worker("local")
    worker.worker_id = server.post(f"{PREFIX}/workers", registered)["worker_id"]
    (seen,) = ask(server)["workers"]
    assert (seen["replica"], seen["leases"], seen["finished"], seen["failed"]) == ("local.0", 0, 0, 0)
    server.submit(requests(2), batchsched={"deadline": "1s", "on_deadline": "finish"})
    lease = worker.lease()
    (seen,) = ask(server)["workers"]
    assert (seen["leases"], seen["ready_models"]) == (1, ["tiny"])
    fail = {"token": lease["token"], "message": "it died", "suspects": []}
    server.post(f"{PREFIX}/leases/{lease['chunk_id']}/fail", fail)
    assert ask(server)["workers"][0]["failed"] == 1
    server.advance(60)
    server.post(f"{PREFIX}/workers/{worker.worker_id}/heartbeat", {"leases": []})
    worker.finish(worker.lease())
    (seen,) = ask(server)["workers"]
    assert (seen["leases"], seen["finished"], seen["failed"]) == (0, 1, 1)
    server.post(f"{PREFIX}/workers/{worker.worker_id}/bye")
    assert ask(server)["workers"] == []


def test_one_that_rests_for_a_broken_gpu_takes_nobodys_place(server: LiveServer) -> None:
    registered = {"pool": "local", "host": "h", "pid": 1, "replica": replica_title("one", "local.0")}
    worker_id = server.post(f"{PREFIX}/workers", registered)["worker_id"]
    batch_id = server.submit(requests(2), batchsched={"deadline": "1s", "on_deadline": "finish"})["id"]
    wait_for(lambda: ask(server)["replicas"] == 1)
    broken = {"leases": [], "cards": [{"uuid": "GPU-0", "uncorrected_errors": 1}]}
    server.post(f"{PREFIX}/workers/{worker_id}/heartbeat", broken)
    assert ask(server)["replicas"] == 2
    server.post(f"/v1/batches/{batch_id}/cancel")
    wait_for(lambda: ask(server)["replicas"] == 0)


def test_a_pool_that_is_not_declared_is_refused(server: LiveServer) -> None:
    answer = server.post(f"{PREFIX}/launchers", {"name": "one", "pools": {"moon": {"replicas": 1}}}, 404)
    assert "declared: local" in answer["error"]["message"]


def test_pool_list_tells_what_launchers_can_start_and_what_is_wrong(server: LiveServer) -> None:
    said = "Workers in place 2 died 3 times in a row, the last with exit code 1."
    server.post(f"{PREFIX}/launchers", {"name": "node-7", "pools": {"local": {"replicas": 2, "trouble": said}}})
    done = CliRunner().invoke(cli, ["pool", "list", "--server", server.url], catch_exceptions=False)
    assert "0 of 2 startable" in done.output
    assert f"local: node-7: {said}" in done.output
    server.advance(61)
    with Client(server.url) as client:
        (pool,) = client.pools.list()
    assert (pool.startable, pool.troubles) == (0, ()), "it was not heard of for a minute"
