"""`batchsched doctor` on the machine: Python, its clock, what is installed, and where things are kept."""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from batchsched.cli.common import EXTRAS, lacking
from batchsched.cli.printed import Finding

if TYPE_CHECKING:
    from batchsched.settings import Loaded

SLOW_FSYNC_MS = 20.0
LITTLE_GB = 1.0
OLDEST_PYTHON = (3, 11)
THIS_IS_PAST = 2026
"""No machine with a clock that is right says an earlier year."""


def python() -> Finding:
    """Its version, and the environment that this runs in."""
    text = f"{sys.version.split()[0]} in {sys.prefix}"
    if sys.version_info >= OLDEST_PYTHON:
        return Finding("python", "ok", text)
    return Finding("python", "broken", f"{text}, too old", "Install batchsched into an environment of Python 3.11 or newer.")


def clock() -> Iterator[Finding]:
    """The time and its zone, and whether zones of windows can be looked up."""
    now = datetime.now().astimezone()
    text = f"{now:%Y-%m-%d %H:%M:%S %Z (UTC%z)}"
    if now.year >= THIS_IS_PAST:
        yield Finding("clock", "ok", text)
    else:
        yield Finding("clock", "broken", f"{text} cannot be", "Set it, and keep it right by NTP: timedatectl set-ntp true")
    try:
        ZoneInfo("Europe/Berlin")
    except ZoneInfoNotFoundError:
        yield Finding("time zones", "broken", "there is no table of them, so no window can have one", "pip install tzdata")


def extras(_: Loaded) -> Iterator[Finding]:
    """Which parts of batchsched are installed."""
    for extra in EXTRAS:
        if missing := lacking(extra):
            what = f"pip install 'batchsched[{extra}]', where this machine is to be one"
            yield Finding(f"extra {extra}", "warning", f"lacks {', '.join(missing)}", what)
        else:
            yield Finding(f"extra {extra}", "ok", "installed")


def data_folder(loaded: Loaded) -> Iterator[Finding]:
    """Writable, and how long it takes until a write is on the disk: each acknowledgement waits for one."""
    folder = Path(loaded.settings.server.data_dir).absolute()
    present = next(path for path in (folder, *folder.parents) if path.is_dir())
    if not os.access(present, os.W_OK):
        what = f"Give the server's user the right to ({present}), or name another folder: server.data_dir."
        yield Finding("data folder", "broken", f"{present} cannot be written to", what)
        return
    took_ms = statistics.median(fsync_ms(present) for _ in range(20))
    free_gb = os.statvfs(present).f_bavail * os.statvfs(present).f_frsize / 1e9
    slow, full = took_ms > SLOW_FSYNC_MS, free_gb < LITTLE_GB
    text = f"{folder}: fsync takes {took_ms:.1f} ms{', which is slow' if slow else ''}; {free_gb:.1f} GB free"
    steps = ["Put server.data_dir on a local SSD."] if slow else []
    steps += ["Make room, or let retention.inputs_days and outputs_days be shorter."] if full else []
    yield Finding("data folder", "warning" if steps else "ok", text, " ".join(steps))


def fsync_ms(folder: Path) -> float:
    """How long one write of 4 KiB takes until it is on the disk."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"x" * 4096)
        file.flush()
        began = time.perf_counter()
        os.fsync(file.fileno())
        return (time.perf_counter() - began) * 1000


def inputs(loaded: Loaded) -> Iterator[Finding]:
    """Is the folder of recurring jobs' files there, where one is named?"""
    if folder := loaded.settings.server.inputs_dir:
        if Path(folder).is_dir() and os.access(folder, os.R_OK | os.X_OK):
            yield Finding("inputs", "ok", f"{folder} can be read")
        else:
            what = "Make it, or name another one: server.inputs_dir. Recurring jobs find no files without it."
            yield Finding("inputs", "broken", f"{folder} cannot be read", what)


def store(loaded: Loaded) -> Iterator[Finding]:
    """Can the files be reached, where they do not lie in the data folder?"""
    url = loaded.settings.server.store_url
    if url.startswith("file://"):
        if os.access(url.removeprefix("file://"), os.R_OK | os.W_OK):
            yield Finding("store", "ok", f"{url} can be written to")
        else:
            what = "Make the folder, give the server's user the right to it, or name another one: server.store_url."
            yield Finding("store", "broken", f"{url} cannot be written to", what)
    elif url:
        from batchsched.queue.stores import open_store

        used = open_store(url, Path()).mark()
        yield Finding("store", "ok", f"{url} answers{'' if used else '; it holds nothing of batchsched yet'}")
