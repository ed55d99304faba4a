"""Run a command that is told to end when its parent dies, even by kill -9.

`python -I -S tether.py PARENT_PID [--signal N] -- COMMAND...` asks the kernel for a signal at the parent's death and then becomes
the command. Linux only (PR_SET_PDEATHSIG); elsewhere it just becomes the command. The kernel watches the thread that started the
child, so start tethered children from a thread that lives as long as the process. Standard library only: it starts in 20 ms.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1


def tethered(command: Sequence[str], *, end_by: int = signal.SIGTERM) -> list[str]:
    """The command line that runs `command` tethered to this process."""
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), "--signal", str(int(end_by)), "--", *command]


def bind_to_parent(parent_pid: int, end_by: int = signal.SIGTERM) -> bool:
    """Ask for `end_by` at the parent's death. False if the parent is gone already; True elsewhere than on Linux."""
    if not sys.platform.startswith("linux"):
        return True
    import ctypes

    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, end_by, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    return os.getppid() == parent_pid  # it may have died before the call: then no signal would ever come


def main(argv: Sequence[str]) -> int:
    """Become the command; returns only where the parent is gone already."""
    options, command = argv[: argv.index("--")], list(argv[argv.index("--") + 1 :])
    end_by = int(options[2]) if len(options) > 1 else signal.SIGTERM
    if not bind_to_parent(int(options[0]), end_by):
        return 128 + end_by
    os.execvp(command[0], command)  # noqa: S606 - becoming the given command is the point
    raise AssertionError("unreachable: execvp returns only by raising")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
