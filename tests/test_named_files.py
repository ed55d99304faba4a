"""`-` for standard input and output, wherever a command takes or gives a file."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from batchsched.cli import exits
from tests.commands import call
from tests.live import BASIC, LiveServer, live_server, requests
from tools.make_docs import commands, top


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with live_server(tmp_path_factory.mktemp("named"), BASIC) as running:
        yield running


@pytest.fixture
def piped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three requests on standard input."""
    stdin = SimpleNamespace(buffer=io.BytesIO(requests(3)), isatty=lambda: False)
    monkeypatch.setattr("batchsched.cli.named_files.sys", SimpleNamespace(stdin=stdin, stdout=sys.stdout, stderr=sys.stderr))


@pytest.mark.usefixtures("piped")
def test_standard_input_is_checked(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("validate", "-", "--json") == exits.OK
    assert json.loads(capsys.readouterr().out)["requests"] == 3


@pytest.mark.usefixtures("piped")
def test_standard_input_is_submitted(server: LiveServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("submit", "-", "--deadline", "6h", "--json", "--server", server.url) == exits.OK
    batch = json.loads(capsys.readouterr().out)
    assert server.until(batch["id"], "in_progress")["request_counts"]["total"] == 3
    assert server.get(f"/v1/files/{batch['input_file_id']}")["filename"] == "stdin.jsonl"


@pytest.mark.usefixtures("piped")
def test_a_run_of_standard_input_needs_a_place(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("run", "-", "--model", "tiny", "--deadline", "6h") == exits.USAGE
    assert "needs --out" in capsys.readouterr().err


def test_a_measured_file_comes_by_standard_input(
    server: LiveServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = b"zone,start,end,realised\nDE,2026-05-01T06:00:00Z,2026-05-01T07:00:00Z,100\n"
    stdin = SimpleNamespace(buffer=io.BytesIO(text), isatty=lambda: False)
    monkeypatch.setattr("batchsched.cli.named_files.sys", SimpleNamespace(stdin=stdin, stdout=sys.stdout, stderr=sys.stderr))
    assert call("forecast", "import", "-", "--provider", "mine", "--json", "--server", server.url) == exits.OK
    assert json.loads(capsys.readouterr().out)["measurements"] == 1


def test_a_picture_goes_to_standard_output_alone(server: LiveServer) -> None:
    command = [sys.executable, "-m", "batchsched.cli", "forecast", "show", "WORLD", "--server", server.url, "--plot", "-"]
    done = subprocess.run(command, capture_output=True, check=True)
    assert done.stdout.lstrip().startswith(b"<?xml")
    assert done.stdout.rstrip().endswith(b"</svg>")
    assert b"WORLD" in done.stderr


def test_a_table_goes_to_standard_output_as_csv(server: LiveServer) -> None:
    server.submit(requests(1))
    command = [sys.executable, "-m", "batchsched.cli", "report", "--meters", "--server", server.url, "--export", "-"]
    done = subprocess.run(command, capture_output=True, check=True)
    assert b"\x1b" not in done.stdout
    assert b"rows are in" in done.stderr


def test_a_wrong_name_is_told_before_anything_is_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("forecast", "show", "DE", "--plot", str(tmp_path / "a.gif"), "--server", "http://127.0.0.1:9") == exits.USAGE
    assert "needs a name that ends in .svg or .png" in capsys.readouterr().err
    assert call("report", "--export", str(tmp_path / "none" / "a.csv"), "--server", "http://127.0.0.1:9") == exits.USAGE
    assert "there is no folder" in capsys.readouterr().err


def test_every_file_that_is_taken_or_given_may_be_standard_input_or_output() -> None:
    import click

    from batchsched.cli.main import cli

    plain = {"--config"}  # configuration comes by flags and environment too
    for path, one, _ in commands(cli, top()):
        for parameter in one.params:
            if isinstance(parameter.type, click.Path) and parameter.type.file_okay and not plain & set(parameter.opts):
                assert parameter.type.allow_dash, f"{path} {parameter.name}"
