"""Which migrations a database still lacks, without changing anything in it."""

from __future__ import annotations

import contextlib
import sqlite3
from functools import cache
from pathlib import Path

from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from batchsched.errors import DatabaseUnavailable
from batchsched.queue.checkup import examine
from batchsched.queue.database import MIGRATIONS, newer


def pending(where: Path | str) -> list[str]:
    """The revisions to come, the oldest first; none where the schema is the newest.

    Raises DamagedDatabase for one of a newer batchsched, DatabaseUnavailable where there is no SQLite file or no PostgreSQL.
    """
    known = _known()
    found = examine(where).revision if isinstance(where, str) else _revision(where)
    if found is None:
        return known
    if found not in known:
        raise newer()
    return known[known.index(found) + 1 :]


def lacking(connection: Connection) -> list[str]:
    """The same of a database that is open; none as well where a newer batchsched made the schema, which only adds to ours."""
    found, known = connection.scalar(text("SELECT version_num FROM alembic_version")), _known()
    return known[known.index(found) + 1 :] if found in known else []


@cache
def _known() -> list[str]:
    """The revisions of this version, the oldest first."""
    return [script.revision for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions()][::-1]


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
