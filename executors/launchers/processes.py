"""Replicas as processes of this machine, each in a session of its own, so that they outlive who started them.

FOLDER/NAME/spec.json    what was asked for, and when; written before the process is started
            lock         held by the replica for as long as it lives; its process id (keeper.py)
            stop.json    when it is to be gone by
            ended.json   the exit code, where the one who started it was there to see it
FOLDER/logs/NAME.log     what it says; the newest are kept when it is forgotten
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import msgspec

from batchsched.clock import Clock
from batchsched.disk import put, room, sync_folder
from batchsched.errors import LaunchFailed
from batchsched.executors.launch import last_words
from batchsched.executors.launchers import keeper
from batchsched.executors.launchers.port import Replica, Spec, State

LOGS = "logs"
_LOGS_KEPT = 50
_PATIENCE_S = 1.0
_MINE, _SPEC, _STOP, _ENDED = "launcher.lock", "spec.json", "stop.json", "ended.json"
M = TypeVar("M", bound=msgspec.Struct)


class _Asked(msgspec.Struct):
    spec: Spec
    at: datetime


class _Stop(msgspec.Struct):
    by_s: float
    """On the monotonic clock, which counts from the machine's start for all its processes: none outlives that."""
    told: bool = False
    """It had the signal. A worker takes a second one for the wish to end at once."""


class _Ended(msgspec.Struct):
    code: int


