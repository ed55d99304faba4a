"""Starting up: what the command line imports, how it refuses, and its exit codes."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from batchsched.cli import common, exits
from batchsched.cli.examples import EXAMPLES
from batchsched.cli.main import COMMANDS, cli
from tests.commands import call
from tools.make_docs import commands, top

HEAVY = {"httpx", "msgspec", "pydantic", "rich", "pandas", "ortools", "fastapi", "sqlalchemy", "matplotlib", "aiohttp", "asyncio"}


def imported(code: str) -> set[str]:
    """Modules that a fresh interpreter has at its end; the code may fail."""
    told = f"import atexit, sys; atexit.register(lambda: print(*sys.modules, sep='\\n', file=sys.stderr))\n{code}"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=False)
    return set(done.stderr.splitlines())


def command(*arguments: str) -> str:
    """The code that runs a command."""
    return f"from batchsched.cli.main import main; main({list(arguments)})"


def packages(modules: set[str]) -> set[str]:
    """Their top-level packages."""
    return {name.partition(".")[0] for name in modules}


def imported_by(*arguments: str) -> set[str]:
    """Top-level packages that a fresh interpreter imports for a command."""
    return packages(imported(command(*arguments)))


def test_help_imports_nothing_but_click() -> None:
    loaded = imported_by("--help")
    assert "click" in loaded
    assert not loaded & HEAVY


def test_help_imports_of_ours_only_the_list_of_commands() -> None:
    ours = {name for name in imported(command("--help")) if name.partition(".")[0] == "batchsched"}
    assert ours == {"batchsched", "batchsched.cli", "batchsched.cli.exits", "batchsched.cli.main", "batchsched.errors"}


def test_list_imports_little_beside_click_and_httpx() -> None:
    """What `list` waits for beyond them: reading the configuration, and the blocking client. No asyncio, no drawing of tables."""
    bare = imported("import click, httpx")
    ours = imported(command("list", "--server", "http://127.0.0.1:9"))
    beside = packages(ours) - packages(bare)
    assert not beside & HEAVY - {"msgspec"}
    assert not {"asyncio", "csv", "difflib", "tomllib", "batchsched.wire"} & (ours - bare)
    assert {name for name in ours - bare if name.startswith("rich")} == set()
    unused = {"asynchronous", "async_runs", "runs", "loops", "requests"}
    unused |= {"forecasting", "forecasts", "operating", "plans", "profiles", "recurring", "schedules", "windowing", "windows"}
    assert not {f"batchsched.client.{name}" for name in unused} & ours
    assert {name for name in ours if name.startswith("batchsched.cli.")} == {
        f"batchsched.cli.{name}" for name in ("batches", "common", "completing", "examples", "exits", "main", "manners")
    }


def test_every_name_of_the_sdk_is_found_though_none_is_imported_at_first() -> None:
    from batchsched import client

    assert set(dir(client)) >= set(client.__all__)
    assert all(getattr(client, name) for name in client.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = client.Nothing  # pyright: ignore[reportAttributeAccessIssue]


def test_server_and_worker_import_opentelemetry_only_for_traces() -> None:
    """Its SDK, that is: other libraries import its bare API where that is there."""
    start = "import batchsched.cli.worker, batchsched.executors.worker, batchsched.server.process"
    asked = "from batchsched.traces import Traces, opened; opened(Traces({}), {{}}, 'x')"
    ours = {"batchsched.otlp", "opentelemetry.sdk", "opentelemetry.exporter"}
    before = f"print('before:', *{ours} & sys.modules.keys(), file=sys.stderr)"
    found = imported(f"{start}; {asked.format(repr(''))}; {before}; {asked.format(repr('http://127.0.0.1:9'))}")
    assert "before:" in found
    assert ours <= found


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
    assert "pip install 'batchsched[server]'" in capsys.readouterr().err


@pytest.mark.parametrize("deadline", ["6x", "tomorrow", "2026-05-01T06:00:00", "-3h", "0s"])
def test_a_bad_deadline_is_a_usage_error_before_anything_starts(deadline: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("run", __file__, "--model", "m", f"--deadline={deadline}") == exits.USAGE
    assert "--deadline" in capsys.readouterr().err


def test_every_command_has_an_example_that_can_be_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("requests.jsonl", "grid.csv"):
        (tmp_path / name).touch()
    for name in ("out/greedy", "out/EDF"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    found = {path.removeprefix("batchsched "): one for path, one, _ in commands(cli, top())}
    assert set(EXAMPLES) == set(found)
    for name, command in found.items():
        words = shlex.split(EXAMPLES[name])
        assert words[: len(name.split())] == name.split()
        with command.make_context(name, words[len(name.split()) :], parent=top()):
            pass
