"""Run a command so that it disturbs its host little: on some cores, giving way to others, first to go where memory runs out.

`python -I -S host_cores.py [--cores 0,1,2] [--nice N] [--idle] -- COMMAND...` binds itself and becomes the command; threads and
children inherit all of it. Nothing here needs rights: each is a wish for less. Standard library only: it starts in 20 ms.

Linux and others with the calls: nice everywhere, cores and the idle class on Linux.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

_FIRST_TO_GO = "1000"
_LOWEST = 19


def confined(command: Sequence[str], cores: Sequence[int], nice: int, idle: bool) -> list[str]:
    """The command line that runs `command` so; the command itself where nothing is asked. `cores`: empty for all."""
    asked = [*(["--cores", ",".join(map(str, cores))] if cores else []), *(["--nice", str(nice)] if nice else [])]
    asked += ["--idle"] if idle else []
    return [sys.executable, "-I", "-S", __file__, *asked, "--", *command] if asked else list(command)


def missing(cores: Sequence[int]) -> list[int]:
    """Of some cores those that this process may not use; none where nothing can tell."""
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(cores)
    return sorted(set(cores) - usable)


def main(argv: Sequence[str]) -> int:
    """Become the command, bound."""
    options, command = list(argv[: argv.index("--")]), list(argv[argv.index("--") + 1 :])
    if "--cores" in options and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(core) for core in options[options.index("--cores") + 1].split(",")})
    nice = int(options[options.index("--nice") + 1]) if "--nice" in options else 0
    if nice:
        os.setpriority(os.PRIO_PROCESS, 0, max(os.getpriority(os.PRIO_PROCESS, 0), nice))
    if os.getsid(0) == os.getpid():  # Linux weighs whole sessions against each other: niceness counts only inside of one
        with contextlib.suppress(OSError):
            Path("/proc/self/autogroup").write_text(str(_LOWEST if "--idle" in options else nice))
    if "--idle" in options and hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    with contextlib.suppress(OSError):  # where memory runs out, the kernel is to end this before anything that serves users
        Path("/proc/self/oom_score_adj").write_text(_FIRST_TO_GO)
    os.execvp(command[0], command)  # noqa: S606 - becoming the given command is the point
    raise AssertionError("unreachable: execvp returns only by raising")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
