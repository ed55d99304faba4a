"""Windows by API, SDK and command, on a real server: what is planned and leased follows from them at once."""

from __future__ import annotations

import json
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from batchsched import AsyncClient, Client
from batchsched.cli.closing import Closing, WindowsClosed
from batchsched.cli.main import cli
from batchsched.client.windows import Window
from batchsched.clock import ManualClock
from batchsched.errors import Conflict, NotFound
from batchsched.fleet import Pool, PoolWindow
from batchsched.queue import audit, windows
from batchsched.queue.tenancy import ANY
from batchsched.settings import Settings
from batchsched.units import iso
from batchsched.wire import PREFIX
from tests.live import HandWorker, LiveServer, live_server, requests, wait_for

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
CONFIG = """
[sites.home]
zone = "Z"
[pools.local]
gpu = "cpu"
count = 4
[models.tiny]
parameters_b = 0.001
[forecast]
source = "file"
path = "forecast.csv"
[planner]
solver = "greedy"
replan_s = 3600
[server]
lease_s = 100000
chunk_lines = 1
"""
NIGHTS = {"pool": "local", "cron": "0 22 * * *", "duration": "8h", "timezone": "Europe/Berlin"}
DAYS = {"pool": "local", "cron": "0 14 * * *", "duration": "2h"}


def forecast(folder: Path, hourly: list[float]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = ["# provider: test forecast", "zone,start,end,issued_at,mean,q05,q25,q50,q75,q95,realised"]
    for hour, mean in enumerate(hourly):
        spread = ",".join(str(round(mean * factor, 1)) for factor in (0.8, 0.9, 1.0, 1.1, 1.2))
        start = NOW + hour * HOUR
        rows.append(f"Z,{iso(start)},{iso(start + HOUR)},{iso(NOW - HOUR)},{mean},{spread},{mean}")
    (folder / "forecast.csv").write_text("\n".join(rows) + "\n")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
def server(tmp_path: Path, clock: ManualClock) -> Generator[LiveServer]:
    forecast(tmp_path, [500, 400, 300, 200, *[300] * 140])
    with live_server(tmp_path, CONFIG, clock=clock) as live:
        yield live


@pytest.fixture
def client(server: LiveServer) -> Generator[Client]:
    with Client(server.url) as client:
        yield client


def command(server: LiveServer, *words: str, code: int = 0) -> str:
    done = CliRunner().invoke(cli, [*words, "--server", server.url])
    assert done.exit_code == code, done.output
    return done.output


def at(hour: float) -> datetime:
    return datetime(2026, 5, 1, tzinfo=UTC) + hour * HOUR


def spans(window: Window) -> list[tuple[datetime, datetime | None]]:
    return [(each.opens_at, each.closes_at) for each in window.openings if not each.skipped]


def beat(server: LiveServer, worker: HandWorker, *leases: dict[str, Any]) -> dict[str, str]:
    """What a worker is told to stop."""
    held = [{"chunk_id": lease["chunk_id"], "token": lease["token"]} for lease in leases]
    found: dict[str, str] = server.post(f"{PREFIX}/workers/{worker.worker_id}/heartbeat", {"leases": held})["stop"]
    return found


def give_back(server: LiveServer, lease: dict[str, Any]) -> None:
    server.post(f"{PREFIX}/leases/{lease['chunk_id']}/release", {"token": lease["token"], "reason": "window_closed"})


def test_a_windows_life(server: LiveServer, client: Client) -> None:
    made = client.windows.add("nights", **NIGHTS)  # type: ignore[arg-type]
    assert (made.id, made.pool, made.zone, made.state, made.origin) == ("nights", "local", "Z", "closed", "table")
    assert len(made.openings) == 10
    assert spans(made)[:2] == [(at(20), at(28)), (at(44), at(52))]
    first = made.openings[0]
    assert (first.opens_local, first.closes_local) == ("2026-05-01T22:00:00+02:00", "2026-05-02T06:00:00+02:00")
    assert first.intensity_g_per_kwh == pytest.approx(300)
    assert made.openings[9].intensity_g_per_kwh is None  # no forecast reaches so far
    assert [(one.id, len(one.openings)) for one in client.windows.list()] == [("nights", 1)]
    assert [one.state for one in client.pools.list()] == ["closed"]
    with pytest.raises(Conflict, match="already"):
        client.windows.add("nights", **NIGHTS)  # type: ignore[arg-type]
    assert client.windows.skip("nights").openings[0].skipped
    assert spans(client.windows.skip("nights", count=2))[0] == (at(20 + 72), at(28 + 72))
    assert spans(client.windows.resume("nights"))[0] == (at(20), at(28))
    paused = client.windows.pause("nights", until=at(68))
    assert (paused.state, paused.paused_until, spans(paused)[0]) == ("paused", at(68), (at(68), at(76)))
    with pytest.raises(Conflict, match="paused"):
        client.windows.extend("nights", by="1h")
    assert client.windows.pause("nights").openings == ()
    client.windows.resume("nights")
    extended = client.windows.extend("nights", by="2h")  # it is closed: for two hours from now on
    assert (extended.state, extended.closes_at, spans(extended)[0]) == ("open", at(14), (at(12), at(14)))
    assert [one.state for one in client.pools.list()] == ["open"]
    with pytest.raises(Conflict, match="anyway"):
        client.windows.extend("nights", until="1h")
    assert client.windows.extend("nights", until=at(21)).closes_at == at(28)  # up to the opening of the night
    assert client.windows.skip("nights", current=True).state == "closed"
    with pytest.raises(Conflict, match="not open now"):
        client.windows.skip("nights", current=True)
    client.windows.remove("nights")
    assert client.windows.list() == ()
    assert [one.state for one in client.pools.list()] == ["open"]
    with pytest.raises(NotFound, match="There is none"):
        client.windows.retrieve("nights")
    with server.runtime.database.read() as connection:
        did = [(entry["action"], entry["object_id"]) for entry in audit.page(connection, ANY, limit=100)]
    acts = ["add", "skip", "skip", "resume", "pause", "pause", "resume", "extend", "extend", "skip", "remove"]
    assert did == [(f"window.{act}", "nights") for act in acts]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"pool": "nowhere"}, "pool"),
        ({"cron": "61 * * * *"}, "cron"),
        ({"cron": "0 0 31 2 *"}, "cron"),
        ({"cron": "9" * 400 + " * * * *"}, "cron"),
        ({"duration": "long"}, "duration"),
        ({"timezone": "Berlin"}, "timezone"),
        ({"timezone": "../etc/passwd"}, "timezone"),
        ({"share": 0}, "share"),
        ({"share": 1.5}, "share"),
        ({"only_if_below_forecast_percentile": 100}, "only_if_below_forecast_percentile"),
        ({"name": "no on"}, "name"),
        ({"name": "no\n"}, "name"),
        ({"colour": "red"}, None),
    ],
)
def test_what_is_wrong_is_named(server: LiveServer, change: dict[str, Any], param: str | None) -> None:
    answer = server.http.post(f"{PREFIX}/windows", json={"name": "w", **DAYS, **change})
    assert answer.status_code in {400, 404}
    assert answer.json()["error"]["param"] == param
    assert server.get(f"{PREFIX}/windows")["data"] == []


