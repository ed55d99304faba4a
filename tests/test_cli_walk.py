"""A walk over all commands: each helps, refuses what it does not know, and fails with a documented code and the next step."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from batchsched.cli import exits
from batchsched.cli.examples import EXAMPLES
from batchsched.cli.main import cli
from batchsched.testing import FakeServer
from tests.commands import call
from tests.live import requests
from tools.make_docs import commands, top

LASTING = {"demo", "run", "serve", "worker", "profile run", "simulate"}
"""What works for long, or until it is told to stop: only asked for help, and refused."""
FOUND = {path.removeprefix("batchsched "): one for path, one, _ in commands(cli, top())}
AWAY = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, str]]:
    with FakeServer() as open_, FakeServer(api_key="right") as keyed:
        yield {"there": open_.url, "closed": keyed.url, "away": AWAY}


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with the files that examples name, and no patience."""
    (tmp_path / "requests.jsonl").write_bytes(requests(2))
    (tmp_path / "grid.csv").write_text("zone,start,end,realised\nDE,2026-05-01T06:00:00Z,2026-05-01T07:00:00Z,100\n")
    for name in ("out/greedy", "out/EDF"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    monkeypatch.setattr("batchsched.transport.time.sleep", lambda _: None)


def asks_a_server(command: click.Command) -> bool:
    return {"server", "api_key"} <= {one.name for one in command.params}


def words(name: str) -> list[str]:
    """Its example, in this folder and with an end."""
    instead = {"top": ["top", "--once"], "backup": ["backup", "copy"]}
    return instead.get(name) or shlex.split(EXAMPLES[name])


def helps(name: str) -> tuple[list[str], set[int]]:
    return [*name.split(), "--help"], {exits.OK}


def does_not_know(name: str) -> tuple[list[str], set[int]]:
    return [*name.split(), "--no-such-option"], {exits.USAGE}


def finds_nobody(name: str) -> tuple[list[str], set[int]]:
    return words(name), {exits.TRY_AGAIN}


def may_not(name: str) -> tuple[list[str], set[int]]:
    return [*words(name), "--api-key", "wrong"], {exits.UNAUTHORIZED}


def works(name: str) -> tuple[list[str], set[int]]:
    """On a server that knows files, batches and models, and of these none that an example names."""
    return words(name), set(exits.MEANING) - {exits.UNAUTHORIZED, exits.INTERRUPTED}


Way = Callable[[str], tuple[list[str], set[int]]]
WAYS: dict[Way, tuple[str, set[str]]] = {
    helps: ("there", set(FOUND)),
    does_not_know: ("there", set(FOUND)),
    finds_nobody: ("away", {name for name, one in FOUND.items() if asks_a_server(one)} - LASTING),
    may_not: ("closed", {name for name, one in FOUND.items() if asks_a_server(one)} - LASTING),
    works: ("there", set(FOUND) - LASTING),
}
"""Each way, with the server that is asked and the commands that are tried."""


@pytest.mark.parametrize("terminal", [False, True], ids=["pipe", "terminal without colour"])
@pytest.mark.parametrize(
    "way", [pytest.param(way, id=way.__name__, marks=[pytest.mark.slow] if way is works else []) for way in WAYS]
)
def test_every_command_keeps_its_manners(
    way: Way, terminal: bool, servers: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server, names = WAYS[way]
    monkeypatch.setenv("BATCHSCHED_WORKER_SERVER_URL", servers[server])
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    wrong: list[str] = []
    for name in sorted(names):
        arguments, allowed = way(name)
        with monkeypatch.context() as patched:
            patched.setattr(sys.stdout, "isatty", lambda: terminal)
            code = call(*arguments)
        said = capsys.readouterr()
        wrong += [f"{name}: {what}" for what in complaints(code, allowed, said.out, said.err)]
    assert wrong == []


def complaints(code: int, allowed: set[int], out: str, err: str) -> Iterator[str]:
    """What a command did not do as it should."""
    if code not in allowed:
        yield f"ended with {code}: {err[-500:]}"
    if "\x1b" in out + err:
        yield f"has escapes: {out + err!r}"
    if "Traceback" in err or "should not have happened" in err:
        yield f"broke: {err[-1000:]}"
    if code == exits.USAGE and "Usage:" in err:
        if "for help." not in err or out:
            yield f"refuses without saying where help is: {out + err!r}"
    elif code in exits.NEXT and not ("Error: " in err and "Hint: " in err):
        yield f"fails without the next step: {err!r}"