class ProcessLauncher:
    """The port, for one machine. One at a time uses a folder."""

    def __init__(self, folder: Path, clock: Clock, environ: Mapping[str, str]) -> None:
        """Raises LaunchFailed where the folder cannot be had, or another launcher has it."""
        self.folder = folder.absolute()
        self._clock, self._environ = clock, environ
        self._children: dict[str, int] = {}
        self._one = asyncio.Lock()
        try:
            (self.folder / LOGS).mkdir(parents=True, exist_ok=True, mode=0o700)
            self.folder.chmod(0o700)  # the environment of a spec may hold a key
            self._mine = os.open(self.folder / _MINE, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as problem:
            raise LaunchFailed(f"The launcher cannot keep its replicas in '{self.folder}': {problem.strerror}.") from problem
        if not self._alone():
            os.close(self._mine)
            raise LaunchFailed(
                f"Another launcher keeps its replicas in '{self.folder}'.",
                hint="Give each its own worker.state_dir, or end the other.",
            )

    def close(self) -> None:
        """Let go of the folder; the replicas stay."""
        fcntl.flock(self._mine, fcntl.LOCK_UN)  # else a process that another thread forks just now would hold it on
        os.close(self._mine)

    async def start(self, name: str, spec: Spec) -> None:
        """Ask for a replica. Raises LaunchFailed, StorageFull."""
        async with self._one:
            await asyncio.to_thread(self._start, name, spec)

    async def stop(self, name: str, grace_s: float) -> None:
        """Ask it to end."""
        async with self._one:
            await asyncio.to_thread(self._stop, name, grace_s)

    async def replicas(self) -> dict[str, Replica]:
        """All of them; those whose time is over are ended by force in passing."""
        async with self._one:
            return await asyncio.to_thread(self._all)

    async def forget(self, name: str) -> None:
        """Take one that ended off the list."""
        async with self._one:
            await asyncio.to_thread(self._forget, name)

    def log(self, name: str) -> Path:
        """Where a replica's words go."""
        return self.folder / LOGS / f"{name}.log"

    def _alone(self) -> bool:
        """Take the folder. One that was killed may hold it a moment longer: what it was starting inherits all that it had open,
        until it becomes its command."""
        until_s = self._clock.monotonic() + _PATIENCE_S
        while not keeper.taken(self._mine):
            if self._clock.monotonic() > until_s:
                return False
            time.sleep(keeper.LOOK_S)
        return True

    # In a thread.

    def _start(self, name: str, spec: Spec) -> None:
        home = self.folder / name
        if Path(name).name != name or name in {"", ".", "..", LOGS}:
            raise LaunchFailed(f"'{name}' cannot be the name of a replica: it has to be a file's.")
        if _read(home / _SPEC, _Asked) is None:
            try:
                with room():
                    home.mkdir(exist_ok=True, mode=0o700)
                    put(home / _SPEC, msgspec.json.encode(_Asked(spec, self._clock.now())))
                    sync_folder(self.folder)
            except OSError as problem:
                raise LaunchFailed(f"Replica {name} cannot be started: {problem}.") from problem
        self._look(name)

    def _spawned(self, name: str, spec: Spec) -> int:
        """The process id. Not by subprocess, which complains of children that outlive their handles: these are to."""
        line = [sys.executable, "-I", "-S", keeper.__file__, str(self.folder / name), spec.folder, "--", *spec.command]
        streams = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(self.log(name)), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        try:
            return os.posix_spawn(sys.executable, line, {**self._environ, **spec.env}, file_actions=streams)
        except OSError as problem:
            raise LaunchFailed(f"Replica {name} cannot be started: {problem}.") from problem

    def _stop(self, name: str, grace_s: float) -> None:
        home = self.folder / name
        if _read(home / _SPEC, _Asked) is None or (home / _ENDED).exists():
            return
        by_s, known = self._clock.monotonic() + grace_s, _read(home / _STOP, _Stop)
        if known is None or by_s < known.by_s:
            put(home / _STOP, msgspec.json.encode(_Stop(by_s, told=known is not None and known.told)))
        self._look(name)

    def _all(self) -> dict[str, Replica]:
        names = sorted(path.parent.name for path in self.folder.glob(f"*/{_SPEC}"))
        return {name: replica for name in names if (replica := self._look(name))}

    def _look(self, name: str) -> Replica | None:
        home = self.folder / name
        asked, stop = _read(home / _SPEC, _Asked), _read(home / _STOP, _Stop)
        if asked is None:
            return None
        self._reap(name)
        running = _pid(home) is not None and _held(home)
        if running and stop:
            self._end(home, stop)
        ended = _read(home / _ENDED, _Ended)
        state: State = "ended"
        if running:
            state = "stopping" if stop else "running"
        elif name in self._children or not (_pid(home) or ended or stop):
            state = "waiting"
        if state == "waiting" and name not in self._children and not _held(home):
            self._children[name] = self._spawned(name, asked.spec)  # whoever asked was killed before it came to that
        if state != "ended":
            return Replica(name, state, asked.at)
        clean = stop is not None or (ended is not None and ended.code == 0)
        return Replica(name, state, asked.at, _why(ended, stop, last_words(self.log(name))), clean)

    def _end(self, home: Path, stop: _Stop) -> None:
        """Tell it to end, once; by force when its time is over."""
        if self._clock.monotonic() >= stop.by_s:
            _kill(home)
        elif not stop.told:
            _tell(home)
            put(home / _STOP, msgspec.json.encode(_Stop(stop.by_s, told=True)))

    def _reap(self, name: str) -> None:
        """See whether a child of ours has ended, and how; one that found another in its place says nothing of that one."""
        home, child = self.folder / name, self._children.get(name)
        if child is None:
            return
        try:
            found, status = os.waitpid(child, os.WNOHANG)
        except ChildProcessError:  # somebody else collected it
            found, status = child, 0
        if found and _pid(home) in {None, child}:
            put(home / _ENDED, msgspec.json.encode(_Ended(os.waitstatus_to_exitcode(status))))
        if found:
            del self._children[name]

    def _forget(self, name: str) -> None:
        found = self._look(name)
        if found is None or found.state != "ended":
            return
        shutil.rmtree(self.folder / name, ignore_errors=True)
        logs = sorted((self.folder / LOGS).glob("*.log"), key=lambda path: path.stat().st_mtime)
        for old in logs[:-_LOGS_KEPT]:
            old.unlink(missing_ok=True)


def _why(ended: _Ended | None, stop: _Stop | None, words: str) -> str:
    if stop is not None and (ended is None or ended.code in {0, -signal.SIGTERM}):
        return "it was told to end."
    if ended is None:
        return f"nobody saw how; its log ends: {words}"
    how = f"by signal {signal.Signals(-ended.code).name}" if ended.code < 0 else f"with exit code {ended.code}"
    return f"{how}; its log ends: {words}"


def _held(home: Path) -> bool:
    """Does a process hold the lock?"""
    try:
        lock = os.open(home / keeper.LOCK, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _pid(home: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        return int((home / keeper.LOCK).read_text())
    return None


def _tell(home: Path) -> None:
    """Ask the replica to end. Its handle is taken before the lock is looked at: no other process is ever hit."""
    pid = _pid(home)
    with contextlib.suppress(ProcessLookupError):
        if pid is None or not hasattr(os, "pidfd_open"):
            if pid is not None and _held(home):
                os.kill(pid, signal.SIGTERM)
            return
        handle = os.pidfd_open(pid)
        try:
            if _held(home):
                signal.pidfd_send_signal(handle, signal.SIGTERM)
        finally:
            os.close(handle)


def _kill(home: Path) -> None:
    """End what holds the lock, with all of its group: while one of them lives no other process can get the group's number."""
    pid = _pid(home)
    with contextlib.suppress(ProcessLookupError):
        if pid is not None and _held(home):
            os.killpg(pid, signal.SIGKILL)


def _read(path: Path, kind: type[M]) -> M | None:
    """What stands there; None where nothing does, or not all of it: a crash came first."""
    with contextlib.suppress(FileNotFoundError, msgspec.DecodeError, NotADirectoryError):
        return msgspec.json.decode(path.read_bytes(), type=kind)
    return None
