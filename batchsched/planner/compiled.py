"""Loops that Python is too slow for, compiled to machine code by numba when they are first called.

What is compiled is kept in the user's cache folder, one folder for each state of the sources: numba itself looks at the file of a
function alone, and would go on using what a changed one, compiled into it, used to be. Folders that nobody has used for a month
go when a new one comes. NUMBA_CACHE_DIR names another place. Of processes that start together on a new machine one compiles,
which takes a minute, and the others wait for what it keeps, but not for ever: it may hang. Where nothing can be written, each
process compiles anew.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import numpy as np

log = logging.getLogger(__name__)
KEPT_S = 30 * 86_400.0
PATIENCE_S = 300.0
"""With another process that compiles: several times what it takes."""
_LOOK_S = 0.1
SETTINGS: Any = vars(numba)["config"]
JIT: Any = numba.njit
TYPES: Any = numba.types
PLAIN = os.environ.get("NUMBA_DISABLE_JIT", "0") not in {"", "0"}
"""Nothing is compiled, for tests: a tiny problem is sooner solved so. The answers are the same."""

F = TypeVar("F", bound=Callable[..., Any])

LEAN = {"_nrt": False}
INNER = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
"""Nothing by which Python or C could call it: for each function that takes the search's state, that is most of the code."""


def compiled(function: F) -> F:
    """The same function on numbers and numpy arrays, compiled. It must stay within numba's subset of Python."""
    return _compile(function, {})


def lean(function: F) -> F:
    """The same without counting who refers to an array: calls with many arrays are then cheap, but none may be made within."""
    return _compile(function, LEAN)


def inner(function: F) -> F:
    """As `compiled`, for what compiled functions alone call: it compiles in half the time."""
    return _njit(function, INNER)


def lean_inner(function: F) -> F:
    """As `lean`, for what compiled functions alone call."""
    return _njit(function, LEAN | INNER)


def inlined(function: F) -> F:
    """A lean one that becomes part of each compiled caller: for small ones that are called very often."""
    return _njit(function, LEAN | INNER | {"forceinline": True})


def attributed(records: Any) -> Any:
    """An array of records whose fields are attributes where nothing is compiled, too."""
    return records.view(np.recarray) if PLAIN else records


def _compile(function: F, options: dict[str, bool]) -> F:
    before = SETTINGS.CACHE_DIR
    SETTINGS.CACHE_DIR = folder = _folder(before)
    try:
        return _one_at_a_time(_njit(function, options | {"cache": True}), folder)
    except RuntimeError:  # no place to keep it
        return _njit(function, options)
    finally:
        SETTINGS.CACHE_DIR = before


def _njit(function: F, options: dict[str, bool]) -> F:
    if PLAIN:
        return function
    dispatcher = JIT(**options)(function)
    look_up = dispatcher.get_call_template

    def get_call_template(args: tuple[Any, ...], kws: dict[str, Any]) -> Any:
        """One version for all constants, and for integers of any size: numba would make one for each."""
        return look_up(tuple(map(_plain, args)), kws)

    dispatcher.get_call_template = get_call_template
    return cast("F", dispatcher)


def _one_at_a_time(function: F, folder: str) -> F:
    """The same, compiled by no two processes at once: who comes later finds what the first has kept."""
    if PLAIN or not folder:
        return function
    dispatcher: Any = function
    compile_now = dispatcher.compile

    def compile_alone(signature: Any) -> Any:
        with _TURN.taken(Path(folder) / "compiling"):
            return compile_now(signature)

    dispatcher.compile = compile_alone
    return function


class Turn:
    """To compile: of one process at a time, and of its threads one after the other."""

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self._threads, self._deep, self._patience_s = threading.RLock(), 0, patience_s

    @contextmanager
    def taken(self, path: Path) -> Generator[None]:
        """Hold the lock of that file, once however deep; where it cannot be had there is none."""
        with self._threads:
            file = None
            if not self._deep:
                with suppress(OSError):
                    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                    self._wait(file, path)
            self._deep += 1
            try:
                yield
            finally:
                self._deep -= 1
                if file is not None:
                    os.close(file)

    def _wait(self, file: int, path: Path) -> None:
        """Until it is ours, or patience is at its end: then for this process for good."""
        until = time.monotonic() + self._patience_s
        while not _locked(file):
            if time.monotonic() < until:
                time.sleep(_LOOK_S)
                continue
            if self._patience_s > 0:
                holder = os.pread(file, 20, 0).decode("ascii", "replace").strip() or "unknown"
                log.warning(
                    "Process %s has held %s for more than %.0f s, so this one compiles for itself. Where it hangs, end it.",
                    holder, path, self._patience_s,
                )  # fmt: skip
            self._patience_s = 0.0
            return
        os.ftruncate(file, 0)
        os.pwrite(file, b"%d\n" % os.getpid(), 0)


def _locked(file: int) -> bool:
    """Take the lock, unless another process has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


_TURN = Turn()


def _plain(kind: Any) -> Any:
    kind = TYPES.unliteral(kind)
    return TYPES.int64 if isinstance(kind, TYPES.Integer) else kind


@cache
def _folder(named: str) -> str:
    """Where the code of these sources is kept, within a folder of that name if there is one; empty where there is no home to keep
    it in, then numba looks for a place."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        text = file.read_bytes()
        if b"planner.compiled import" in text or file.name == Path(__file__).name:
            digest.update(text)
    try:
        home = Path(named or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return ""
    folder = home / "batchsched" / "compiled" / digest.hexdigest()[:16]
    with suppress(OSError):
        _take_over(folder)
    return str(folder)


def _take_over(folder: Path) -> None:
    """Note that it is used; remove its neighbours that nobody used for long."""
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    os.utime(folder)
    for other in folder.parent.iterdir() if new else ():
        if other.is_dir() and folder.stat().st_mtime - other.stat().st_mtime > KEPT_S:
            shutil.rmtree(other, ignore_errors=True)
