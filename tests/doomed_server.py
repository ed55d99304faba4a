"""A real `batchsched serve` that kills itself with SIGKILL at a named point, the n-th time it comes there.

`python -m tests.doomed_server POINT N -- serve --config ...`. Points: `upload` (a line of an upload was checked), `uploaded` (its
bytes are in place, its row is still to come), `cut` (a batch's chunks are written, not yet committed), `claimed` (a lease is
given, the worker does not know it yet), `append` (results are stored, the commit is still to come), `part` (the same, on an
object store), `acknowledged` (committed, the worker does not know it yet), `merge` (a line of a merge is written), `merged` (both
files are in place, the commit is still to come), `completed` (committed).
Where the environment names a file in DOOM_VICTIM, the process group whose number it holds is killed there instead. The point
`never` kills nobody. DOOM_ACKS names a file that gets, for each result, the monotonic time at which it had been committed and its
custom_id; DOOM_CLOCK one that holds the seconds by which the time of day is wrong.
"""

from __future__ import annotations

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
from batchsched.wire import Acknowledged, Results


def _dying(function: Callable[..., Any], times: int, *, before: bool = False) -> Callable[..., Any]:
    left = times

    def doomed(*args: Any, **kwargs: Any) -> Any:
        nonlocal left
        left -= 1
        if before and left == 0:
            _kill()
        result = function(*args, **kwargs)
        if left == 0 and not before:
            _kill()
        return result

    return doomed


def _kill() -> None:
    victim = os.environ.get("DOOM_VICTIM")
    if victim:
        os.killpg(int(Path(victim).read_text()), signal.SIGKILL)
    else:
        os.kill(os.getpid(), signal.SIGKILL)


def doom(point: str, times: int) -> None:
    """Arrange the death."""
    places: dict[str, tuple[Any, str, bool]] = {
        "upload": (Checker, "_tokens", False),
        "uploaded": (files, "add", True),
        "cut": (chunks, "add", False),
        "append": (FolderStore, "append", False),
        "part": (ObjectStore, "append", False),
        "claimed": (LeaseDesk, "claim", False),
        "acknowledged": (LeaseDesk, "record", False),
        "merge": (Merged, "write", False),
        "merged": (merging, "_commit", True),
        "completed": (merging, "_commit", False),
    }
    if point == "never":
        return
    owner, name, before = places[point]
    setattr(owner, name, _dying(getattr(owner, name), times, before=before))


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
    doom(sys.argv[1], int(sys.argv[2]))
    from batchsched.cli.main import main

    sys.argv = ["batchsched", *sys.argv[4:]]
    main()
