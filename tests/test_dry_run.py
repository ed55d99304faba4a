"""`--dry-run` on every command that changes something, and that it changes nothing."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import click
import pytest

from batchsched.cli import exits
from batchsched.cli.main import cli
from batchsched.client import Client
from batchsched.queue import audit
from batchsched.queue.tenancy import ANY
from batchsched.testing import FakeServer
from batchsched.wire import PREFIX
from tests.commands import call
from tests.live import BASIC, LiveServer, live_server, requests
from tools.make_docs import commands, top

READS = {
    "audit", "carbon compare", "carbon crossover", "carbon hardware", "carbon reproduce ecoserve",
    "carbon reproduce greenllm", "carbon what-if", "completion",
    "config show", "doctor", "explain", "forecast evaluate", "forecast show", "forecast zones", "key list", "list", "plan replay",
    "plan show", "plan what-if", "pool list", "profile compare", "profile show", "report", "results", "schedule history",
    "schedule list", "schedule show", "show", "simulate", "simulate compare", "top", "validate", "wait", "window list",
    "window show",
}  # fmt: skip
"""Those that only read; what some of them write is the output that they were asked for."""
REASONS = {
    "demo": "it is a show in a folder of its own, which it makes anew each time",
    "serve": "it runs until it is told to stop; `doctor` looks at what it would meet",
    "worker": "it runs until it is told to stop; `doctor` looks at what it would meet",
    "partner": "it runs until it is told to stop; `doctor` looks at what it would meet",
    "profile run": "it measures and keeps what it measured; --no-server keeps it on this machine",
    "key create": "a key that is never made has nothing to be shown; revoking one undoes it",
    "forecast import": "the archive only grows, by what was not known; nothing is replaced",
    "forecast backfill": "the archive only grows, by what was not known; nothing is replaced",
    "forecast train": "a model is only taken where it beats the one before on weeks held out",
}
"""Commands that change something and have no `--dry-run`, each with why."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with live_server(tmp_path_factory.mktemp("dry"), BASIC) as running:
        yield running


@pytest.fixture
def batch_id(server: LiveServer) -> str:
    made: str = server.until(server.submit(requests(3))["id"], "in_progress")["id"]
    return made


def whole() -> dict[str, click.Command]:
    """Every command by its name."""
    return {path.removeprefix("batchsched "): command for path, command, _ in commands(cli, top())}


def test_every_command_that_changes_something_can_be_tried_first() -> None:
    able = {name for name, one in whole().items() if any("--dry-run" in option.opts for option in one.params)}
    others = set(whole()) - able - {name for name in whole() if name.startswith("schedule ")}
    told = READS | set(REASONS)
    assert others == {name for name in told if not name.startswith("schedule ")}
    assert not able & (READS | set(REASONS))