def test_a_dry_run_changes_nothing(server: LiveServer, client: Client) -> None:
    assert len(client.windows.add("days", **DAYS, dry_run=True).openings) == 10  # type: ignore[arg-type]
    assert client.windows.list() == ()
    client.windows.add("days", **DAYS)  # type: ignore[arg-type]
    assert client.windows.pause("days", dry_run=True).state == "paused"
    assert client.windows.extend("days", by="1h", dry_run=True).state == "open"
    assert client.windows.skip("days", dry_run=True).openings[0].skipped
    client.windows.remove("days", dry_run=True)
    assert "would be removed. Pool local has no other window" in command(server, "window", "remove", "days", "--dry-run")
    (one,) = client.windows.list()
    assert (one.state, one.openings[0].skipped) == ("closed", False)
    with server.runtime.database.read() as connection:
        assert [entry["action"] for entry in audit.page(connection, ANY, limit=100)] == ["window.add"]


async def test_the_asynchronous_twin(server: LiveServer) -> None:
    async with AsyncClient(server.url) as client:
        made = await client.windows.add("days", **DAYS)  # type: ignore[arg-type]
        assert await client.windows.retrieve("days") == made
        assert [one.id for one in await client.windows.list()] == ["days"]
        assert (await client.windows.pause("days")).state == "paused"
        assert (await client.windows.resume("days")).state == "closed"
        assert (await client.windows.skip("days")).openings[0].skipped
        assert (await client.windows.extend("days", until="30m")).state == "open"
        await client.windows.remove("days")
        assert await client.windows.list() == ()


