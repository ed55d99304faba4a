"""Recurring jobs: files become batches when they are due, once each, whatever was down meanwhile."""

from __future__ import annotations

import json
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from batchsched import AsyncClient, Client
from batchsched.cli.main import cli
from batchsched.client.schedules import Release
from batchsched.clock import ManualClock
from batchsched.errors import BatchschedError, Conflict, InvalidRequest, NotFound
from batchsched.queue import audit, schedules
from batchsched.queue.database import Database
from batchsched.queue.tenancy import ANY
from batchsched.server import recurring, releasing
from batchsched.server.recurring import Recurring
from batchsched.server.releasing import by_rule
from batchsched.wire import PREFIX
from tests.live import BASIC, LiveServer, live_server, requests, wait_for

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
JOB: dict[str, Any] = {"cron": "0 * * * *", "file": "in.jsonl", "deadline": "10h"}
ROW: dict[str, Any] = {
    "cron": "0 * * * *",
    "timezone": "UTC",
    "file": "in.jsonl",
    "endpoint": "/v1/chat/completions",
    "options": {"deadline": "10h"},
    "missed": "once",
    "overlap": False,
    "created_at": NOW,
    "looked_at": NOW - HOUR,
}


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW + timedelta(minutes=30))


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    folder = tmp_path / "inputs" / "default"
    folder.mkdir(parents=True)
    (folder / "in.jsonl").write_bytes(requests(2))
    return folder


def from_folder(inputs: Path) -> dict[str, Any]:
    """Files are taken as they are: tests/test_schedule_files.py is about those that are still written."""
    return {"server__inputs_dir": str(inputs.parent), "server__inputs_settle_s": 0}