def entries(server: LiveServer) -> int:
    with server.runtime.database.read() as connection:
        return len(audit.page(connection, ANY, limit=1000))


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (["pause"], "paused since"),
        (["start"], "told to start"),
        (["update", "--priority", "7"], "would be as follows"),
        (["cancel"], "cancelling"),
        (["resume"], "in_progress"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_batch_stays_as_it_is(
    server: LiveServer, batch_id: str, command: list[str], shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before, noted = server.batch(batch_id), entries(server)
    assert call(*command, batch_id, "--dry-run", "--server", server.url) == exits.OK
    said = capsys.readouterr()
    assert shown in said.out + said.err
    assert "Nothing is changed" in said.err
    after = server.batch(batch_id)
    for fields in (before, after):
        fields["batchsched"].pop("progress")
    assert after == before
    assert entries(server) == noted
    assert call(*command, "batch_none", "--dry-run", "--server", server.url) == exits.NOT_FOUND


def test_a_retry_is_only_seen(server: LiveServer, batch_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("retry", batch_id, "--dry-run", "--server", server.url) == exits.FAILURE  # as without: it has not ended
    assert call("cancel", batch_id, "--server", server.url) == exits.OK
    server.until(batch_id, "cancelled")
    capsys.readouterr()
    assert call("retry", batch_id, "--dry-run", "--json", "--server", server.url) == exits.OK
    assert json.loads(capsys.readouterr().out)["batchsched"]["round"] == 1
    assert server.batch(batch_id)["batchsched"]["round"] == 0
    assert server.batch(batch_id)["status"] == "cancelled"


def test_pools_and_the_plan_stay_as_they_are(server: LiveServer, capsys: pytest.CaptureFixture[str]) -> None:
    before, noted = server.get(f"{PREFIX}/pools"), entries(server)
    for command, shown in (
        (["pool", "cordon", "local"], "cordoned"),
        (["pool", "drain", "local", "--until", "2h"], "drained"),
        (["plan", "freeze"], "Shifting would be frozen"),
        (["plan", "unfreeze"], "Work would wait again"),
    ):
        assert call(*command, "--dry-run", "--server", server.url) == exits.OK
        assert shown in capsys.readouterr().out
    assert server.get(f"{PREFIX}/pools") == before
    assert server.get(f"{PREFIX}/plan")["frozen"] is None
    assert entries(server) == noted
    server.post(f"{PREFIX}/pools/local/drain")
    assert call("pool", "open", "local", "--dry-run", "--json", "--server", server.url) == exits.OK
    assert json.loads(capsys.readouterr().out)["state"] == "open"
    assert server.get(f"{PREFIX}/pools")["data"][0]["state"] == "drained"
    server.post(f"{PREFIX}/pools/local/open")


def test_a_key_is_only_seen_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with live_server(tmp_path, BASIC, server__api_key="static") as keyed:
        keyed.http.headers["authorization"] = "Bearer static"
        key_id = keyed.post(f"{PREFIX}/keys", {"scopes": ["read"]})["id"]
        monkeypatch.setenv("BATCHSCHED_SERVER_API_KEY", "static")
        assert call("key", "revoke", key_id, "--dry-run", "--server", keyed.url) == exits.OK
        assert "would be revoked" in capsys.readouterr().err
        (key,) = [one for one in keyed.get(f"{PREFIX}/keys")["data"] if one["id"] == key_id]
        assert key["revoked_at"] is None


def test_a_submission_is_only_checked(server: LiveServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "in.jsonl"
    file.write_bytes(requests(3))

    def there() -> list[str]:
        return [one["id"] for kind in ("files", "batches") for one in server.get(f"/v1/{kind}")["data"]]

    before = there()
    submit = ["submit", str(file), "--deadline", "6h", "--dry-run", "--server", server.url]
    assert call(*submit) == exits.OK
    said = capsys.readouterr()
    assert "Nothing is submitted" in said.err
    assert "requests  3" in said.out
    assert call(*submit, "--json") == exits.OK
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (told["valid"], told["requests"], told["model"]) == (True, 3, "tiny")
    file.write_bytes(requests(1).replace(b'"tiny"', b'"giant"'))
    assert call(*submit) == exits.USAGE
    assert "model_not_found" in capsys.readouterr().out
    assert there() == before


def test_init_prints_what_it_would_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("init", "--dry-run") == exits.OK
    printed = capsys.readouterr().out
    assert call("init", "-") == exits.OK
    assert capsys.readouterr().out == printed
    assert list(tmp_path.iterdir()) == []
    assert call("init") == exits.OK
    assert (tmp_path / "batchsched.toml").read_text() == printed


class _Models(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b'{"object": "list", "data": [{"id": "tiny"}]}'
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as it is called there
        """Say nothing."""


@contextmanager
def engine_that_lists_its_model() -> Generator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Models) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()
        thread.join()


def test_a_run_is_only_looked_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "in.jsonl"
    file.write_bytes(requests(3))
    with engine_that_lists_its_model() as url:
        run = ["run", str(file), "--model", "tiny", "--deadline", "6h", "--zone", "DE", "--dry-run", "--engine-url", url]
        assert call(*run) == exits.OK
        said = capsys.readouterr().out
        assert ["would", "begin", "a", "run"] in [line.split() for line in said.splitlines()]
        assert call(*run, "--json") == exits.OK
        assert json.loads(capsys.readouterr().out)["zones"] == ["DE"]
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_a_fake_server_tries_too() -> None:
    with FakeServer(by_hand=True) as fake, Client(fake.url, "") as client:
        batch = client.batches.create(file=io.BytesIO(requests(2)))
        assert client.batches.pause(batch.id, dry_run=True).paused
        assert not client.batches.retrieve(batch.id).paused
        assert client.batches.cancel(batch.id, dry_run=True).status in {"cancelling", "cancelled"}
        assert client.batches.retrieve(batch.id).status not in {"cancelling", "cancelled"}
