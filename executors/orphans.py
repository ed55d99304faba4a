"""Engines left behind by a worker that is gone: find them, end them.

An engine's processes are known by the log that their standard output goes to: its name holds the owner's process id and start,
children inherit it, and nothing they do to their title or environment hides it (vLLM's EngineCore overwrites both). Linux only;
elsewhere nothing is found.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_PROC = Path("/proc")
_LOG = re.compile(r"/engine-[^/]*\.owner-(\d+)-(\d+)\.log(?: \(deleted\))?$")
_START_FIELD = 19  # /proc/PID/stat's starttime, counted after the command's closing bracket (proc(5), field 22)


def log_name(served: str, number: int) -> str:
    """The name of the log of this process's `number`th engine; carries what `end_orphans` looks for."""
    safe = re.sub(r"[^A-Za-z0-9_.-]+", "-", served)[:60]
    return f"engine-{safe}-{number}.owner-{os.getpid()}-{_started(os.getpid()) or 0}.log"


def of_another(log: str) -> bool:
    """Is it the log of an engine of another process that is there? False where that cannot be told."""
    found = _LOG.search(f"/{log}")
    if found is None or int(found[1]) == os.getpid() or not _PROC.is_dir():
        return False
    return _started(int(found[1])) == int(found[2])


def end_orphans(grace_s: float = 3.0) -> int:
    """End every engine process whose owner is gone, by force after `grace_s` seconds. Returns how many there were."""
    found = list(_orphans())
    for pid in found:
        _signal(pid, signal.SIGTERM)
    if not wait_until(lambda: not any(map(_alive, found)), grace_s):
        for pid in found:
            _signal(pid, signal.SIGKILL)
        wait_until(lambda: not any(map(_alive, found)), grace_s)
    return len(found)


def wait_until(true: Callable[[], bool], timeout_s: float) -> bool:
    """Look every 50 ms until it is true or the time is over. Blocks: not for an event loop."""
    until = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() >= until:
            return False
        time.sleep(0.05)
    return True


def _orphans() -> Iterator[int]:
    if not _PROC.is_dir():
        return
    for folder in _PROC.iterdir():
        # Process ids mean something only within our own namespace: another container's engines are not ours to judge.
        with contextlib.suppress(OSError):
            if folder.name.isdigit() and (folder / "ns/pid").readlink() == (_PROC / "self/ns/pid").readlink():
                log = _LOG.search(str((folder / "fd/1").readlink()))
                if log and _started(int(log[1])) != int(log[2]):
                    yield int(folder.name)


def _started(pid: int) -> int | None:
    """When a process began, in clock ticks since boot (a wall clock that jumps does not change it); None if it is gone."""
    try:
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[_START_FIELD])


def _alive(pid: int) -> bool:
    return _started(pid) is not None


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