def test_the_commands(server: LiveServer) -> None:
    words = ["--pool", "local", "--cron", "0 22 * * 1-5", "--duration", "8h", "--tz", "Europe/Berlin", "--share", "0.5"]
    said = command(server, "window", "add", "nights", *words, "--max-intensity", "250")
    assert "Fri 2026-05-01 22:00 to Sat 06:00\tFri 2026-05-01 20:00 to Sat 04:00\t300 g/kWh\tshut" in said
    assert "50% of the replicas, at most 250 g/kWh" in said
    assert "nothing opens: it is above the limit in all of the next 2 opening(s)" in said
    assert "Mon 2026-05-04 22:00" in said  # 1-5 is Monday to Friday
    made = json.loads(command(server, "window", "show", "nights", "--openings", "3", "--json"))
    assert made == server.get(f"{PREFIX}/windows/nights", openings=3)
    assert json.loads(command(server, "window", "list", "--json"))["id"] == "nights"
    assert "nights\tlocal\t0 22 * * 1-5 for 8h, Europe/Berlin" in command(server, "window", "list")
    assert "skipped" in command(server, "window", "skip", "nights")
    assert "paused until" in command(server, "window", "pause", "nights", "--until", "3d")
    assert "state   closed" in command(server, "window", "resume", "nights")
    assert "state   shut" in command(server, "window", "extend", "nights", "--by", "1h", "--dry-run")  # it is 500 g now
    command(server, "window", "extend", "nights", code=2)
    command(server, "window", "add", "more", *words[:2], "--cron", "0 0 31 2 *", "--duration", "1h", code=1)
    command(server, "window", "show", "other", code=1)  # 3 where the program's own main() says it
    assert "always open" in command(server, "window", "remove", "nights")


def test_windows_of_the_configuration_can_be_decided_on_but_not_removed(tmp_path: Path, clock: ManualClock) -> None:
    forecast(tmp_path, [300] * 48)
    text = CONFIG + '[pools.local.window]\ncron = "0 14 * * *"\nduration = "2h"\n[windows.dusk]\npool = "local"\n'
    text += 'cron = "0 15 * * *"\nduration = "3h"\nshare = 0.5\n'
    with live_server(tmp_path, text, clock=clock) as server, Client(server.url) as client:
        assert [(one.id, one.origin) for one in client.windows.list()] == [
            ("pools.local.window", "configuration"),
            ("dusk", "configuration"),
        ]
        with pytest.raises(Conflict, match="configuration declares"):
            client.windows.remove("dusk")
        with pytest.raises(Conflict, match="already"):
            client.windows.add("dusk", **DAYS)  # type: ignore[arg-type]
        client.windows.pause("pools.local.window")
        clock.advance(2.5 * 3600)
        assert [(one.state, one.share) for one in client.pools.list()] == [("closed", 0.0)]
        clock.advance(3600)
        assert [(one.state, one.share) for one in client.pools.list()] == [("open", 0.5)]
        metrics = server.http.get("/metrics").text
        assert 'batchsched_window_open{pool="local",window="dusk"} 1.0' in metrics
        assert 'batchsched_window_open{pool="local",window="pools.local.window"} 0.0' in metrics
    with live_server(tmp_path, text, clock=clock) as server, Client(server.url) as client:  # it is kept over a restart
        assert [one.state for one in client.windows.list()] == ["paused", "open"]


def test_work_follows_the_windows_at_once_and_a_close_costs_no_attempt(
    server: LiveServer, client: Client, clock: ManualClock
) -> None:
    batch_id = server.submit(requests(3), batchsched={"deadline": "60h"})["id"]
    server.until(batch_id, "in_progress")
    worker = server.worker()
    client.windows.add("days", **DAYS)  # type: ignore[arg-type]
    assert worker.claim() == []
    plan = server.runtime.scheduler.plan_now()
    assert all(at(14) <= plan.at(a.start_s) and plan.at(a.end_s) <= at(16) for a in plan.plan.allotments)
    assert "pool local to open" in server.batch(batch_id)["batchsched"]["progress"]["waiting_for"]
    client.windows.extend("days", by="1h")
    server.post(f"{PREFIX}/batches/{batch_id}/start")
    lease = worker.lease()
    assert beat(server, worker, lease) == {}
    client.windows.skip("days", current=True)
    assert beat(server, worker, lease) == {lease["chunk_id"]: "window_closed"}
    give_back(server, lease)
    assert worker.claim() == []
    clock.advance(2 * 3600)  # its time has come
    server.runtime.scheduler.plan_now()
    again = worker.lease()
    assert again["attempt"] == 1
    worker.finish(again)
    worker.drain(batch_id)


