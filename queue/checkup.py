"""What `batchsched doctor` asks of a database, without changing anything in it."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
from sqlalchemy.exc import DBAPIError

from batchsched.errors import DatabaseUnavailable
from batchsched.queue.postgres import OLDEST, Postgres
from batchsched.queue.revisions import after, revision_of, revisions
from batchsched.queue.sqlite import Sqlite

SOUND = (14, 4)
SYNC_LEVELS = ("OFF", "NORMAL", "FULL", "EXTRA")
"""What SQLite calls them, by its numbers."""


class Checkup(msgspec.Struct, frozen=True):
    """What was found."""

    name: str
    """Which database, without its password."""
    version: str
    old: bool
    """Older than what we need?"""
    flawed: bool
    """PostgreSQL 14 before 14.4: indexes that are made concurrently may be corrupt (its release notes)."""
    revision: str | None
    """Of the schema; None: the first server makes it."""
    pending: list[str]
    """The migrations to come, the oldest first."""
    newer: bool
    """Was the schema made by a batchsched that is newer than this one?"""
    unsafe: list[str]
    """Settings of the database's server under which a crash may lose what was acknowledged."""


def examine(url: str) -> Checkup:
    """Look at the PostgreSQL database at a URL. Raises DatabaseUnavailable, InvalidConfiguration, MissingExtra."""
    below = Postgres(url)
    try:
        with below.read() as connection:
            version: tuple[Any, ...] = connection.dialect.server_version_info or (0,)
            off = [name for name in ("fsync", "full_page_writes") if connection.exec_driver_sql(f"SHOW {name}").scalar() != "on"]
            revision = revision_of(connection)
    except DBAPIError as problem:
        line = str(problem.orig).strip().partition("\n")[0]
        raise DatabaseUnavailable(f"{below.name} does not answer: {line}") from None
    finally:
        below.close()
    told, newer = ".".join(map(str, version)), revision not in {*revisions(), None}
    return Checkup(below.name, told, version < OLDEST, OLDEST <= version < SOUND, revision, after(revision), newer, off)


def in_wal(path: Path) -> bool:
    """Is a SQLite file in write-ahead mode? Its header says so, and is read without opening the database."""
    with path.open("rb") as file:
        return file.read(20)[18:20] == b"\x02\x02"


def sync_level() -> str:
    """How commits are synced here on a connection as the server makes it, asked of SQLite itself: one of SYNC_LEVELS."""
    with TemporaryDirectory() as folder:
        below = Sqlite(Path(folder) / "asked.db")
        try:
            with below.write() as connection:
                return SYNC_LEVELS[connection.exec_driver_sql("PRAGMA synchronous").scalar_one()]
        finally:
            below.close()