@pytest.fixture
def server(tmp_path: Path, inputs: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> Generator[LiveServer]:
    monkeypatch.setattr(recurring, "LOOK_AGAIN_S", 3600.0)
    monkeypatch.setattr(Recurring, "poke", lambda _: None)  # the tests say when
    with live_server(tmp_path, BASIC, clock=clock, **from_folder(inputs)) as live:
        yield live


@pytest.fixture
def client(server: LiveServer) -> Generator[Client]:
    with Client(server.url) as client:
        yield client


def later(server: LiveServer, hours: float = 1.0) -> None:
    """So many hours pass, and somebody looks."""
    server.advance(3600 * hours)
    look(Recurring(server.runtime))


def look(alarms: Recurring) -> None:
    """What rings now, without waiting for alarms, which go by the machine's clock."""
    for key in alarms.look():
        alarms.ring(key)


def told(client: Client, name: str = "job") -> list[tuple[str, str | None, str | None]]:
    """What came of it, the oldest first."""
    return [(one.state, one.file, one.note) for one in reversed(client.schedules.history(name))]


def done(server: LiveServer, one: Release) -> None:
    assert one.batch_id
    server.until(one.batch_id, "in_progress")
    server.post(f"{PREFIX}/batches/{one.batch_id}/start")
    server.worker().drain(one.batch_id)


def test_a_job_recurs_with_the_day_in_its_files_name(server: LiveServer, client: Client, inputs: Path) -> None:
    (inputs / "prompts-2026-05-01-1500.jsonl").write_bytes(requests(3))
    made = client.schedules.add(
        "job", cron="0 15 * * *", file="prompts-{date}-{time}.jsonl", deadline="10h", timezone="Europe/Berlin", priority=7
    )
    assert (made.next_at, made.next_local) == (NOW + HOUR, "2026-05-01T15:00:00+02:00")
    later(server, 0.4)
    assert client.schedules.history("job") == ()
    later(server, 0.2)
    (one,) = client.schedules.history("job")
    assert (one.due_at, one.state, one.file) == (NOW + HOUR, "submitted", "prompts-2026-05-01-1500.jsonl")
    batch = client.batches.retrieve(one.batch_id or "")
    assert batch.deadline_at == server.runtime.clock.now() + 10 * HOUR
    assert batch.metadata == {"schedule": "job", "due_at": "2026-05-01T13:00:00Z"}
    done(server, one)
    (one,) = client.schedules.history("job")
    assert (one.batch_status, one.requests_completed, one.requests_failed) == ("completed", 3, 0)
    look(Recurring(server.runtime))
    assert len(client.schedules.history("job")) == 1
    later(server, 24)
    assert told(client)[-1] == (
        "failed",
        None,
        "There is no file default/prompts-2026-05-02-1500.jsonl below the server's folder of inputs.",
    )
    with server.runtime.database.read() as connection:
        entries = audit.page(connection, ANY, limit=100)
    acts = [(entry["actor"], entry["action"]) for entry in entries if entry["action"] != "batch.start"]
    assert acts == [("local", "schedule.add"), ("schedule:job", "file.create"), ("schedule:job", "batch.create")]


def test_no_overlap_unless_asked(server: LiveServer, client: Client) -> None:
    client.schedules.add("job", **JOB)
    client.schedules.add("both", **JOB, overlap=True)
    later(server)
    later(server)
    first, second = reversed(client.schedules.history("job"))
    assert second.note == f"Batch {first.batch_id} of an earlier time is not done."
    assert [one.state for one in client.schedules.history("both")] == ["submitted", "submitted"]
    done(server, first)
    later(server)
    assert [one.state for one in client.schedules.history("job")] == ["submitted", "skipped", "submitted"]


@pytest.mark.parametrize(
    ("rule", "states"),
    [
        ("once", [("skipped", "Missed times that were left out: 2."), ("submitted", None)]),
        ("all", [("submitted", None)] * 3),
        ("skip", [("skipped", "Missed times that were left out: 3.")]),
    ],
)
def test_missed_times_follow_the_rule(server: LiveServer, client: Client, rule: Any, states: list[Any]) -> None:
    client.schedules.add("job", **JOB, missed=rule, overlap=True)
    later(server, 3)  # nobody looked: three times, the last half an hour ago
    assert [(state, note) for state, _, note in told(client)] == states
    later(server, 0.55)  # one that is five minutes late or less was not missed
    assert told(client)[-1][0] == "submitted"
    assert len(told(client)) == len(states) + 1


def test_without_overlap_all_that_were_missed_come_one_after_the_other(server: LiveServer, client: Client) -> None:
    client.schedules.add("job", **JOB, missed="all")
    later(server, 2)
    for n in range(2):
        found = client.schedules.history("job")
        assert len(found) == n + 1
        done(server, found[0])
        look(Recurring(server.runtime))
    assert {one.state for one in client.schedules.history("job")} == {"submitted"}


def test_a_crash_at_any_step_makes_no_second_batch(server: LiveServer, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    client.schedules.add("job", **JOB)
    whole = schedules.released

    def dies(*_: Any, **__: Any) -> None:
        raise BatchschedError("the power went out")

    monkeypatch.setattr(schedules, "released", dies)
    later(server)
    assert client.schedules.history("job") == ()
    assert len(list(client.batches.list())) == 1  # it was made, and nobody noted it
    monkeypatch.setattr(schedules, "released", whole)
    monkeypatch.setattr(schedules, "change", dies)
    look(Recurring(server.runtime))
    monkeypatch.undo()
    look(Recurring(server.runtime))
    assert [state for state, *_ in told(client)] == ["submitted"]
    assert len(list(client.batches.list())) == 1
    assert len(list(client.files.list())) == 1  # what was read a second time is kept once


def test_what_becomes_no_batch_is_not_kept(server: LiveServer, client: Client) -> None:
    client.schedules.add("job", **JOB, models=["tiny"])
    with server.runtime.database.write() as connection:  # it was served when the schedule was made
        schedules.change(connection, "default", "job", options={"deadline": "10h", "models": ["nobody"]})
    later(server)
    ((state, file, note),) = told(client)
    assert (state, file) == ("failed", "in.jsonl")
    assert "nobody" in (note or "")
    assert list(client.files.list()) == []


def test_a_schedule_that_failed_rests(server: LiveServer, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    client.schedules.add("job", **JOB)
    looks = list[str]()

    def fails(_: Path, pattern: str, *__: Any) -> Any:
        looks.append(pattern)
        raise RuntimeError("the disk is ill")

    monkeypatch.setattr(releasing, "found_below", fails)
    server.advance(1900)
    patient = Recurring(server.runtime)
    for _ in range(3):
        look(patient)
    assert len(looks) == 1
    server.advance(recurring.REST_S)
    look(patient)
    assert len(looks) == 2


def test_it_goes_on_after_a_restart(tmp_path: Path, inputs: Path, clock: ManualClock) -> None:
    flags = from_folder(inputs)
    with live_server(tmp_path, BASIC, clock=clock, **flags) as server, Client(server.url) as client:
        client.schedules.add("job", **JOB)
    clock.advance(2 * 3600)
    with live_server(tmp_path, BASIC, clock=clock, **flags) as server, Client(server.url) as client:
        found = wait_for(lambda: found if len(found := told(client)) > 1 else None)  # its own alarm rings as it starts
        assert found == [("skipped", None, "Missed times that were left out: 1."), ("submitted", "in.jsonl", None)]


def test_a_paused_job_makes_nothing_and_makes_up_for_nothing(server: LiveServer, client: Client) -> None:
    client.schedules.add("job", **JOB)
    assert client.schedules.pause("job").next_at is None
    later(server, 3)
    assert client.schedules.resume("job").paused_at is None
    look(Recurring(server.runtime))
    assert client.schedules.history("job") == ()
    later(server)
    assert [state for state, *_ in told(client)] == ["submitted"]
    client.schedules.remove("job")
    assert client.schedules.list() == ()
    with pytest.raises(NotFound):
        client.schedules.history("job")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"cron": "0 0 31 2 *"}, "cron"),
        ({"cron": "0 * * *"}, "cron"),
        ({"timezone": "Berlin"}, "timezone"),
        ({"deadline": "2026-05-02T00:00:00Z"}, "batchsched.deadline"),
        ({"file": "../in.jsonl"}, "file"),
        ({"file": "/etc/passwd"}, "file"),
        ({"file": "{day}.jsonl"}, "file"),
        ({"confidence": 2}, "batchsched.confidence"),
        ({"endpoint": "/v1/none"}, "endpoint"),
        ({"models": ["nobody"]}, "batchsched.models"),
        ({"sites": ["nowhere"]}, "batchsched.sites"),
    ],
)
def test_what_is_wrong_is_named(client: Client, change: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as problem:
        client.schedules.add("job", **{**JOB, **change})
    assert problem.value.param == param
    assert client.schedules.list() == ()


def test_a_server_without_a_folder_of_inputs_says_so(
    tmp_path: Path, inputs: Path, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    with live_server(tmp_path, clock=clock, **from_folder(inputs)) as server, Client(server.url) as client:
        assert client.schedules.add("job", **JOB).trouble is None
    clock.advance(3600)
    with live_server(tmp_path, clock=clock) as server, Client(server.url) as client:
        with pytest.raises(Conflict, match="no folder of inputs"):
            client.schedules.add("other", **JOB)
        (one,) = client.schedules.list()
        assert "the server that leads has no folder of inputs" in (one.trouble or "")
        wait_for(lambda: "1 recurring job(s) wait: this server leads and has no folder" in caplog.text)
        assert client.schedules.history("job") == ()
        for words in (["schedule", "list"], ["schedule", "show", "job"], ["doctor", "--quick"]):
            done = CliRunner().invoke(cli, [*words, "--server", server.url])
            assert "the server that leads has no folder of inputs" in done.output


def test_an_alarm_rings_when_a_job_is_due_and_follows_every_change(
    tmp_path: Path, inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recurring, "LOOK_AGAIN_S", 3600.0)
    clock = ManualClock(NOW + HOUR - timedelta(milliseconds=50))  # it stands still: the alarms ring again until it moves
    with live_server(tmp_path, BASIC, clock, **from_folder(inputs)) as server, Client(server.url) as client:
        client.schedules.add("job", **JOB)
        client.schedules.add("paused", **JOB)
        client.schedules.pause("paused")
        clock.advance(1)
        assert wait_for(lambda: told(client)) == [("submitted", "in.jsonl", None)]
        assert told(client, "paused") == []
        clock.advance(3598)
        client.schedules.add("soon", **JOB)  # whose alarm is set at once, for what the machine's clock calls a second
        clock.advance(2)
        wait_for(lambda: told(client, "soon"))


def test_what_another_server_changed_is_seen_before_long(
    tmp_path: Path, inputs: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recurring, "LOOK_AGAIN_S", 0.1)
    with live_server(tmp_path, BASIC, clock, **from_folder(inputs)) as server, Client(server.url) as client:
        with server.runtime.database.write() as connection:
            schedules.add(connection, name="job", **ROW, tenant="default")
        assert wait_for(lambda: told(client))[-1] == ("submitted", "in.jsonl", None)


def test_a_server_that_does_not_lead_releases_nothing_and_looks_again(
    server: LiveServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    leads: list[bool] = []
    monkeypatch.setattr(server.runtime.leadership, "leading", lambda: bool(leads))
    client.schedules.add("job", **JOB)
    server.advance(3600)
    follower = Recurring(server.runtime)
    look(follower)
    assert client.schedules.history("job") == ()
    assert follower.look() == []  # not at once
    server.advance(recurring.LEAD_S)
    leads.append(True)
    look(follower)
    assert len(client.schedules.history("job")) == 1


def test_a_schedule_stops_with_its_key_until_another_takes_it_over(server: LiveServer, client: Client) -> None:
    master = server.post(f"{PREFIX}/keys", {"scopes": ["operate", "submit", "read"]})["key"]
    server.http.headers["authorization"] = f"Bearer {master}"
    made = server.post(f"{PREFIX}/keys", {"scopes": ["submit", "read"]})
    with Client(server.url, made["key"]) as theirs:
        assert theirs.schedules.add("job", **JOB).made_by == made["id"]
    later(server)
    with Client(server.url, master) as client:
        assert [state for state, *_ in told(client)] == ["submitted"]
        server.post(f"{PREFIX}/keys/{made['id']}/revoke")
        said = f"Stopped: the API key {made['id']}, by which it recurs, was revoked. "
        said += "`schedule resume` with another key takes it over."
        assert client.schedules.retrieve("job").trouble == said
        later(server)
        later(server)
        assert told(client)[1:] == [("failed", None, said)]
        assert client.schedules.retrieve("job").next_at is None
        resumed = client.schedules.resume("job")
        assert resumed.trouble is None
        assert resumed.made_by != made["id"]
        later(server)
        assert [state for state, *_ in told(client)][2:] == ["skipped"]  # the first batch is not done


def test_a_dry_run_changes_nothing(server: LiveServer, client: Client) -> None:
    assert client.schedules.add("job", **JOB, dry_run=True).next_at == NOW + HOUR
    assert client.schedules.list() == ()
    client.schedules.add("job", **JOB)
    assert client.schedules.pause("job", dry_run=True).paused_at
    client.schedules.remove("job", dry_run=True)
    assert client.schedules.retrieve("job").paused_at is None
    client.schedules.pause("job")
    assert client.schedules.resume("job", dry_run=True).paused_at is None
    assert client.schedules.retrieve("job").paused_at
    with server.runtime.database.read() as connection:
        did = [entry["action"] for entry in audit.page(connection, ANY, limit=100)]
    assert did == ["schedule.add", "schedule.pause"]


def test_a_file_that_cannot_be_read_is_told_without_the_servers_folders(
    server: LiveServer, client: Client, inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(path: Path, _mode: str) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    client.schedules.add("job", **JOB)
    monkeypatch.setattr(Path, "open", fails)
    later(server)
    assert told(client) == [("failed", "in.jsonl", "The file cannot be read: Permission denied.")]


def test_a_file_that_is_no_batch_is_told(server: LiveServer, client: Client, inputs: Path) -> None:
    (inputs / "in.jsonl").write_bytes(b"\x1f\x8bcompressed")
    client.schedules.add("job", **JOB)
    later(server)
    ((state, file, note),) = told(client)
    assert (state, file) == ("failed", "in.jsonl")
    assert "compressed" in (note or "")


def test_a_tenant_sees_its_own_folder_alone(server: LiveServer, client: Client, inputs: Path) -> None:
    (inputs.parent / "other").mkdir()
    (inputs.parent / "other" / "secret.jsonl").write_bytes(requests(1))
    (inputs.parent / "top.jsonl").write_bytes(requests(1))
    (inputs / "link.jsonl").symlink_to(inputs.parent / "other" / "secret.jsonl")
    client.schedules.add("job", cron="0 * * * *", file="other/secret.jsonl", deadline="10h")
    client.schedules.add("every", cron="0 * * * *", file="**/*.jsonl", deadline="10h")
    later(server)
    said = "There is no file default/other/secret.jsonl below the server's folder of inputs."
    assert told(client) == [("failed", None, said)]
    assert told(client, "every") == [("submitted", "in.jsonl", None)]
    key = server.post(f"{PREFIX}/keys", {"scopes": ["operate", "submit"], "tenant": ".."})["key"]
    with Client(server.url, key) as theirs, pytest.raises(Conflict, match="no folder of inputs"):
        theirs.schedules.add("job", **JOB)


def test_of_very_many_missed_times_the_newest_are_made_up_for() -> None:
    due = [NOW - n * HOUR for n in range(1, 301)][::-1]
    kept, left = by_rule("all", due, NOW)
    assert (len(kept), kept[-1], len(left)) == (100, due[-1], 200)


def test_times_that_are_not_late_are_no_missed_ones() -> None:
    due = [NOW - 3 * HOUR, NOW - HOUR, NOW - HOUR / 30, NOW - HOUR / 60]
    assert by_rule("once", due, NOW) == (due[2:], due[:2])
    assert by_rule("skip", due, NOW) == (due[2:], due[:2])
    assert by_rule("all", due, NOW) == (due, [])


def test_the_table_holds_on_either_database(database: Database) -> None:
    with database.write() as connection:
        schedules.add(connection, name="job", tenant="a", **ROW)
        with pytest.raises(Conflict, match="already"):
            schedules.add(connection, name="job", tenant="a", **ROW)
        (one,) = schedules.every(connection, ANY)
        schedules.released(connection, one, due_at=NOW, at=NOW, state="failed", file="in", mark="in 1 2")
        many = [f"in {n} 2" for n in range(70_000)]  # more than any database binds to one statement
        assert (schedules.seen_to(connection, one, NOW), schedules.taken(connection, one, many)) == ({"in"}, set())
        assert schedules.at_work(connection, one, NOW) is None
        assert [each["state"] for each in schedules.history(connection, "a", "job", 9)] == ["failed"]
        batch = {"state": "submitted", "batch_id": "b", "mark": "in 5 2"}
        schedules.released(connection, one, due_at=NOW, at=NOW, **batch)
        assert schedules.taken(connection, one, many) == {"in 5 2"}
        schedules.unchanged(connection, one, due_at=NOW, at=NOW, note="nothing")
        schedules.unchanged(connection, one, due_at=NOW, at=NOW + HOUR, note="nothing")
        assert [each["at"] for each in schedules.history(connection, "a", "job", 9)] == [NOW + HOUR, NOW, NOW]
        schedules.forget(connection, NOW + HOUR, 9)
        assert [each["state"] for each in schedules.history(connection, "a", "job", 9)] == ["skipped", "submitted"]
        schedules.forget(connection, NOW + 2 * HOUR, 9)
        assert [each["state"] for each in schedules.history(connection, "a", "job", 9)] == ["submitted"]
        schedules.remove(connection, "a", "job")
        assert schedules.every(connection, "a") == []


def test_the_commands(server: LiveServer, client: Client) -> None:
    def command(*words: str) -> str:
        done = CliRunner().invoke(cli, ["schedule", *words, "--server", server.url], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    words = ["--cron", "0 * * * *", "--tz", "Europe/Berlin", "--file", "in.jsonl", "--deadline", "10h", "--missed", "skip"]
    assert "2026-05-01 15:00 Europe/Berlin" in command("add", "job", *words, "--model", "tiny", "--priority", "3")
    assert client.schedules.retrieve("job").batchsched["priority"] == 3
    assert json.loads(command("show", "job", "--json"))["missed"] == "skip"
    assert "job\t0 * * * *, Europe/Berlin\tin.jsonl\t10h" in command("list")
    later(server, 0.52)
    assert "in.jsonl" in command("history", "job")
    assert json.loads(command("history", "job", "--json"))["state"] == "submitted"
    assert "paused" in command("pause", "job")
    assert "Europe/Berlin" in command("resume", "job")
    assert "removed" in command("remove", "job")
    assert command("list", "--json") == ""


async def test_the_asynchronous_twin(server: LiveServer) -> None:
    async with AsyncClient(server.url) as client:
        made = await client.schedules.add("job", **JOB)
        assert await client.schedules.retrieve("job") == made
        assert (await client.schedules.pause("job")).paused_at
        assert (await client.schedules.resume("job")).next_at
        assert await client.schedules.history("job") == ()
        assert [one.id for one in await client.schedules.list()] == ["job"]
        await client.schedules.remove("job")
