"""Starting up: what the command line imports, how it refuses, and its exit codes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from batchsched.cli import common, exits
from batchsched.cli.main import COMMANDS, cli, main

HEAVY = {"httpx", "msgspec", "pydantic", "rich", "pandas", "ortools", "fastapi", "sqlalchemy", "matplotlib", "aiohttp", "asyncio"}


def call(*arguments: str) -> int:
    """The exit code of a command run in this process."""
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    assert isinstance(stop.value.code, int)
    return stop.value.code


def imported_by(*arguments: str) -> set[str]:
    """Top-level packages that a fresh interpreter imports for a command."""
    command = [sys.executable, "-X", "importtime", "-m", "batchsched.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


def test_help_imports_nothing_but_click() -> None:
    loaded = imported_by("--help")
    assert "click" in loaded
    assert not loaded & HEAVY


def test_help_of_validate_imports_no_network_and_no_frames() -> None:
    assert not imported_by("validate", "--help") & (HEAVY - {"msgspec"})


def test_importing_the_package_costs_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import batchsched, sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    assert not {name.partition(".")[0] for name in done.stdout.split()} & HEAVY


def test_every_command_can_be_loaded_and_has_a_help(capsys: pytest.CaptureFixture[str]) -> None:
    for name, (_, text) in COMMANDS.items():
        assert call(name, "--help") == exits.OK
        assert capsys.readouterr().out.startswith(f"Usage: batchsched {name}"), text
    assert cli.list_commands(None) == list(COMMANDS)  # type: ignore[arg-type]


def test_a_mistyped_command_is_a_usage_error_with_advice(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("sumbit") == exits.USAGE
    assert "Did you mean 'submit'?" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["list"], ["show", "batch_1"], ["explain", "batch_1"], ["report"], ["plan", "show"]])
def test_a_server_that_is_away_means_try_again(
    command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchsched.transport.time.sleep", lambda _: None)
    assert call(*command, "--server", "http://127.0.0.1:9") == exits.TRY_AGAIN
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("Error: The server at http://127.0.0.1:9 cannot be reached")
    assert "Hint: " in printed.err
    assert "Traceback" not in printed.err


def test_debug_shows_the_traceback() -> None:
    command = [sys.executable, "-m", "batchsched.cli", "--debug", "config", "show", "--config", "/nonexistent.toml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Traceback" in done.stderr
    assert "InvalidConfiguration" in done.stderr


def test_a_missing_extra_says_what_to_install(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(common.EXTRAS, "server", ("a_package_that_is_not_there",))
    assert call("serve") == exits.USAGE
    assert "pip install '.[server]'" in capsys.readouterr().err


@pytest.mark.parametrize("deadline", ["6x", "tomorrow", "2026-05-01T06:00:00", "-3h", "0s"])
def test_a_bad_deadline_is_a_usage_error_before_anything_starts(deadline: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("run", __file__, "--model", "m", f"--deadline={deadline}") == exits.USAGE
    assert "--deadline" in capsys.readouterr().err
