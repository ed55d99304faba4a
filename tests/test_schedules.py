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
from batchsched.errors import BatchschedError, Conflict, InvalidValue, NotFound
from batchsched.queue import audit, schedules
from batchsched.queue.database import Database
from batchsched.queue.tenancy import ANY
from batchsched.server import recurring
from batchsched.server.recurring import Recurring, by_rule, check_pattern, filled, found_below
from batchsched.wire import PREFIX
from tests.live import BASIC, LiveServer, live_server, requests

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
JOB: dict[str, Any] = {"cron": "0 * * * *", "file": "in.jsonl", "deadline": "10h"}


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW + timedelta(minutes=30))


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    folder = tmp_path / "inputs" / "default"
    folder.mkdir(parents=True)
    (folder / "in.jsonl").write_bytes(requests(2))
    return folder


@pytest.fixture
def server(tmp_path: Path, inputs: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> Generator[LiveServer]:
    monkeypatch.setattr(recurring, "ROUND_S", 3600.0)  # the tests say when
    with live_server(tmp_path, BASIC, clock=clock, server__inputs_dir=str(inputs.parent)) as live:
        yield live


@pytest.fixture
def client(server: LiveServer) -> Generator[Client]:
    with Client(server.url) as client:
        yield client


def later(server: LiveServer, hours: float = 1.0) -> None:
    """So many hours pass, and somebody looks."""
    server.advance(3600 * hours)
    Recurring(server.runtime).round()


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
    Recurring(server.runtime).round()
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


def test_what_is_new_in_a_folder_is_taken_once(server: LiveServer, client: Client, inputs: Path) -> None:
    drop = inputs / "drop"
    drop.mkdir()
    watching: dict[str, Any] = {**JOB, "file": "drop", "overlap": True}
    client.schedules.add("job", **watching)
    later(server)
    assert told(client) == [("skipped", None, "There is no new file.")]
    (drop / "a.jsonl").write_bytes(requests(1))
    (drop / "b.jsonl").write_bytes(requests(1))
    (drop / "notes.txt").write_text("not a batch")
    later(server)
    assert told(client)[1:] == [("submitted", "drop/a.jsonl", None), ("submitted", "drop/b.jsonl", None)]
    (drop / "b.jsonl").write_bytes(requests(2))  # it was changed
    later(server)
    assert told(client)[3:] == [("submitted", "drop/b.jsonl", None)]


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
        Recurring(server.runtime).round()
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
    Recurring(server.runtime).round()
    monkeypatch.undo()
    monkeypatch.setattr(recurring, "ROUND_S", 3600.0)
    Recurring(server.runtime).round()
    assert [state for state, *_ in told(client)] == ["submitted"]
    assert len(list(client.batches.list())) == 1
    assert len(list(client.files.list())) == 1  # what was read a second time is kept once


def test_what_becomes_no_batch_is_not_kept(server: LiveServer, client: Client) -> None:
    client.schedules.add("job", **JOB, models=["nobody"])
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

    monkeypatch.setattr(recurring, "found_below", fails)
    server.advance(1900)
    patient = Recurring(server.runtime)
    for _ in range(3):
        patient.round()
    assert len(looks) == 1
    server.advance(recurring.REST_S)
    patient.round()
    assert len(looks) == 2


def test_it_goes_on_after_a_restart(tmp_path: Path, inputs: Path, clock: ManualClock) -> None:
    flags = {"server__inputs_dir": str(inputs.parent)}
    with live_server(tmp_path, BASIC, clock=clock, **flags) as server, Client(server.url) as client:
        client.schedules.add("job", **JOB)
    clock.advance(2 * 3600)
    with live_server(tmp_path, BASIC, clock=clock, **flags) as server, Client(server.url) as client:
        Recurring(server.runtime).round()
        assert told(client)[-1] == ("submitted", "in.jsonl", None)


def test_a_paused_job_makes_nothing_and_makes_up_for_nothing(server: LiveServer, client: Client) -> None:
    client.schedules.add("job", **JOB)
    assert client.schedules.pause("job").next_at is None
    later(server, 3)
    assert client.schedules.resume("job").paused_at is None
    Recurring(server.runtime).round()
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
    ],
)
def test_what_is_wrong_is_named(client: Client, change: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidValue) as problem:
        client.schedules.add("job", **{**JOB, **change})
    assert problem.value.param == param
    assert client.schedules.list() == ()


def test_a_server_without_a_folder_of_inputs_says_so(tmp_path: Path) -> None:
    with live_server(tmp_path) as server, Client(server.url) as client, pytest.raises(Conflict, match="no folder of inputs"):
        client.schedules.add("job", **JOB)


def test_a_file_that_is_no_batch_is_told(server: LiveServer, client: Client, inputs: Path) -> None:
    (inputs / "in.jsonl").write_bytes(b"\x1f\x8bcompressed")
    client.schedules.add("job", **JOB)
    later(server)
    ((state, file, note),) = told(client)
    assert (state, file) == ("failed", "in.jsonl")
    assert "compressed" in (note or "")


def test_links_that_lead_out_are_not_followed(tmp_path: Path, inputs: Path) -> None:
    (tmp_path / "secret.jsonl").write_text("x")
    (inputs / "link.jsonl").symlink_to(tmp_path / "secret.jsonl")
    assert found_below(inputs.resolve(), "link.jsonl", NOW, "UTC") == ([], False)
    assert found_below(inputs.resolve(), "*.jsonl", NOW, "UTC") == ([inputs.resolve() / "in.jsonl"], True)
    assert filled("{date}/{time}.jsonl", NOW, "Asia/Kolkata") == "2026-05-01/1730.jsonl"
    for wrong in ("", "a/../../b", "\0", "a\\b", "{x}", "a**/b.jsonl"):
        with pytest.raises(InvalidValue):
            check_pattern(wrong)


def test_a_tenant_sees_its_own_folder_alone(server: LiveServer, client: Client, inputs: Path) -> None:
    (inputs.parent / "other").mkdir()
    (inputs.parent / "other" / "secret.jsonl").write_bytes(requests(1))
    (inputs.parent / "top.jsonl").write_bytes(requests(1))
    (inputs / "link.jsonl").symlink_to(inputs.parent / "other" / "secret.jsonl")
    client.schedules.add("job", **{**JOB, "file": "other/secret.jsonl"})
    client.schedules.add("every", **{**JOB, "file": "**/*.jsonl"})
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
    row: dict[str, Any] = {
        "tenant": "a",
        "cron": "0 * * * *",
        "timezone": "UTC",
        "file": "in",
        "endpoint": "e",
        "options": {},
        "missed": "once",
    }
    row |= {"created_at": NOW, "looked_at": NOW, "overlap": False}
    with database.write() as connection:
        schedules.add(connection, name="job", **row)
        with pytest.raises(Conflict, match="already"):
            schedules.add(connection, name="job", **row)
        (one,) = schedules.every(connection, ANY)
        schedules.released(connection, one, due_at=NOW, at=NOW, state="failed", file="in", mark="in 1 2")
        assert (schedules.seen_to(connection, one, NOW), schedules.taken(connection, one, ["in 1 2"])) == ({"in"}, set())
        assert schedules.at_work(connection, one, NOW) is None
        assert [each["state"] for each in schedules.history(connection, "a", "job", 9)] == ["failed"]
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
