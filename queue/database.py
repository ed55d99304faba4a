"""The one door to the database: a reader and a writer for SQLite, migrations, checkpoints.

One process owns the data folder (a lock file says so) and one thread at a time writes in it. SQLite 3.7.0-3.51.2 can corrupt a
WAL when two connections checkpoint at once; so automatic checkpoints are off and only `checkpoint()`, under the write lock, does.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DatabaseError, OperationalError

from batchsched.errors import DamagedDatabase, DataFolderInUse, StorageFull

MIGRATIONS = Path(__file__).parent / "migrations"


class Database:
    """Connections to one database. `write()` blocks are serial and atomic; `read()` blocks see one snapshot."""

    def __init__(self, path: Path) -> None:
        """Open (and migrate) the SQLite file at `path`. Raises DataFolderInUse where another process has it open."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._lock_file = _own(path.with_suffix(".lock"))
        self._write_lock = threading.Lock()
        url = f"sqlite:///{path}"
        self._writer = _engine(url, begin="BEGIN IMMEDIATE", pool_size=1)
        self._reader = _engine(url, begin="BEGIN", pool_size=8)
        try:
            with self._write_lock, translated():
                upgrade(self._writer)
        except DatabaseError as problem:
            os.close(self._lock_file)
            raise DamagedDatabase(
                f"The database {path} cannot be read: {problem.orig}.",
                hint="Restore it from a backup, or choose another --data-dir.",
            ) from None

    @contextmanager
    def write(self) -> Generator[Connection]:
        """A transaction that may change things: commits at the end, rolls back on any exception."""
        with self._write_lock, translated(), self._writer.begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Generator[Connection]:
        """A transaction that only reads. Keep it short: a long one stops checkpoints."""
        with self._reader.connect() as connection:
            yield connection

    def checkpoint(self) -> None:
        """Move the write-ahead log into the database file; quiet where a reader stands in the way."""
        with self._write_lock, self._writer.connect() as connection:
            cursor: Any = connection.connection.driver_connection
            connection.rollback()
            cursor.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def close(self) -> None:
        """Close every connection and give the data folder back."""
        self._reader.dispose()
        self._writer.dispose()
        os.close(self._lock_file)


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Bring the schema to a revision, under the caller's lock."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def _engine(url: str, *, begin: str, pool_size: int) -> Engine:
    engine = create_engine(url, pool_size=pool_size, max_overflow=64 if pool_size > 1 else 0)

    @event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _record: Any) -> None:  # pyright: ignore[reportUnusedFunction]
        # The driver would begin transactions by its own rules (never for a SELECT): we begin them ourselves.
        connection.isolation_level = None
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            "busy_timeout=30000",
            "wal_autocheckpoint=0",
            "query_only=ON" if begin == "BEGIN" else "query_only=OFF",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:  # pyright: ignore[reportUnusedFunction]
        connection.exec_driver_sql(begin)

    return engine


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


@contextmanager
def translated() -> Generator[None]:
    """A full disk becomes StorageFull, whichever layer met it."""
    try:
        yield
    except OperationalError as problem:
        if isinstance(problem.orig, sqlite3.OperationalError) and "full" in str(problem.orig):
            raise StorageFull from problem
        raise
    except OSError as problem:
        if is_full(problem):
            raise StorageFull from problem
        raise


def is_full(problem: OSError) -> bool:
    """Does this error say that there is no room: disk full, quota, file-size limit?"""
    import errno

    return problem.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
