"""The tutorial, block by block: a stranger's empty folder, a real server, a real worker, the real engine."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from batchsched.fleet import ServedModel
from batchsched.units import iso
from tests.live import PATIENCE_S
from tests.pages import ROOT, blocks, not_shown
from tests.processes import free_port

pytestmark = [pytest.mark.engine, pytest.mark.slow]
TUTORIAL = ROOT / "docs" / "tutorial.md"


class Shell:
    """One bash for all blocks, as a reader has one terminal."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self._bash = subprocess.Popen(
            ["bash", "--norc"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
            env=env,
            start_new_session=True,
        )

    def run(self, block: str) -> str:
        """What a block of commands prints, in both streams."""
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        self._bash.stdin.write(f"{block}\necho ::over\n")
        self._bash.stdin.flush()
        lines = list(iter(self._bash.stdout.readline, "::over\n"))
        return "".join(lines)

    def end(self) -> None:
        """End whatever still runs."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._bash.pid, signal.SIGTERM)
        self._bash.communicate(timeout=PATIENCE_S)


@pytest.fixture
def shell(tmp_path: Path, tiny_model: ServedModel) -> Generator[Shell]:
    """An empty folder but for what the demo leaves, a port of its own, and a grid that is dirty now and clean in four hours."""
    places = tmp_path / "bin"
    places.mkdir()
    for name, call in (("batchsched", [sys.executable, "-m", "batchsched.cli"]), ("python", [sys.executable])):
        (places / name).write_text(f'#!/bin/sh\nexec {shlex.join(call)} "$@"\n')
        (places / name).chmod(0o755)
    folder, port = tmp_path / "empty", free_port()
    (folder / ".models").mkdir(parents=True)
    (folder / ".models" / "tiny").symlink_to(tiny_model.path)
    (tmp_path / "grid.csv").write_text(grid(datetime.now(UTC)))
    env = os.environ | {
        "PATH": f"{places}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "BATCHSCHED_SERVER_PORT": str(port),
        "BATCHSCHED_WORKER_SERVER_URL": f"http://127.0.0.1:{port}",
        "BATCHSCHED_FORECAST_SOURCE": "file",
        "BATCHSCHED_FORECAST_PATH": str(tmp_path / "grid.csv"),
    }
    env.pop("BATCHSCHED_CONFIG", None)
    bash = Shell(folder, env)
    yield bash
    bash.end()


def grid(now: datetime) -> str:
    """A forecast of the tutorial's zone that does not depend on the hour that the test runs in."""
    first = now.replace(minute=0, second=0, microsecond=0)
    starts = [first + timedelta(hours=hour) for hour in range(97)]
    rows = [
        f"DE,{iso(at)},{iso(at + timedelta(hours=1))},{iso(first)},{120 if n % 12 == 4 else 380}" for n, at in enumerate(starts)
    ]
    return "\n".join(["# provider: a test", "# signal: average direct", "zone,start,end,issued_at,mean", *rows]) + "\n"


def test_every_command_prints_what_the_tutorial_says(shell: Shell, tmp_path: Path) -> None:
    """All but what installs, and the demo: its own test holds that against the tutorial."""
    folder, command, printed = tmp_path / "empty", "", ""
    for block in blocks(TUTORIAL, "sh", "text", "toml", "python"):
        if block.language == "toml":
            (folder / "batchsched.toml").write_text(block.text)
        elif block.language == "python":
            (folder / "requests.py").write_text(block.text)
        elif block.language == "sh":
            command = block.text
            printed = "" if "pip" in command or "demo" in command else shell.run(command)
        elif "demo" not in command:
            deadline = time.monotonic() + PATIENCE_S
            while (missing := not_shown(block.text, printed)) and "explain" in command and time.monotonic() < deadline:
                printed = shell.run(f"sleep 1\n{command}")
            logs = "".join(path.read_text()[-2000:] for path in folder.glob("*.log")) if missing else ""
            assert not missing, f"line {block.line}: {missing!r} is not in what `{command}` printed:\n{printed}\n{logs}"
    assert (folder / "answers" / "output.jsonl").read_text().count("\n") == 20
