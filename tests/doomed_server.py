"""A real `batchsched serve` that kills itself with SIGKILL at a named point, the n-th time it comes there.

`python -m tests.doomed_server POINT N -- serve --config ...`. Points: `upload` (a line of an upload was checked), `uploaded` (its
bytes are in place, its row is still to come), `cut` (a batch's chunks are written, not yet committed), `claimed` (a lease is
given, the worker does not know it yet), `append` (results are stored, the commit is still to come), `part` (the same, on an
object store), `acknowledged` (committed, the worker does not know it yet), `merge` (a line of a merge is written), `merged` (both
files are in place, the commit is still to come), `completed` (committed).
The point `never` kills nobody. With `told FILE` in the place of point and number they are read from that file, whenever it is
written: `POINT N`, counted from there, or `POINT N PID`, where that process group is killed instead.
DOOM_ACKS names a file that gets, for each result, the monotonic time at which it had been committed and its custom_id; DOOM_CLOCK
one that holds the seconds by which the time of day is wrong.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from batchsched.clock import SystemClock
from batchsched.lines.checking import Checker
from batchsched.queue import chunks, files, merging
from batchsched.queue.folder_store import FolderStore
from batchsched.queue.merging import Merged
from batchsched.queue.object_store import ObjectStore
from batchsched.server.workers import LeaseDesk
from batchsched.wire import Acknowledged, Claimed, Results

Told = Callable[[], str]


def _dying(function: Callable[..., Any], point: str, told: Told, counts: Callable[[Any], bool] | None) -> Callable[..., Any]:
    """The function, fatal at its n-th call since it was `told` so: before it begins, or after the calls that count."""
    order, seen = "", 0

    def passed() -> None:
        nonlocal order, seen
        if (now := told()) != order:
            order, seen = now, 0
        named, times, *victim = order.split() or ("", "")
        if named == point:
            seen += 1
            if seen == int(times):
                os.killpg(int(victim[0]), signal.SIGKILL) if victim else os.kill(os.getpid(), signal.SIGKILL)

    def doomed(*args: Any, **kwargs: Any) -> Any:
        if counts is None:
            passed()
        result = function(*args, **kwargs)
        if counts is not None and counts(result):
            passed()
        return result

    return doomed


def _always(_: Any) -> bool:
    return True


def _leased(answer: Claimed) -> bool:
    return bool(answer.leases)


def doom(told: Told) -> None:
    """Arrange the death; `told` says where and when as the file does, and may change its mind."""
    places: dict[str, tuple[Any, str, Callable[[Any], bool] | None]] = {
        "upload": (Checker, "_tokens", _always),
        "uploaded": (files, "add", None),
        "cut": (chunks, "add", _always),
        "append": (FolderStore, "append", _always),
        "part": (ObjectStore, "append", _always),
        "claimed": (LeaseDesk, "claim", _leased),
        "acknowledged": (LeaseDesk, "record", _always),
        "merge": (Merged, "write", _always),
        "merged": (merging, "_commit", None),
        "completed": (merging, "_commit", _always),
    }
    for point, (owner, name, counts) in places.items():
        setattr(owner, name, _dying(getattr(owner, name), point, told, counts))


def written(path: str) -> Told:
    """What stands in the file; nothing while there is none."""

    def read() -> str:
        with contextlib.suppress(FileNotFoundError):
            return Path(path).read_text()
        return ""

    return read


def note_acknowledged(path: str) -> None:
    """Note each result after its commit, before the worker hears of it."""
    notes = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    record = LeaseDesk.record

    def noted(desk: LeaseDesk, chunk_id: str, message: Results) -> Acknowledged:
        answer = record(desk, chunk_id, message)
        ids = [json.loads(bytes(result.output))["custom_id"] for result in message.results]
        os.write(notes, "".join(f"{time.monotonic()} {custom_id}\n" for custom_id in ids).encode())
        return answer

    setattr(LeaseDesk, "record", noted)  # noqa: B010 - the checkers take a plain assignment for a mistake


def set_clock_by(path: str) -> None:
    """Add what the file says to the time of day."""

    def now(_: SystemClock) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=float(Path(path).read_text()))

    setattr(SystemClock, "now", now)  # noqa: B010 - as above


if __name__ == "__main__":
    if "DOOM_ACKS" in os.environ:
        note_acknowledged(os.environ["DOOM_ACKS"])
    if "DOOM_CLOCK" in os.environ:
        set_clock_by(os.environ["DOOM_CLOCK"])
    where, which = sys.argv[1:3]
    doom(written(which) if where == "told" else lambda: f"{where} {which}")
    from batchsched.cli.main import main

    sys.argv = ["batchsched", *sys.argv[4:]]
    main()
