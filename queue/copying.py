"""A copy of a server's database, to be read at leisure: the server may go on with its own meanwhile."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from batchsched.errors import DatabaseUnavailable


def copy_of(source: Path, target: Path) -> Path:
    """Copy the SQLite database at `source` as it is at one instant. Raises DatabaseUnavailable."""
    try:
        with (
            contextlib.closing(sqlite3.connect(f"{source.resolve().as_uri()}?mode=ro", uri=True)) as theirs,
            contextlib.closing(sqlite3.connect(target)) as ours,
        ):
            theirs.backup(ours)
    except sqlite3.Error as problem:
        raise DatabaseUnavailable(
            f"The database {source} cannot be read: {problem}.", hint="Is it the data folder of a batchsched server?"
        ) from None
    return target
