"""Files of recurring jobs: which are new, and that none is taken while somebody writes it."""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchsched import Client
from batchsched.clock import ManualClock
from batchsched.errors import InvalidValue
from batchsched.server import files, recurring, releasing
from batchsched.server.inputs import check_pattern, filled, found_below
from batchsched.server.recurring import Recurring
from batchsched.server.settling import CUT, CUT_FOR_S, NOT_AT_REST, STAYS_CUT, Rest, Settling, is_cut, seen
from batchsched.wire import PREFIX
from tests.live import BASIC, LiveServer, live_server, requests
from tests.test_schedules import HOUR, NOW, from_folder, later, look, told

JOB: dict[str, Any] = {"cron": "0 * * * *", "file": "drop", "deadline": "10h", "overlap": True}
SETTLE_S = 30.0
WAITS = NOT_AT_REST.format(SETTLE_S)
CUT_SHORT = requests(2)[:-10]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW + timedelta(minutes=30))


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    folder = tmp_path / "inputs" / "default"
    (folder / "drop").mkdir(parents=True)
    return folder


@pytest.fixture
def drop(inputs: Path) -> Path:
    return inputs / "drop"


@pytest.fixture
def server(tmp_path: Path, inputs: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> Generator[LiveServer]:
    monkeypatch.setattr(recurring, "LOOK_AGAIN_S", 3600.0)
    monkeypatch.setattr(Recurring, "poke", lambda _: None)  # the tests say when
    with live_server(tmp_path, BASIC, clock=clock, **{**from_folder(inputs), "server__inputs_settle_s": SETTLE_S}) as live:
        yield live


@pytest.fixture
def client(server: LiveServer) -> Generator[Client]:
    with Client(server.url) as client:
        yield client


@pytest.fixture
def alarms(server: LiveServer) -> Recurring:
    """That stay from look to look, as a server's do."""
    return Recurring(server.runtime)


def passes(server: LiveServer, alarms: Recurring, seconds: float) -> None:
    """Time passes, and somebody looks."""
    server.advance(seconds)
    look(alarms)


def write(path: Path, content: bytes, clock: ManualClock, *, ago_s: float = 0.0) -> None:
    """A file that was changed so long ago."""
    path.write_bytes(content)
    at = clock.now().timestamp() - ago_s
    os.utime(path, (at, at))


def test_what_is_new_in_a_folder_is_taken_once(
    server: LiveServer, client: Client, drop: Path, clock: ManualClock, alarms: Recurring
) -> None:
    client.schedules.add("job", **JOB)
    passes(server, alarms, 3600)
    assert told(client) == [("skipped", None, "There is no new file.")]
    write(drop / "a.jsonl", requests(1), clock)
    write(drop / "b.jsonl", requests(1), clock)
    (drop / "notes.txt").write_text("not a batch")
    passes(server, alarms, 3600)
    passes(server, alarms, 1)  # a look does not make two
    assert told(client)[1:] == [("submitted", "drop/a.jsonl", None), ("submitted", "drop/b.jsonl", None)]
    write(drop / "b.jsonl", requests(2), clock)  # it was changed
    passes(server, alarms, 3600)
    passes(server, alarms, 1)
    assert told(client)[3:] == [("submitted", "drop/b.jsonl", None)]


def test_a_file_that_is_written_waits_and_the_history_says_so(
    server: LiveServer, client: Client, drop: Path, clock: ManualClock, alarms: Recurring
) -> None:
    client.schedules.add("job", **JOB)
    server.advance(1800)
    write(drop / "slow.jsonl", requests(1), clock)
    write(drop / "old.jsonl", requests(1), clock, ago_s=86400)
    look(alarms)
    waiting = [("skipped", f"drop/{name}.jsonl", WAITS) for name in ("old", "slow")]
    assert sorted(told(client)) == waiting
    passes(server, alarms, 1)  # long at rest, and seen twice
    assert sorted(told(client)) == [waiting[1], ("submitted", "drop/old.jsonl", None)]
    for lines in (2, 3):
        server.advance(25)
        write(drop / "slow.jsonl", requests(lines), clock)
        look(alarms)
        assert len(told(client)) == 2
    passes(server, alarms, 25)
    assert len(told(client)) == 2
    passes(server, alarms, 6)
    assert sorted(told(client)) == [("submitted", "drop/old.jsonl", None), ("submitted", "drop/slow.jsonl", None)]
    made = {one.file: client.batches.retrieve(one.batch_id or "") for one in client.schedules.history("job")}
    server.until(made["drop/slow.jsonl"].id, "in_progress")
    assert client.batches.retrieve(made["drop/slow.jsonl"].id).request_counts.total == 3


def test_what_is_still_written_when_the_next_time_is_due_is_that_times(
    server: LiveServer, client: Client, drop: Path, clock: ManualClock, alarms: Recurring
) -> None:
    client.schedules.add("job", **{**JOB, "missed": "skip"})
    server.advance(1800)
    write(drop / "a.jsonl", requests(1), clock)
    look(alarms)
    for _ in range(2):  # long after it was due, and not missed: it was begun in time
        server.advance(1500)
        write(drop / "a.jsonl", requests(1), clock)
        look(alarms)
        assert [(one.due_at, one.note) for one in client.schedules.history("job")] == [(NOW + HOUR, WAITS)]
    server.advance(600)
    write(drop / "a.jsonl", requests(1), clock)
    look(alarms)
    assert [(one.due_at, one.note) for one in client.schedules.history("job")] == [(NOW + 2 * HOUR, WAITS)]
    passes(server, alarms, SETTLE_S)
    assert [(one.due_at, one.state) for one in client.schedules.history("job")] == [(NOW + 2 * HOUR, "submitted")]


def test_a_single_file_that_never_comes_to_rest_has_failed(
    server: LiveServer, client: Client, inputs: Path, clock: ManualClock, alarms: Recurring
) -> None:
    client.schedules.add("job", **{**JOB, "file": "{time}.jsonl"})
    server.advance(1800)
    write(inputs / "1300.jsonl", requests(1), clock)
    look(alarms)
    assert told(client) == [("skipped", "1300.jsonl", WAITS)]
    server.advance(3600)
    write(inputs / "1300.jsonl", requests(2), clock)
    write(inputs / "1400.jsonl", requests(1), clock, ago_s=60)
    look(alarms)
    passes(server, alarms, 1)
    assert told(client) == [
        ("failed", "1300.jsonl", releasing.NEVER_AT_REST),
        ("submitted", "1400.jsonl", None),
    ]


@pytest.mark.parametrize("restarts", [True, False], ids=["restart", "sleep"])
def test_a_single_file_that_came_to_rest_while_nobody_looked_is_taken(
    server: LiveServer, client: Client, inputs: Path, clock: ManualClock, alarms: Recurring, restarts: bool
) -> None:
    client.schedules.add("job", **{**JOB, "file": "{time}.jsonl"})
    server.advance(1800)
    write(inputs / "1300.jsonl", requests(1), clock)
    look(alarms)
    server.advance(3600)
    write(inputs / "1300.jsonl", requests(2), clock, ago_s=3000)
    write(inputs / "1400.jsonl", requests(1), clock, ago_s=60)
    alarms = Recurring(server.runtime) if restarts else alarms
    look(alarms)
    assert told(client) == [("skipped", "1300.jsonl", WAITS)]
    passes(server, alarms, 1)
    passes(server, alarms, 1)
    assert told(client) == [("submitted", "1300.jsonl", None), ("submitted", "1400.jsonl", None)]


def test_a_single_file_that_is_written_after_a_restart_has_failed(
    server: LiveServer, client: Client, inputs: Path, clock: ManualClock, alarms: Recurring
) -> None:
    client.schedules.add("job", **{**JOB, "file": "{time}.jsonl"})
    write(inputs / "1300.jsonl", requests(1), clock)
    passes(server, alarms, 1800)
    server.advance(3600)
    write(inputs / "1400.jsonl", requests(1), clock, ago_s=60)
    alarms = Recurring(server.runtime)
    for lines in (2, 3):
        assert told(client) == [("skipped", "1300.jsonl", WAITS)]
        write(inputs / "1300.jsonl", requests(lines), clock)
        passes(server, alarms, releasing.TURN_S)
    assert told(client)[0] == ("failed", "1300.jsonl", releasing.NEVER_AT_REST)


def test_nothing_waits_while_it_is_paused(
    server: LiveServer, client: Client, drop: Path, clock: ManualClock, alarms: Recurring
) -> None:
    client.schedules.add("job", **JOB)
    server.advance(1800)
    write(drop / "a.jsonl", requests(1), clock)
    look(alarms)
    client.schedules.pause("job", dry_run=True)
    assert told(client) == [("skipped", "drop/a.jsonl", WAITS)]
    client.schedules.pause("job")
    assert told(client) == []
    client.schedules.resume("job")
    passes(server, alarms, 3600)
    passes(server, alarms, 1)
    assert told(client) == [("submitted", "drop/a.jsonl", None)]


def test_nothing_waits_for_a_schedule_whose_key_is_over(
    server: LiveServer, drop: Path, clock: ManualClock, alarms: Recurring
) -> None:
    master = server.post(f"{PREFIX}/keys", {"scopes": ["operate", "submit", "read"]})["key"]
    server.http.headers["authorization"] = f"Bearer {master}"
    made = server.post(f"{PREFIX}/keys", {"scopes": ["submit", "read"]})
    with Client(server.url, made["key"]) as theirs:
        theirs.schedules.add("job", **JOB)
    server.advance(1800)
    write(drop / "a.jsonl", requests(1), clock)
    look(alarms)
    with Client(server.url, master) as client:
        assert told(client) == [("skipped", "drop/a.jsonl", WAITS)]
        server.post(f"{PREFIX}/keys/{made['id']}/revoke")
        passes(server, alarms, 15)
        ((state, _, note),) = told(client)
    assert state == "failed"
    assert "was revoked" in (note or "")


def test_of_missed_times_each_has_its_file(
    server: LiveServer, client: Client, inputs: Path, clock: ManualClock, alarms: Recurring
) -> None:
    client.schedules.add("job", **{**JOB, "file": "{time}.jsonl", "missed": "all"})
    for name in ("1300", "1400", "1500"):
        write(inputs / f"{name}.jsonl", requests(1), clock)
    server.advance(3 * 3600)
    for _ in range(4):
        passes(server, alarms, 1)
    assert told(client) == [("submitted", f"{name}.jsonl", None) for name in ("1300", "1400", "1500")]


def test_a_restart_looks_twice_again(server: LiveServer, client: Client, drop: Path, clock: ManualClock) -> None:
    client.schedules.add("job", **JOB)
    write(drop / "a.jsonl", requests(1), clock)
    later(server, 0.5)
    later(server, 0.25)
    assert told(client) == [("skipped", "drop/a.jsonl", WAITS)]
    alarms = Recurring(server.runtime)
    passes(server, alarms, 1)
    passes(server, alarms, 1)
    assert told(client) == [("submitted", "drop/a.jsonl", None)]


def test_a_last_line_that_is_cut_off_never_becomes_a_request(
    server: LiveServer, client: Client, drop: Path, clock: ManualClock, alarms: Recurring
) -> None:
    client.schedules.add("job", **JOB)
    server.advance(1800)
    write(drop / "a.jsonl", CUT_SHORT, clock, ago_s=60)
    look(alarms)
    passes(server, alarms, 1)
    assert told(client) == [("skipped", "drop/a.jsonl", CUT)]
    passes(server, alarms, CUT_FOR_S)
    failed = ("failed", "drop/a.jsonl", STAYS_CUT.format(CUT_FOR_S))
    assert told(client) == [failed]
    passes(server, alarms, 3600)
    passes(server, alarms, 1)
    assert told(client) == [failed]  # told once, whenever it is met
    assert list(client.batches.list()) == []
    write(drop / "a.jsonl", requests(2).rstrip(), clock)  # no end of line: it is whole all the same
    passes(server, alarms, 3600)
    passes(server, alarms, 1)
    assert told(client) == [failed, ("submitted", "drop/a.jsonl", None)]


def test_a_file_that_is_written_while_it_is_read_is_not_kept(
    server: LiveServer, client: Client, drop: Path, clock: ManualClock, alarms: Recurring, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.schedules.add("job", **JOB)
    server.advance(1800)
    write(drop / "a.jsonl", requests(1), clock, ago_s=60)
    look(alarms)
    keep = files.keep

    def kept_while_written(*what: Any) -> str:
        kept = keep(*what)
        write(drop / "a.jsonl", requests(2), clock)
        return kept

    monkeypatch.setattr(releasing, "keep", kept_while_written)
    passes(server, alarms, 1)
    assert told(client) == [("skipped", "drop/a.jsonl", WAITS)]
    assert list(client.files.list()) == []
    assert list(client.batches.list()) == []
    monkeypatch.undo()
    passes(server, alarms, SETTLE_S)
    passes(server, alarms, SETTLE_S)
    assert told(client) == [("submitted", "drop/a.jsonl", None)]


def test_a_file_that_is_no_batch_while_it_is_written_waits(
    server: LiveServer, client: Client, inputs: Path, clock: ManualClock, alarms: Recurring, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.schedules.add("job", **{**JOB, "file": "a.jsonl"})
    server.advance(1800)
    write(inputs / "a.jsonl", requests(1), clock, ago_s=60)
    look(alarms)
    keep = files.keep

    def kept_while_written(*what: Any) -> str:
        write(inputs / "a.jsonl", b"\x1f\x8bcompressed", clock)
        return keep(*what)

    monkeypatch.setattr(releasing, "keep", kept_while_written)
    passes(server, alarms, 1)
    assert told(client) == [("skipped", "a.jsonl", WAITS)]
    monkeypatch.undo()
    write(inputs / "a.jsonl", requests(2), clock)
    passes(server, alarms, SETTLE_S)
    passes(server, alarms, 1)
    assert told(client) == [("submitted", "a.jsonl", None)]
    assert len(list(client.files.list())) == 1


def test_a_file_that_goes_away_waits_no_longer(
    server: LiveServer, client: Client, drop: Path, clock: ManualClock, alarms: Recurring
) -> None:
    client.schedules.add("job", **JOB)
    write(drop / "a.jsonl", requests(1), clock)
    passes(server, alarms, 1800)
    assert told(client) == [("skipped", "drop/a.jsonl", WAITS)]
    (drop / "a.jsonl").rename(drop / "a.txt")
    passes(server, alarms, SETTLE_S)
    assert told(client) == [("skipped", None, "There is no new file.")]


def test_files_dated_ahead_are_watched_for_as_long(tmp_path: Path) -> None:
    clock, path = ManualClock(NOW), tmp_path / "a.jsonl"
    settling = Settling(clock, SETTLE_S, 1000)
    write(path, requests(1), clock, ago_s=-7200)

    def rest() -> Rest:
        found = seen(path)
        assert found
        return settling.look([(path, found)])[path]

    assert rest() == Rest(WAITS, SETTLE_S, unsure=True)
    clock.advance(SETTLE_S - 1)
    assert rest() == Rest(WAITS, 1.0, unsure=True)
    clock.set_wall(NOW - HOUR)  # the time of day jumps back; how long it was looked at does not
    clock.advance(1)
    assert rest() == Rest()
    assert seen(tmp_path / "gone.jsonl") is None
    write(path, requests(2), clock, ago_s=-7200)  # now it was seen to change
    assert rest() == Rest(WAITS, SETTLE_S)


@given(whole=st.integers(0, 3), cut=st.integers(0, 40), longest=st.sampled_from([5, 10_000_000]))
def test_only_the_beginning_of_an_object_is_cut_off(
    tmp_path_factory: pytest.TempPathFactory, whole: int, cut: int, longest: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "cut.jsonl"
    last = json.dumps({"custom_id": "x" * 70_000 if whole == 3 else "x", "url": "/v1/embeddings"}).encode()
    part = last[: max(0, len(last) - cut)]
    path.write_bytes(b'{"a": 1}\n' * whole + part)
    expected = part.startswith(b"{") and cut > 0 and (longest > 5 or len(part) <= 70_000)
    assert is_cut(path, longest) is expected


def test_what_is_no_text_of_lines_is_not_judged(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    for content in (b"", b"\n", b"\x1f\x8bcompressed", b'{"a": 1}', b'{"a": 1}\n', b'{"a": 1}\n  ', b"[1, 2"):
        path.write_bytes(content)
        assert not is_cut(path, 100)
    assert not is_cut(tmp_path / "gone.jsonl", 100)


def test_times_without_a_new_file_are_one_entry(server: LiveServer, client: Client) -> None:
    client.schedules.add("job", **JOB)
    for _ in range(3):
        later(server)
    (one,) = client.schedules.history("job")
    assert (one.note, one.due_at) == ("There is no new file.", NOW + 3 * HOUR)


def test_links_that_lead_out_are_not_followed(tmp_path: Path, inputs: Path) -> None:
    (tmp_path / "secret.jsonl").write_text("x")
    (inputs / "in.jsonl").write_text("x")
    (inputs / "link.jsonl").symlink_to(tmp_path / "secret.jsonl")
    assert found_below(inputs.resolve(), "link.jsonl", NOW, "UTC") == ([], False)
    assert found_below(inputs.resolve(), "*.jsonl", NOW, "UTC") == ([inputs.resolve() / "in.jsonl"], True)
    assert filled("{date}/{time}.jsonl", NOW, "Asia/Kolkata") == "2026-05-01/1730.jsonl"
    for wrong in ("", "a/../../b", "\0", "a\\b", "{x}", "a**/b.jsonl"):
        with pytest.raises(InvalidValue):
            check_pattern(wrong)
