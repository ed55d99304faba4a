"""SQLite under the queue: one process owns the file, one thread at a time writes in it, and the checkpoints are ours.

SQLite 3.7.0-3.51.2 can corrupt a WAL when two connections checkpoint at once; so automatic checkpoints are off and only
`checkpoint()`, under the write lock, does.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError

from batchsched.errors import DataFolderInUse


class Sqlite:
    """A writer, a pool of readers, and the lock that says whose file it is."""

    def __init__(self, path: Path, *, lasting: bool = True) -> None:
        """`lasting`: is it to outlive a loss of power? Raises DataFolderInUse where another process has it open."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.name = f"The database {path}"
        self._lock_file = _own(path.with_suffix(".lock"))
        self._write_lock = threading.Lock()
        url = f"sqlite:///{path}"
        self.writer = _engine(url, begin="BEGIN IMMEDIATE", pool_size=1, lasting=lasting)
        self._reader = _engine(url, begin="BEGIN", pool_size=8, lasting=lasting)
        self._kept: Connection | None = None
        """The writer's, from one transaction to the next: to fetch it from the pool takes four times what SQLite takes."""

    @contextmanager
    def write(self) -> Generator[Connection]:
        """The one write transaction of this moment."""
        with self._write_lock:
            connection = self._kept or self.writer.connect()
            self._kept = None
            try:
                with connection.begin():
                    yield connection
            except BaseException:
                connection.close()  # the pool makes sure that nothing is left open in it
                raise
            self._kept = connection

    statement = write
    """One statement needs no less here."""

    @contextmanager
    def read(self) -> Generator[Connection]:
        """A transaction on a connection that cannot write."""
        with self._reader.connect() as connection:
            connection.begin()  # what hot.py sends begins nothing by itself
            yield connection

    def aside(self, name: str, *, idle_s: int) -> None:
        """There is no second process to tell apart from."""

    def checkpoint(self) -> None:
        """Move the write-ahead log into the database file; quiet where a reader stands in the way."""
        with self._write_lock:
            connection = self._kept = self._kept or self.writer.connect()
            below: Any = connection.connection.driver_connection
            below.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def close(self) -> None:
        """Close every connection and give the data folder back."""
        with self._write_lock:
            if self._kept:
                self._kept.close()
            self._kept = None
        self._reader.dispose()
        self.writer.dispose()
        os.close(self._lock_file)


def _engine(url: str, *, begin: str, pool_size: int, lasting: bool) -> Engine:
    engine = create_engine(url, pool_size=pool_size, max_overflow=64 if pool_size > 1 else 0, json_deserializer=_decoded)

    @event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _record: Any) -> None:  # pyright: ignore[reportUnusedFunction]
        # The driver would begin transactions by its own rules (never for a SELECT): we begin them ourselves.
        connection.isolation_level = None
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL" if lasting else "synchronous=OFF",
            "foreign_keys=ON",
            "busy_timeout=30000",
            "wal_autocheckpoint=0",
            "query_only=ON" if begin == "BEGIN" else "query_only=OFF",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:  # pyright: ignore[reportUnusedFunction]
        below: Any = connection.connection.driver_connection
        try:
            below.execute(begin)  # a hundredth of what it costs as a statement of SQLAlchemy's
        except sqlite3.Error as problem:
            raise DBAPIError.instance(begin, None, problem, sqlite3.Error) from problem

    return engine


def _decoded(text: str) -> Any:
    """A value of a JSON column: ten times as fast as by the standard library, which alone knows NaN."""
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return json.loads(text)


def _own(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.read(descriptor, 20).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise DataFolderInUse(
            f"The data folder {path.parent} is in use by another server (process {holder}).",
            hint="Stop it, or choose another folder with --data-dir.",
        ) from None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, str(os.getpid()).encode())
    return descriptor