def test_a_batch_that_fits_only_across_windows_spreads_over_them_and_its_verdict_says_which(tmp_path: Path) -> None:
    clock = ManualClock(NOW)
    forecast(tmp_path, [300] * 140)
    text = CONFIG.replace("count = 4", "count = 1").replace("chunk_lines = 1", "chunk_lines = 1000")
    text = text.replace("parameters_b = 0.001", "parameters_b = 1") + '[windows.nights]\npool = "local"\n'
    text += 'cron = "0 22 * * *"\nduration = "1h"\n'
    with live_server(tmp_path, text, clock=clock) as server:
        said = ""
        for lines in (20 * 2**n for n in range(12)):
            batch_id = server.submit(requests(lines), batchsched={"deadline": "90h", "confidence": 0.5})["id"]
            verdict = server.until(batch_id, "in_progress")["batchsched"]["verdict"]
            said = verdict["reason"]
            if "is spread over" in said or not verdict["feasible"]:
                break
            server.post(f"/v1/batches/{batch_id}/cancel")
            server.until(batch_id, "cancelled")
        assert said.count("nights from ") > 1, said
        assert " windows: nights from 01 May 22:00 to 01 May 23:00, nights from 02 May 22:00 to 02 May 23:00" in said


def test_a_share_opens_so_many_replicas(server: LiveServer, client: Client, clock: ManualClock) -> None:
    batch_id = server.submit(requests(12), batchsched={"deadline": "60h"})["id"]
    server.until(batch_id, "in_progress")
    server.post(f"{PREFIX}/batches/{batch_id}/start")
    client.windows.add("half", pool="local", cron="0 * * * *", duration="1h", share=0.5)
    workers = [server.worker() for _ in range(4)]
    plan = server.runtime.scheduler.plan_now()
    assert {count for state in plan.problem.pools for count in state.capacity} == {2.0}
    leases = [worker.claim() for worker in workers]
    assert [len(each) for each in leases] == [1, 1, 0, 0]
    assert len(workers[0].claim()) == 1  # one that is at work may have more
    client.windows.add("all", pool="local", cron="0 * * * *", duration="1h")
    more = workers[2].claim()
    assert len(more) == 1
    client.windows.remove("all")
    held = zip(workers, (*leases[0], *leases[1], *more), strict=False)
    told = [why for worker, lease in held for why in beat(server, worker, lease).values()]
    assert told == ["window_closed"]  # one of the three is too many
    able = {"name": "node", "pools": {"local": {"replicas": 4}}, "lead_s": 0}
    assert server.post(f"{PREFIX}/launchers", able)["pools"]["local"]["replicas"] <= 2


def test_an_hour_above_the_limit_counts_as_shut(server: LiveServer, client: Client, clock: ManualClock) -> None:
    """The forecast: 500, 400, 300, 200, then 300 g/kWh for ever."""
    made = client.windows.add("clean", pool="local", cron="0 * * * *", duration="1h", max_intensity_g_per_kwh=300)
    assert made.state == "shut"
    assert [(part.since, part.until) for part in made.openings[0].shut] == [(at(12), at(14))]
    assert made.openings[0].closes_at is None
    batch_id = server.submit(requests(2), batchsched={"deadline": "60h"})["id"]
    server.until(batch_id, "in_progress")
    server.post(f"{PREFIX}/batches/{batch_id}/start")
    worker = server.worker()
    plan = server.runtime.scheduler.plan_now()
    assert plan.shut == {"clean": [(at(12), at(14))]}
    assert all(plan.at(a.start_s) >= at(14) for a in plan.plan.allotments)
    assert worker.claim() == []  # although it is to start now
    assert [one.state for one in client.pools.list()] == ["closed"]
    assert any("above what it allows" in note for note in client.plan().notes)
    clock.advance(2 * 3600)
    server.runtime.scheduler.plan_now()
    worker.drain(batch_id)


def test_a_run_until_its_window_closes_waits_through_hours_that_are_shut(
    server: LiveServer, client: Client, clock: ManualClock
) -> None:
    """The forecast: 500, 400, 300, 200 g/kWh from noon on."""
    declared = {"clean": PoolWindow(pool="local", cron="0 12 * * *", duration="4h")}
    closing = Closing(Settings(pools={"local": Pool()}, windows=declared), ["local"])
    client.windows.add("clean", pool="local", cron="0 12 * * *", duration="4h", max_intensity_g_per_kwh=300)
    batch_id = server.submit(requests(2), batchsched={"deadline": "60h"})["id"]
    server.until(batch_id, "in_progress")
    server.runtime.scheduler.plan_now()
    batch = client.batches.retrieve(batch_id)
    assert [one.state for one in client.pools.list()] == ["closed"]
    closing(client, batch)
    clock.advance(2 * 3600)
    server.runtime.scheduler.plan_now()
    assert [one.state for one in client.pools.list()] == ["open"]
    closing(client, batch)
    clock.advance(2 * 3600)
    with pytest.raises(WindowsClosed) as closed:
        closing(client, batch)
    assert closed.value.opens_at == at(36)


