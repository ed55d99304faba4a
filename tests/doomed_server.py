"""A real `batchsched serve` that kills itself with SIGKILL at a named point, the n-th time it comes there.

`python -m tests.doomed_server POINT N -- serve --config ...`. Points: `upload` (a line of an upload was checked), `append`
(results are stored, the commit is still to come), `part` (the same, on an object store), `acknowledged` (committed, the worker
does not know it yet), `merge` (a line of a merge is written), `merged` (both files are in place, the commit is still to come),
`completed` (committed).
Where the environment names a file in DOOM_VICTIM, the process group whose number it holds is killed there instead.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from batchsched.lines.checking import Checker
from batchsched.queue import merging
from batchsched.queue.folder_store import FolderStore
from batchsched.queue.merging import Merged
from batchsched.queue.object_store import ObjectStore
from batchsched.server.workers import LeaseDesk


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
        "upload": (Checker, "feed", False),
        "append": (FolderStore, "append", False),
        "part": (ObjectStore, "append", False),
        "acknowledged": (LeaseDesk, "record", False),
        "merge": (Merged, "write", False),
        "merged": (merging, "_commit", True),
        "completed": (merging, "_commit", False),
    }
    owner, name, before = places[point]
    setattr(owner, name, _dying(getattr(owner, name), times, before=before))


if __name__ == "__main__":
    doom(sys.argv[1], int(sys.argv[2]))
    from batchsched.cli.main import main

    sys.argv = ["batchsched", *sys.argv[4:]]
    main()
