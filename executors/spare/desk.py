"""Where the workers of one machine that share a server agree on what is in flight there, so that together they keep one budget.

A folder for each server; in it one file for each worker, which holds a lock on it as long as it lives and writes its figures into
it. The kernel frees the lock of a worker that ends, even by kill -9, and the server drops its requests as its connections close:
so what it had in flight counts no more. Room is taken under one further lock, so two workers never take the same room.

Workers on other machines are not seen here: to the governors they are online users, and each side keeps away from the other. The
scheduler, to which all of them talk, tells each desk its part of the ceiling.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import mmap
import os
import socket
import struct
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from batchsched.errors import InvalidConfiguration
from batchsched.executors.spare.window import Ours

_FIGURES = struct.Struct("<7q")
_HERE = {"127.0.0.1", "localhost", "::1", "0.0.0.0"}  # noqa: S104 - names that mean the same server


class Figures(msgspec.Struct, frozen=True):
    """Of one worker at one server."""

    in_flight: int = 0
    wants: int = 0
    """1 while it has requests to send."""
    sent: int = 0
    sent_tokens: int = 0
    slow_first: int = 0
    done_tokens: int = 0
    """Of prompts and answers that came back."""
    gone: int = 0
    """Requests that were sent and never answered."""


def server_of(url: str) -> str:
    """A server by this machine's name where it is here: beside each server stands a worker that says `localhost`."""
    at = urlsplit(url)
    host = socket.gethostname() if at.hostname in _HERE else at.hostname
    return f"{host}:{at.port or at.scheme}{at.path.rstrip('/')}"


def desk_folder(base: Path | None = None) -> Path:
    """Where this machine's workers of one user meet; made if need be. Raises InvalidConfiguration where it is another user's."""
    folder = base or Path(tempfile.gettempdir()) / f"batchsched-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise InvalidConfiguration(
            f"{folder}, where the workers of this machine share what is spare, belongs to another user.",
            hint="Remove it, or set TMPDIR for all workers that share a server.",
        )
    return folder


class Desk:
    """One worker's place. Close it when the worker ends; a killed one is seen to be gone."""

    def __init__(self, server_url: str, base: Path | None = None) -> None:
        self._folder = desk_folder(base) / f"spare-{hashlib.sha256(server_of(server_url).encode()).hexdigest()[:16]}"
        self._folder.mkdir(mode=0o700, exist_ok=True)
        there = self._folder.stat()
        self.name = f"{socket.gethostname()}:{there.st_dev}:{there.st_ino}"
        """The same for all workers that meet here, and for nobody else."""
        self._lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        self.mine = Figures()
        self._others: dict[str, mmap.mmap] = {}
        self._left = Figures()
        """What those who left had done: sums over all must not fall when somebody leaves."""
        with self._locked():  # nobody may take a new file, not yet locked, for that of a dead worker
            number, self._path = os.getpid(), self._folder / f"{os.getpid()}.worker"
            while self._path.exists():
                number += 1 << 22
                self._path = self._folder / f"{number}.worker"
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX)
            os.truncate(self._file, _FIGURES.size)
        self._figures = mmap.mmap(self._file, _FIGURES.size)

    def refresh(self) -> None:
        """Look who else is there; files of the dead are cleared away."""
        with self._locked():
            seen: set[str] = set()
            for path in self._folder.glob("*.worker"):
                if path == self._path:
                    continue
                if self._dead(path):
                    path.unlink(missing_ok=True)
                    continue
                seen.add(path.name)
                if path.name not in self._others:
                    with path.open("r+b") as file:
                        self._others[path.name] = mmap.mmap(file.fileno(), _FIGURES.size, access=mmap.ACCESS_READ)
            for gone in self._others.keys() - seen:
                figures = self._others.pop(gone)
                self._left = _together(self._left, _read(figures))
                figures.close()

    @property
    def others(self) -> list[Figures]:
        """What the others of the last `refresh` say now."""
        return [_read(each) for each in self._others.values()]

    @property
    def all(self) -> Ours:
        """Everybody's together."""
        everybody = [self._left, self.mine, *self.others]
        return Ours(
            sum(each.in_flight for each in everybody),
            sum(each.sent for each in everybody),
            sum(each.sent_tokens for each in everybody),
            sum(each.slow_first for each in everybody),
            sum(each.gone for each in everybody),
        )

    @property
    def done_tokens(self) -> int:
        """Of everybody, since each began."""
        return sum(each.done_tokens for each in (self._left, self.mine, *self.others))

    @property
    def wanted(self) -> bool:
        """Has anybody requests to send?"""
        return any(each.wants for each in (self.mine, *self.others))

    def has_room(self, most: int, many: int = 1) -> bool:
        """May this worker have so many more in flight, of `most` for all? Where that is short, each that wants has an equal
        share. More than fit at all go when nothing else is in flight."""
        others = self.others
        there = self.mine.in_flight + sum(each.in_flight for each in others)
        free = most - there
        if free < many:
            return free > 0 and not there
        wanting = [each for each in others if each.wants]
        share = most // (1 + len(wanting)) + (most % (1 + len(wanting)) > 0)
        owed = sum(max(0, share - each.in_flight) for each in wanting)
        return self.mine.in_flight + many <= share or free - many >= owed

    def take(self, most: int, many: int = 1) -> bool:
        """So many more of ours are in flight, if there is room; nobody else can take that room."""
        with self._locked():
            if not self.has_room(most, many):
                return False
            self.say(in_flight=self.mine.in_flight + many)
            return True

    def say(self, **changes: int) -> None:
        """New figures of this worker; nobody is told any more once it has left."""
        if self._figures.closed:
            return
        self.mine = msgspec.structs.replace(self.mine, **changes)
        self._figures[:] = _FIGURES.pack(*msgspec.structs.astuple(self.mine))

    def close(self) -> None:
        """This worker leaves."""
        if self._figures.closed:
            return
        self._path.unlink(missing_ok=True)
        for each in self._others.values():
            each.close()
        self._others.clear()
        self._figures.close()
        os.close(self._file)
        os.close(self._lock)

    @contextmanager
    def _locked(self) -> Generator[None]:
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def _dead(self, path: Path) -> bool:
        with contextlib.suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        return False


def _read(file: mmap.mmap) -> Figures:
    return Figures(*_FIGURES.unpack(file[: _FIGURES.size]))


def _together(left: Figures, last: Figures) -> Figures:
    """With one more who left; what it had in flight is answered to nobody."""
    return Figures(
        sent=left.sent + last.sent,
        sent_tokens=left.sent_tokens + last.sent_tokens,
        slow_first=left.slow_first + last.slow_first,
        done_tokens=left.done_tokens + last.done_tokens,
        gone=left.gone + last.gone + last.in_flight,
    )
