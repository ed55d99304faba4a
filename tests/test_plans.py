"""The plan as operators see it: shown, drawn, asked what if, frozen, replayed; by the server, the SDK and the commands."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

import batchsched.scheduler
from batchsched.cli.main import cli
from batchsched.cli.plan import stretches
from batchsched.cli.plan_picture import picture
from batchsched.client import AsyncClient, Client
from batchsched.clock import ManualClock
from batchsched.errors import BatchschedError, InvalidValue, NotFound
from batchsched.published import Published
from batchsched.queue import plans
from batchsched.server.replay import differing
from batchsched.server.whatif import WhatIf
from batchsched.wire import PREFIX
from tests.live import BASIC, EVENING, LiveServer, live_server, requests, wait_for

TWO_SITES = """
[sites.home]
zone = "DE"
[sites.far]
zone = "SE"
simulated = true
[pools.local]
gpu = "cpu"
site = "home"
[pools.distant]
gpu = "cpu"
count = 2
site = "far"
[models.tiny]
[planner]
solver = "greedy"
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server with two pools and two batches that wait, in the evening; no worker ever comes."""
    clock = ManualClock(datetime(2026, 5, 1, 19, tzinfo=UTC))
    with live_server(tmp_path_factory.mktemp("plans"), TWO_SITES, clock) as live:
        live.submit(requests(3000), batchsched={"deadline": "12h"})
        live.submit(requests(200), batchsched={"deadline": "30h", "sites": ["home"]})
        wait_for(lambda: len({a["batch_id"] for a in live.get(f"{PREFIX}/plan")["allotments"]}) == 2)
        yield live


def command(server: LiveServer, *words: str) -> str:
    """What a command prints."""
    done = CliRunner().invoke(cli, [*words, "--server", server.url], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_what_has_an_entry_a_slot_goes_by_the_plans_slots(server: LiveServer) -> None:
    plan = server.get(f"{PREFIX}/plan")
    assert len(plan["slots"]) > 24
    for pool in plan["pools"]:
        assert len(pool["capacity"]) == len(pool["intensity_g_per_kwh"]) == len(plan["slots"])
    assert all(a["start_at"] in plan["slots"] and a["seconds"] > 0 for a in plan["allotments"])


def test_show_draws_pools_and_zones_and_says_who_runs_where(server: LiveServer) -> None:
    said = command(server, "plan", "show")
    lines = {line.split()[0]: line for line in said.split("Pools:")[0].splitlines() if line.strip()}
    assert "█" in lines["distant"] or "▓" in lines["distant"]
    assert "g/kWh" in lines["SE"]
    assert "far (simulated)" in said
    who = said.split("Who runs where:")[1].splitlines()
    assert 2 <= len([line for line in who if line.startswith("batch_")]) <= 6


def test_the_picture_is_an_image_of_the_asked_kind(server: LiveServer, tmp_path: Path) -> None:
    command(server, "plan", "show", "--plot", str(tmp_path / "plan.png"))
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")
    with Client(server.url) as client:
        drawn = client.plans.plot("svg")
    assert b"distant" not in drawn[:100]
    assert b"<svg" in drawn
    assert server.http.get(f"{PREFIX}/plan/plot", params={"format": "gif"}).status_code == 400

    async def twin() -> bytes:
        async with AsyncClient(server.url) as client:
            return await client.plans.plot("svg")

    assert b"<svg" in asyncio.run(twin())


def _plan(shares: list[float], capacity: list[float]) -> dict[str, Any]:
    slots = [f"2026-05-01T{hour:02}:00:00Z" for hour in range(len(shares) + 1)]
    return {
        "slots": slots[:-1],
        "end_at": slots[-1],
        "allotments": [
            {"batch_id": "b", "pool": "p", "start_at": slots[t], "end_at": slots[t + 1], "requests": 1.0, "seconds": 3600 * share}
            for t, share in enumerate(shares)
            if share
        ],
        "pools": [{"name": "p", "zone": "Z", "capacity": capacity, "intensity_g_per_kwh": [100.0, 200.0, None, 400.0, 100.0]}],
    }


def test_a_column_is_as_dark_as_its_pool_is_busy() -> None:
    drawn = picture(_plan([1.0, 0.5, 0.0, 0.0, 0.25], [1.0, 1.0, 1.0, 0.0, 1.0]), 44)
    pool, zone = drawn[1][3:], drawn[2][3:]
    columns = len(pool.rstrip()) // 5
    assert [pool[columns * hour] for hour in range(5)] == ["█", "▒", "·", " ", "░"]
    assert [zone[columns * hour] for hour in range(5)] == ["▁", "▃", "?", "█", "▁"]
    assert zone.endswith("100-400 g/kWh")


def test_adjoining_allotments_are_one_stretch() -> None:
    found = stretches(_plan([1.0, 0.5, 0.0, 1.0, 0.25], [1.0] * 5)["allotments"])
    assert [(row["start_at"].hour, row["end_at"].hour, row["requests"]) for row in found] == [(0, 2, 2.0), (3, 5, 2.0)]


@pytest.fixture
def clean(tmp_path: Path) -> Iterator[tuple[LiveServer, ManualClock]]:
    """A server at seven in the evening; the grid will be cleaner."""
    clock = ManualClock(datetime(2026, 5, 1, 19, tzinfo=UTC))
    with live_server(tmp_path, EVENING, clock) as live:
        yield live, clock


def test_frozen_work_starts_at_once_and_waits_again_when_thawed(clean: tuple[LiveServer, ManualClock]) -> None:
    server, clock = clean
    batch_id = server.submit(requests(2), batchsched={"deadline": "24h"})["id"]
    worker = server.worker()
    wait_for(lambda: server.batch(batch_id)["batchsched"]["progress"]["waiting_for"] is not None)
    waits = wait_for(lambda: server.batch(batch_id)["batchsched"]["progress"]["waiting_until"])
    assert waits > "2026-05-01T20"
    assert worker.claim() == []
    assert "until 2026" in command(server, "plan", "freeze", "--until", "2h")
    wait_for(lambda: server.get(f"{PREFIX}/plan")["solver"] == "at-once")
    assert "frozen" in command(server, "plan", "show")
    assert any("frozen" in said for said in server.get(f"{PREFIX}/batches/{batch_id}/explain")["sentences"])
    assert "batchsched_plan_frozen 1.0" in server.http.get("/metrics").text
    (lease,) = worker.claim()
    server.post(f"{PREFIX}/leases/{lease['chunk_id']}/release", {"token": lease["token"], "reason": "preempted"})
    clock.advance(7201)
    server.runtime.scheduler.poke()
    wait_for(lambda: server.get(f"{PREFIX}/plan")["solver"] == "greedy")
    assert server.get(f"{PREFIX}/plan")["frozen"] is None


def test_a_frozen_plan_survives_a_restart(tmp_path: Path) -> None:
    with live_server(tmp_path, EVENING) as server, Client(server.url) as client:
        assert client.plans.freeze().frozen is not None
    with live_server(tmp_path, EVENING) as server, Client(server.url) as client:
        wait_for(lambda: server.runtime.scheduler.published)
        assert client.plan().frozen is not None
        assert client.plans.unfreeze().frozen is None
        assert client.plan().frozen is None


def test_a_cordoned_pool_gets_nothing_new_and_a_drained_one_gives_back(tmp_path: Path) -> None:
    with live_server(tmp_path, EVENING) as server, Client(server.url) as client:
        batch_id = server.submit(requests(2), batchsched={"deadline": "1m"})["id"]  # it can wait no longer
        worker = server.worker()
        lease = worker.lease()
        assert client.pools.cordon("local").state == "cordoned"
        wait_for(lambda: any("cordoned" in note for note in client.plan().notes))
        beat = {"leases": [{"chunk_id": lease["chunk_id"], "token": lease["token"]}]}
        assert server.post(f"{PREFIX}/workers/{worker.worker_id}/heartbeat", beat)["stop"] == {}
        assert "drained" in command(server, "pool", "drain", "local")
        wait_for(lambda: any("drained" in note for note in client.plan().notes))
        stopped = server.post(f"{PREFIX}/workers/{worker.worker_id}/heartbeat", beat)["stop"]
        assert stopped == {lease["chunk_id"]: "window_closed"}
        server.post(f"{PREFIX}/leases/{lease['chunk_id']}/release", {"token": lease["token"], "reason": "window_closed"})
        assert worker.claim() == []
        assert 'batchsched_pool_closed{how="drained",pool="local"} 1.0' in server.http.get("/metrics").text
        assert client.pools.open("local").state == "open"
        assert [one.state for one in client.pools.list()] == ["open"]
        worker.drain(batch_id)
        with pytest.raises(NotFound, match="There are: local"):
            client.pools.cordon("nowhere")


def planned(server: LiveServer, wanted: Callable[[Published], bool]) -> Published | None:
    """The plan in force, once it is as wanted."""
    published = server.runtime.scheduler.published
    return published if published and wanted(published) else None


def test_maintenance_is_planned_around_and_ends_by_itself(clean: tuple[LiveServer, ManualClock]) -> None:
    server, clock = clean
    batch_id = server.submit(requests(2), batchsched={"deadline": "24h"})["id"]
    first = wait_for(lambda: planned(server, lambda plan: batch_id in plan.jobs))
    starts_s = min(one.start_s for one in first.plan.allotments)  # the cleanest hour
    since, until = first.at(starts_s - 1800), first.at(starts_s + 5400)
    with Client(server.url) as client:
        assert client.pools.drain("local", since=since, until=until).state == "open"
        (told,) = client.pools.list()
        assert told.ahead
        assert (told.ahead.how, told.ahead.since, told.ahead.until) == ("drained", since, until)
        plan = wait_for(lambda: planned(server, lambda plan: any("will be drained" in note for note in plan.notes)))
        spans = [(plan.at(one.start_s), plan.at(one.end_s)) for one in plan.plan.allotments]
        assert spans
        assert all(end <= since or start >= until for start, end in spans)
        assert "drained from" in command(server, "pool", "list")
        assert any("will be drained" in said for said in server.get(f"{PREFIX}/batches/{batch_id}/explain")["sentences"])
        worker = server.worker()
        clock.advance((since - clock.now()).total_seconds() + 1)
        (told,) = client.pools.list()
        assert (told.state, told.until, told.ahead) == ("drained", until, None)
        assert worker.claim() == []
        clock.advance((until - clock.now()).total_seconds() + 1)
        assert [one.state for one in client.pools.list()] == ["open"]
        with pytest.raises(InvalidValue, match="would end before it begins"):
            client.pools.cordon("local", since="5h", until="4h")


def test_what_if_compares_by_prices_and_by_solving(server: LiveServer) -> None:
    with Client(server.url) as client:
        home = next(job for job in server.runtime.scheduler.published.jobs.values() if list(job.seconds_on) == ["local"])  # type: ignore[union-attr]
        found = client.plans.what_if(with_zones={"local": "SE"})
        assert found.difference_g <= 0, "a copy only adds freedom"
        assert found.gaps == (None, None)
        found = client.plans.what_if(without_sites=["far"])
        assert found.difference_g > 0
        assert found.by_prices_g is not None
        assert 0 < found.by_prices_g <= found.difference_g * 1.05
        found = client.plans.what_if(deadlines={home.batch_id: "+24h"})
        assert "24h later" in found.changes[0].replace("1d", "24h")
        assert found.difference_g <= 0
        found = client.plans.what_if(pools={"local": -1})
        assert [one.batch_id for one in found.late] == [home.batch_id]
        assert found.by_prices_g is None
        wrongs: list[Any] = [{"pools": {"nowhere": 1}}, {"deadlines": {"nobody": "+1h"}}, {"with_zones": {"local": "NOWHERE"}}]
        for wrong in wrongs:
            with pytest.raises(BatchschedError):
                client.plans.what_if(**wrong)
    said = command(server, "plan", "what-if", "--without-site", "far", "--pool", "local=+2")
    assert "without site far" in said
    assert "by prices" in said


def test_what_if_looks_no_further_than_plans_do(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler, limits = server.runtime.scheduler, server.runtime.settings.planner
    assert scheduler.published is not None
    asked = WhatIf(server.runtime.database, scheduler, server.runtime.provider, server.runtime.clock, limits)
    assert asked._extended(scheduler.published, 8000 * 3600.0).end_s == pytest.approx(96 * 3600.0, abs=1.0)


def test_what_if_changes_a_thing_once_and_by_so_much(server: LiveServer) -> None:
    for pools in (["local=+1", "local=+2"], ["local=2"], ["local=+0"], ["local=-1_0"]):
        answer = server.http.get(f"{PREFIX}/plan/what-if", params={"pool": pools})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "pool")
    for words, said in ((("--pool", "local=2"), "=+2"), (("--deadline", "b=1h", "--deadline", "b=2h"), "twice")):
        done = CliRunner().invoke(cli, ["plan", "what-if", *words, "--server", server.url])
        assert (done.exit_code, said in done.output) == (2, True), done.output
    far = server.get(f"{PREFIX}/plan/what-if", pool="local=-7")["changes"]
    assert far == ["replicas of pool local: 1 fewer"]


def test_a_batch_that_may_run_nowhere_is_refused(server: LiveServer) -> None:
    here = server.runtime.fleet.sites["home"].zone
    options = {"sites": ["home"], "zones": [next(s.zone for s in server.runtime.fleet.sites.values() if s.zone != here)]}
    body = {"input_file_id": server.upload(requests(1)), "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    answer = server.http.post("/v1/batches", json={**body, "batchsched": options})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "batchsched.zones")


def test_who_asks_while_others_do_is_asked_to_come_again(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batchsched.scheduler, "QUEUE_S", 0.01)
    with server.runtime.scheduler._one_question():
        answer = server.http.get(f"{PREFIX}/plan/what-if", params={"pool": "local=+1"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "planner_busy")
        server.runtime.scheduler.plan_now()  # plans do not wait for questions
    server.get(f"{PREFIX}/plan/what-if", pool="local=+1")


def test_a_batch_that_says_where_it_may_run_runs_in_no_copy(server: LiveServer) -> None:
    found = server.get(f"{PREFIX}/plan/what-if", with_zone="local=SE")
    home = next(job for job in server.runtime.scheduler.published.jobs.values() if list(job.seconds_on) == ["local"])  # type: ignore[union-attr]
    assert home.batch_id not in [one["batch_id"] for one in found["batches"]]


def test_explain_names_the_next_best_and_what_it_would_cost(server: LiveServer) -> None:
    free = next(job for job in server.runtime.scheduler.published.jobs.values() if len(job.seconds_on) == 2)  # type: ignore[union-attr]
    said = command(server, "explain", free.batch_id)
    assert "On pool local, the next best place (from" in said
    assert "all batches together would cost at least" in said


def test_a_replayed_plan_is_the_same(server: LiveServer) -> None:
    with Client(server.url) as client:
        found = client.plans.replay()
        assert found.same, found.differences
        assert found.recipe is not None
        assert found.recipe["solver"] == "greedy"
        assert client.plans.replay(number=found.id).id == found.id
        assert client.plans.replay(found.made_at).id == found.id
        with pytest.raises(NotFound, match="keep_plans_days"):
            client.plans.replay("2020-01-01T00:00:00Z")
    assert "the same   yes" in command(server, "plan", "replay", str(found.id))


def as_once_written(body: dict[str, Any]) -> dict[str, Any]:
    """A plan as versions kept it that knew neither configurations nor recipes."""
    old: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(body))
    del old["recipe"], old["overrides"]
    for one in [*old["plan"]["loads"], *old["plan"]["allotments"]]:
        del one["config"]
    for job in old["problem"]["jobs"]:
        del job["configurations"]
        job["model_on"] = {"local": "small"}
    return old


def test_a_plan_of_an_older_version_holds_and_can_be_replayed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = TWO_SITES.replace("[models.tiny]", "[models.tiny]\n[models.small]")
    with live_server(tmp_path, text) as server, Client(server.url) as client:
        scheduler, database, clock = server.runtime.scheduler, server.runtime.database, server.runtime.clock
        batch = server.submit(requests(200), batchsched={"deadline": "30h", "sites": ["home"], "models": ["tiny", "small"]})
        wait_for(lambda: scheduler.published is not None and scheduler.published.plan.loads)
        server.runtime.scheduler.stop()
        assert scheduler.published is not None
        with database.write() as connection:
            body = as_once_written(scheduler.published.body({}))
            number = plans.add(connection, clock.now(), body, server.runtime.leadership.epoch)
            assert number is not None
            scheduler.offer(connection, "local", clock.now())
        assert scheduler.published.id == number
        assert {load.config for load in scheduler.published.plan.loads} <= {"tiny on local", "small on local"}
        assert scheduler.published.model(batch["id"], "local", clock.now()) == "small"
        found = client.plans.replay(number=number)
        assert found.recipe is None
        assert "not known" in found.notes[-1]
        with database.write() as connection:
            plans.add(connection, clock.now(), {"of": "another world"}, server.runtime.leadership.epoch)
            for _ in range(3):
                scheduler.offer(connection, "local", clock.now())
        assert scheduler.published.id == number
        assert len([line for line in caplog.messages if "cannot read" in line]) == 1


def test_a_replay_tells_in_what_plans_differ(server: LiveServer) -> None:
    scheduler = server.runtime.scheduler
    assert scheduler.published is not None
    old = scheduler.published.plan
    moved = msgspec.structs.replace(old, allotments=old.allotments[1:])
    assert differing(old, old) == []
    assert "1 of" in differing(old, moved)[0]


def test_a_replay_compares_forecasts_with_what_was_measured(tmp_path: Path) -> None:
    clock = ManualClock(datetime(2026, 5, 1, 19, tzinfo=UTC))
    forecast = tmp_path / "grid.csv"
    rows = [
        f"WORLD,2026-05-01T{hour}:00:00Z,2026-05-01T{hour + 1}:00:00Z,2026-05-01T12:00:00Z,100,{100 if hour < 19 else 50}"
        for hour in range(18, 23)
    ]
    forecast.write_text("\n".join(["# signal: average lifecycle", "zone,start,end,issued_at,mean,realised", *rows, ""]))
    text = BASIC + f'replan_s = 7200\n[forecast]\nsource = "file"\npath = "{forecast}"\n'
    with live_server(tmp_path, text, clock) as server, Client(server.url) as client:
        server.submit(requests(300), batchsched={"deadline": "2h"})
        first = wait_for(lambda: next((p for p in [client.plan()] if p.allotments), None))
        assert client.plans.replay(number=first.id).came_true == ()
        clock.advance(7200)
        (zone,) = client.plans.replay(number=first.id).came_true
        assert zone.true_g == pytest.approx(zone.expected_g / 2)
        assert zone.unknown_kwh == 0
