"""Completion in a shell: the scripts, and what they are told."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from shutil import which

import pytest

from batchsched.cli.main import COMMANDS, main
from batchsched.wire import PREFIX
from tests.live import BASIC, LiveServer, live_server, requests


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("completion")
    with live_server(folder, BASIC, server__inputs_dir=str(folder)) as running:
        yield running


def offered(server: str, *words: str) -> list[str]:
    """What bash is told for the last of these words."""
    told = {
        "COMP_WORDS": " ".join(["batchsched", *words]),
        "COMP_CWORD": str(len(words)),
        "_BATCHSCHED_COMPLETE": "bash_complete",
    }
    command = [sys.executable, "-c", "from batchsched.cli.main import main; main([])"]
    environment = {**os.environ, **told, "_BATCHSCHED_COMPLETE": "bash_complete", "BATCHSCHED_WORKER_SERVER_URL": server}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_its_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["completion", shell])
    assert stop.value.code == 0
    script = capsys.readouterr().out
    assert f"_BATCHSCHED_COMPLETE={shell}_complete" in script
    if (program := which(shell)) and shell != "fish":
        subprocess.run([program, "-n"], input=script, text=True, check=True)


def test_commands_and_options_are_offered() -> None:
    away = "http://127.0.0.1:9"
    assert offered(away, "") == list(COMMANDS)
    assert offered(away, "pa") == ["partner", "pause"]
    assert offered(away, "pool", "d") == ["drain"]
    assert "--dry-run" in offered(away, "pool", "drain", "--d")


def test_what_the_server_knows_is_offered(server: LiveServer) -> None:
    batch_id = server.submit(requests(1))["id"]
    server.post(f"{PREFIX}/windows", {"name": "nights", "pool": "local", "cron": "0 22 * * *", "duration": "8h"})
    assert offered(server.url, "show", "batch_") == [batch_id]
    assert offered(server.url, "show", "other") == []
    assert offered(server.url, "pool", "drain", "") == ["local"]
    assert offered(server.url, "window", "skip", "ni") == ["nights"]
    job = {"name": "evaluation", "cron": "0 20 * * *", "file": "in.jsonl", "batchsched": {"deadline": "2h"}}
    server.post(f"{PREFIX}/schedules", job)
    assert offered(server.url, "schedule", "history", "ev") == ["evaluation"]
    assert offered(server.url, "submit", "f", "--model", "") == ["tiny"]


def test_a_server_that_is_away_offers_nothing() -> None:
    assert offered("http://127.0.0.1:9", "show", "") == []
