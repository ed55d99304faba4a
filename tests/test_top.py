"""`batchsched top`: what it looks at, how it shows it, and what it leaves behind on a terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchsched.cli.glance import GridNow
from batchsched.cli.top_view import bars, hourly, rooms_of
from batchsched.client.forecasts import ForecastSlot
from batchsched.units import from_iso
from batchsched.wire import PREFIX
from tests.commands import call
from tests.live import EVENING, PATIENCE_S, LiveServer, live_server, requests

NIGHTS = {"name": "nights", "pool": "local", "cron": "0 22 * * *", "duration": "8h"}
OTHER_SCREEN, BACK = "\x1b[?1049h", "\x1b[?1049l"
HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with live_server(tmp_path_factory.mktemp("top"), EVENING) as running:
        running.post(f"{PREFIX}/windows", NIGHTS)
        running.until(running.submit(requests(3))["id"], "in_progress")
        yield running


def test_a_pipe_gets_it_once_as_lines_of_cells(server: LiveServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("top", "--server", server.url) == 0
    first, *parts = capsys.readouterr().out.split("\n\n")
    assert first.startswith(f"batchsched at {server.url}; ")
    assert "0 batches run, 1 wait" in first
    tables = {(lines := part.splitlines())[0]: [line.split("\t") for line in lines[1:]] for part in parts}
    assert list(tables) == ["grid", "pools", "batches", "windows"]
    assert all(len(row) == len(rows[0]) for rows in tables.values() for row in rows)
    zone, now, drawn, *_ = tables["grid"][1]
    assert (zone, len(drawn)) == ("DE", 24)
    assert float(now) > 0
    assert tables["pools"][1][:3] == ["local", "DE", "cpu"]
    assert tables["batches"][1][1] == "tiny"
    assert tables["windows"][1][:2] == ["nights", "local"]
    assert "\x1b" not in first + "".join(parts)


def test_json_has_what_the_tables_rest_on(server: LiveServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("top", "--server", server.url, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["id"] for one in found["pools"]] == ["local"]
    assert [one["id"] for one in found["windows"]] == ["nights"]
    assert found["batches"][0]["status"] == "in_progress"
    assert found["grid"][0]["slots"]
    assert found["hidden"] == []


def test_a_key_that_may_only_read_sees_batches_and_the_grid(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with live_server(tmp_path, EVENING, server__api_key="static") as keyed:
        keyed.http.headers["authorization"] = "Bearer static"
        key = keyed.post(f"{PREFIX}/keys", {"scopes": ["read"]})["key"]
        monkeypatch.setenv("BATCHSCHED_SERVER_API_KEY", key)
        assert call("top", "--server", keyed.url) == 0
    said = capsys.readouterr()
    assert "need a key with the scope `operate`" in said.err
    assert "\npools" not in said.out


def test_a_server_that_is_away_at_first_means_try_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchsched.transport.time.sleep", lambda _: None)
    assert call("top", "--server", "http://127.0.0.1:9", "--once") == 75


class Terminal:
    """The command in a pseudo-terminal of a size."""

    def __init__(self, *arguments: str, lines: int, columns: int) -> None:
        self._master, slave = pty.openpty()
        self.before = termios.tcgetattr(slave)
        self.resize(lines, columns)
        environment = {**os.environ, "TERM": "xterm-256color"}
        environment = {name: value for name, value in environment.items() if name not in {"COLUMNS", "LINES", "NO_COLOR"}}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "batchsched.cli", "top", *arguments],
            stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True,
        )  # fmt: skip
        self._slave = slave
        self.seen = ""

    def resize(self, lines: int, columns: int) -> None:
        """Another size, as a terminal's window says it."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def until(self, pattern: str, timeout_s: float = PATIENCE_S) -> re.Match[str]:
        """Read on until a pattern is seen; what was read before it is forgotten."""
        end = time.monotonic() + timeout_s
        while not (found := re.search(pattern, self.seen, re.DOTALL)):
            left_s = end - time.monotonic()
            assert left_s > 0, self.seen[-2000:]
            if select.select([self._master], [], [], left_s)[0]:
                self.seen += os.read(self._master, 65536).decode(errors="replace")
        self.seen = self.seen[found.end() :]
        return found

    def close(self) -> list[object]:
        """The terminal's settings, as the command left them."""
        after = termios.tcgetattr(self._slave)
        self.process.kill()
        self.process.wait()
        os.close(self._master)
        os.close(self._slave)
        return after


def test_a_terminal_is_left_as_it_was(server: LiveServer) -> None:
    terminal = Terminal("--server", server.url, "--every", "60", lines=30, columns=120)
    try:
        terminal.until(re.escape(OTHER_SCREEN))
        shown = terminal.until("nights.*?\x1b\\[\\?25|nights").group()
        assert shown
        terminal.resize(30, 60)
        terminal.process.send_signal(signal.SIGWINCH)
        assert len(terminal.until("batchsched at [^\r\n]*…").group()) <= 60  # long before the minute is over
        terminal.process.send_signal(signal.SIGINT)
        terminal.until(re.escape(BACK))
        assert terminal.process.wait(60) == 0
        terminal.until(re.escape(SHOW_CURSOR)) if SHOW_CURSOR in terminal.seen else None
    finally:
        after = terminal.close()
    assert after == terminal.before


def test_once_on_a_terminal_stays_on_it(server: LiveServer) -> None:
    terminal = Terminal("--server", server.url, "--once", lines=10, columns=120)
    try:
        terminal.until("windows.*nights")
        assert terminal.process.wait(60) == 0
        assert OTHER_SCREEN not in terminal.seen
    finally:
        terminal.close()


def test_each_section_has_its_share_of_the_lines() -> None:
    assert rooms_of([2, 50, 3], None) == [2, 50, 3]
    assert rooms_of([2, 50, 3], 30) == [2, 16, 3]
    assert rooms_of([40, 50], 26) == [10, 10]
    assert rooms_of([5, 5], 4) == [1, 1]


def test_bars_are_hours_and_what_is_unknown_is_said() -> None:
    now = from_iso("2026-05-01T06:20:00Z")
    slots = tuple(
        ForecastSlot(from_iso(f"2026-05-01T{hour:02}:00:00Z"), from_iso(f"2026-05-01T{hour + 1:02}:00:00Z"), mean)
        for hour, mean in ((6, 100.0), (7, 200.0), (8, None))
    )
    values = hourly(GridNow("DE", 100.0, slots), now)
    assert values[:4] == [100.0, 200.0, None, None]
    assert bars(values)[:4] == "▁█??"
    assert bars([5.0, 5.0]) == "▁▁"