def test_a_percentile_takes_the_cleanest_hours_of_each_day(tmp_path: Path, clock: ManualClock) -> None:
    forecast(tmp_path, [100.0 if hour % 24 in {4, 5, 6} else 300.0 + hour % 24 for hour in range(140)])
    with live_server(tmp_path, CONFIG, clock=clock) as server, Client(server.url) as client:
        client.windows.add("clean", pool="local", cron="0 * * * *", duration="1h", only_if_below_forecast_percentile=10.0)
        batch_id = server.submit(requests(2), batchsched={"deadline": "48h"})["id"]
        server.until(batch_id, "in_progress")
        plan = server.runtime.scheduler.plan_now()
        capacity = plan.problem.pools[0].capacity
        spans = [(plan.at(s.start_s), plan.at(s.end_s)) for s, c in zip(plan.problem.slots, capacity, strict=True) if c]
        assert (spans[0][0], spans[-1][1]) == (at(16), at(43))
        assert all(start.hour in {16, 17, 18} for start, _ in spans)


def test_a_plan_is_made_when_a_window_opens(server: LiveServer, client: Client, clock: ManualClock) -> None:
    client.windows.add("days", **DAYS)  # type: ignore[arg-type]
    server.submit(requests(1), batchsched={"deadline": "60h"})
    wait_for(lambda: (plan := server.runtime.scheduler.published) and plan.problem.jobs)
    clock.advance(2 * 3600 + 1)
    server.runtime.scheduler.doors.look_again()  # its own alarm is set by the machine's clock
    wait_for(lambda: (plan := server.runtime.scheduler.published) and plan.made_at > at(14))


def test_an_opening_of_several_starts_is_skipped_and_ended_whole(server: LiveServer, client: Client, clock: ManualClock) -> None:
    client.windows.add("nights", pool="local", cron="0 22,23 * * *", duration="8h")
    skipped = client.windows.skip("nights")
    assert [(one.opens_at, one.closes_at, one.skipped) for one in skipped.openings[:2]] == [
        (at(22), at(31), True),
        (at(46), at(55), False),
    ]
    client.windows.resume("nights")
    clock.advance(10.5 * 3600)
    assert client.windows.retrieve("nights").closes_at == at(31)
    ended = client.windows.skip("nights", current=True)
    assert (ended.state, spans(ended)[0]) == ("closed", (at(46), at(55)))


def test_what_opens_without_a_gap_has_no_opening_to_skip(server: LiveServer, client: Client) -> None:
    client.windows.add("clean", pool="local", cron="0 * * * *", duration="1h", max_intensity_g_per_kwh=900)
    for current in (False, True):
        with pytest.raises(Conflict, match="without a gap") as refused:
            client.windows.skip("clean", current=current)
        assert "window pause clean --until" in (refused.value.hint or "")
    client.windows.pause("clean", until="2h")
    assert spans(client.windows.retrieve("clean")) == [(at(14), None)]
    client.windows.pause("clean")
    with pytest.raises(Conflict, match="is paused"):
        client.windows.skip("clean")


def test_launchers_start_as_many_as_may_work(server: LiveServer, client: Client, clock: ManualClock) -> None:
    """Four are declared, two are in service."""
    client.windows.add("half", pool="local", cron="0 * * * *", duration="1h", share=0.5)
    batch_id = server.submit(requests(4), batchsched={"deadline": "60h"})["id"]
    server.until(batch_id, "in_progress")
    workers = [server.worker() for _ in range(2)]
    scheduler, now = server.runtime.scheduler, clock.now()
    assert [state.replicas for state in scheduler.plan_now().problem.pools] == [2]
    with server.runtime.database.read() as connection:
        assert scheduler.doors.most(connection, "local", now) == 1
        assert scheduler.doors.entry(connection, "local", now, workers[0].worker_id) == (None, 1)


def test_a_pool_that_is_declared_no_more_stays_open_to_its_workers_for_its_windows_time(
    server: LiveServer, clock: ManualClock
) -> None:
    with server.runtime.database.write() as connection:
        gone = PoolWindow(pool="gone", cron="0 12 * * *", duration="2h", share=0.5)
        windows.add(connection, "gone", gone, clock.now())
        doors = server.runtime.scheduler.doors
        assert doors.entry(connection, "gone", clock.now(), "worker") == (None, None)
        assert doors.entry(connection, "gone", clock.now() + 3 * HOUR, "worker") == ("shut", 0)
