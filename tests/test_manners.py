"""What all commands share: `--quiet`, `--watch`, `--yes`, and the order of their options."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from batchsched.cli import exits
from batchsched.cli.manners import SHARED
from batchsched.client import Batch, Client
from batchsched.testing import FakeServer
from tests.commands import call
from tests.live import requests
from tests.test_cli_walk import FOUND


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    with FakeServer(by_hand=True) as fake:
        monkeypatch.setenv("BATCHSCHED_WORKER_SERVER_URL", fake.url)
        yield fake


@pytest.fixture
def client(server: FakeServer) -> Iterator[Client]:
    with Client(server.url, "") as made:
        yield made


@pytest.fixture
def batch(client: Client) -> Batch:
    return client.batches.create(file=io.BytesIO(requests(2)))


def test_helps_show_shared_options_last_and_in_one_order() -> None:
    for name, command in FOUND.items():
        shared = [one.name for one in command.params if one.name in SHARED]
        assert [one.name for one in command.params][len(command.params) - len(shared) :] == shared, name
        assert shared == [one for one in SHARED if one in shared], name
        assert "quiet" in shared, name


def test_quiet_leaves_names_and_nothing_else(
    batch: Batch, server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (file := tmp_path / "in.jsonl").write_bytes(requests(2))
    assert call("submit", str(file), "--deadline", "6h", "--quiet") == exits.OK
    made = capsys.readouterr()
    assert call("list", "-q") == exits.OK
    listed = capsys.readouterr()
    assert listed.out.splitlines() == [made.out.strip(), batch.id]
    assert call("pause", batch.id, "-q", "--dry-run") == exits.OK
    assert capsys.readouterr() == (f"{batch.id}\n", "")
    server.work()
    assert call("wait", batch.id, "--quiet") == exits.OK
    assert capsys.readouterr() == (f"{batch.id}\n", "")
    assert made.err == listed.err == ""
    assert call("show", "batch_none", "-q") == exits.NOT_FOUND
    assert capsys.readouterr().err.startswith("Error: ")


def test_watching_a_batch_in_a_pipe_gives_a_line_for_each_change(
    batch: Batch, server: FakeServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    deeds: list[Callable[[], object]] = [
        lambda: server.work(1),
        lambda: server.fail_next(3),
        lambda: server.work(1),
        lambda: None,
    ]
    monkeypatch.setattr("batchsched.cli.watching.time.sleep", lambda s: deeds.pop()() if s == 2.0 else None)
    assert call("show", batch.id, "--watch") == exits.OK
    said = capsys.readouterr()
    lines = [json.loads(line) for line in said.out.splitlines()]
    assert [line["batchsched"]["progress"]["requests_done"] for line in lines] == [0, 1, 2]
    assert lines[-1]["status"] == "completed"
    assert said.err.count("The test said so.") == 1


def test_watching_a_list_ends_by_ctrl_c(
    batch: Batch, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("batchsched.cli.watching.time.sleep", stop)
    assert call("list", "--watch", "--json") == exits.OK
    assert json.loads(capsys.readouterr().out)["id"] == batch.id
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    assert call("list", "--watch") == exits.OK
    drawn = capsys.readouterr().out
    assert drawn.startswith("\x1b[H\x1b[J\x1b[H")
    assert "Ctrl-C ends it." in drawn
    assert batch.id in drawn
    assert call("show", batch.id, "--watch") == exits.INTERRUPTED  # it had an end of its own, which did not come
    monkeypatch.setenv("TERM", "dumb")
    capsys.readouterr()
    assert call("list", "--watch") == exits.OK
    assert json.loads(capsys.readouterr().out)["id"] == batch.id


class Typed(io.StringIO):
    """Somebody at a terminal, who types this."""

    def isatty(self) -> bool:
        return True


def test_people_are_asked_before_what_cannot_be_undone(
    batch: Batch, client: Client, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", Typed("n\n"))
    assert call("cancel", batch.id) == exits.FAILURE
    said = capsys.readouterr().err
    assert f"Cancel batch {batch.id}?" in said
    assert "Nothing is changed." in said
    assert not client.batches.retrieve(batch.id).done
    assert call("cancel", batch.id, "--dry-run") == exits.OK  # nothing to be asked about
    monkeypatch.setattr(sys, "stdin", Typed("y\n"))
    assert call("cancel", batch.id) == exits.OK
    assert client.batches.retrieve(batch.id).status in {"cancelling", "cancelled"}
    capsys.readouterr()
    call("cancel", batch.id, "--yes")
    assert "Cancel batch" not in capsys.readouterr().err


def test_what_is_undone_by_nothing_asks() -> None:
    asking = {name for name, one in FOUND.items() if any(option.name == "yes" for option in one.params)}
    assert asking == {"cancel", "key revoke", "schedule remove", "window remove"}
