"""Which migrations a database still lacks, without changing anything in it."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from sqlalchemy import Connection

from batchsched.errors import DatabaseUnavailable
from batchsched.queue.checkup import examine
from batchsched.queue.database import newer
from batchsched.queue.revisions import after, revision_of, revisions


def pending(where: Path | str) -> list[str]:
    """The revisions to come, the oldest first; none where the schema is the newest.

    Raises DamagedDatabase for one of a newer batchsched, DatabaseUnavailable where there is no SQLite file or no PostgreSQL.
    """
    found = examine(where).revision if isinstance(where, str) else _revision(where)
    if found not in {*revisions(), None}:
        raise newer()
    return after(found)


def lacking(connection: Connection) -> list[str]:
    """The same of a database that is open; none as well where a newer batchsched made the schema, which only adds to ours."""
    return after(revision_of(connection))


def _revision(path: Path) -> str | None:
    if not path.exists():
        raise DatabaseUnavailable(f"There is no database {path}.", hint="See server.data_dir; a server makes it when it starts.")
    try:
        with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as opened:
            row = opened.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.OperationalError as problem:
        if "no such table" in str(problem):
            return None
        raise DatabaseUnavailable(f"The database {path} cannot be read: {problem}.") from None
    return str(row[0]) if row else None
