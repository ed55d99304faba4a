"""What systemd is told: by real processes, on a real socket."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchsched import supervisor
from tests.live import PATIENCE_S
from tests.processes import Stage, end


@pytest.fixture
def heard(tmp_path: Path) -> Iterator[socket.socket]:
    """The supervisor's socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(PATIENCE_S)
        yield listener


def _until(listener: socket.socket, wanted: str) -> set[str]:
    """Everything that came up to `wanted`, which is waited for."""
    said = set[str]()
    while wanted not in said:
        said.add(listener.recv(100).decode())
    return said


def test_a_server_and_a_worker_say_that_they_are_ready_that_they_live_and_that_they_end(
    tmp_path: Path, heard: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}
    with Stage(tmp_path) as stage:
        server = stage.server(extra=told)
        assert "READY=1" in _until(heard, "WATCHDOG=1") | _until(heard, "WATCHDOG=1")
        assert end(server) in {0, -signal.SIGTERM}
        _until(heard, "STOPPING=1")
        stage.server()
        stage.engine()
        for name, value in told.items():
            monkeypatch.setenv(name, value)
        worker = stage.worker()
        _until(heard, "READY=1")
        _until(heard, "WATCHDOG=1")
        worker.send_signal(signal.SIGTERM)
        _until(heard, "STOPPING=1")
        assert worker.wait(timeout=PATIENCE_S) == 0


def test_nothing_is_said_where_nobody_listens(tmp_path: Path) -> None:
    supervisor.tell("READY=1", {})
    supervisor.tell("READY=1", {"NOTIFY_SOCKET": str(tmp_path / "gone")})
    assert supervisor.beat_s({}) is None
    assert supervisor.beat_s({"WATCHDOG_USEC": "0"}) is None
    assert supervisor.beat_s({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}) is None  # meant for another process
    assert supervisor.beat_s({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}) == 15.0
    asyncio.run(supervisor.beats({}))


def test_the_abstract_namespace_is_spoken_to() -> None:
    name = f"batchsched-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0{name}")
        listener.settimeout(PATIENCE_S)
        supervisor.ready({"NOTIFY_SOCKET": f"@{name}"})
        assert listener.recv(100) == b"READY=1"
