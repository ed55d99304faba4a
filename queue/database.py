"""The one door to the database: write and read transactions over SQLite or PostgreSQL, and the migrations."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DataError, DBAPIError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from batchsched.errors import DamagedDatabase, DatabaseUnavailable, InvalidRequest, StorageFull
from batchsched.queue.postgres import Postgres
from batchsched.queue.sqlite import Sqlite

MIGRATIONS = Path(__file__).parent / "migrations"


class Database:
    """Connections to one database. `write()` blocks are atomic; `read()` blocks see one snapshot.

    On SQLite writers come one after the other. On PostgreSQL they run side by side, in this server and in others: what a block
    reads in order to change it, it must lock (`with_for_update`).
    """

    def __init__(self, where: Path | str) -> None:
        """Open (and migrate) the SQLite file at a path, or the PostgreSQL database at a `postgresql://` URL.

        Raises DataFolderInUse where another process has the file open, DamagedDatabase, DatabaseUnavailable.
        """
        self._below = Postgres(where) if isinstance(where, str) else Sqlite(where)
        try:
            with translated():
                upgrade(self._below.writer)
        except DBAPIError as problem:
            self._below.close()
            raise DamagedDatabase(
                f"{self._below.name} cannot be read: {problem.orig}.",
                hint="Restore it from a backup, or choose another one.",
            ) from None
        except BaseException:
            self._below.close()
            raise

    @contextmanager
    def write(self) -> Generator[Connection]:
        """A transaction that may change things: commits at the end, rolls back on any exception."""
        with translated(), self._below.write() as connection:
            yield connection

    @contextmanager
    def read(self) -> Generator[Connection]:
        """A transaction that only reads. Keep it short: a long one stops checkpoints and vacuums."""
        with translated(), self._below.read() as connection:
            yield connection

    def aside(self, name: str, *, idle_s: int) -> Engine | None:
        """An engine outside the pool for what lives as long as a database session; None on SQLite, which has no such thing."""
        return self._below.aside(name, idle_s=idle_s)

    def checkpoint(self) -> None:
        """Move SQLite's write-ahead log into the database file; quiet where a reader stands in the way."""
        self._below.checkpoint()

    def close(self) -> None:
        """Close every connection and give the data folder back."""
        self._below.close()


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Bring the schema to a revision. Several servers may do so at once: one does, the others wait. Raises DamagedDatabase."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, revision)
        except CommandError:  # it knows no such revision
            raise DamagedDatabase("The database was made by a newer batchsched.", hint="Upgrade this one.") from None


@contextmanager
def translated() -> Generator[None]:
    """Troubles of whichever layer below become errors of ours: no room, no database, a value that cannot be stored."""
    try:
        yield
    except DataError as problem:
        raise InvalidRequest(f"A value cannot be stored: {problem.orig}.") from problem
    except DBAPIError as problem:
        if _says_full(problem):
            raise StorageFull from problem
        if _is_away(problem):
            raise DatabaseUnavailable(f"The database does not answer: {_first_line(problem)}") from problem
        raise
    except StatementError as problem:
        if isinstance(problem.orig, (UnicodeEncodeError, OverflowError)):
            raise InvalidRequest(f"A value cannot be stored: {problem.orig}.") from problem
        raise
    except PoolTimeout as problem:
        raise DatabaseUnavailable("Every connection to the database is busy.") from problem
    except OSError as problem:
        if is_full(problem):
            raise StorageFull from problem
        raise


def is_full(problem: OSError) -> bool:
    """Does this error say that there is no room: disk full, quota, file-size limit?"""
    import errno

    return problem.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


_FULL = "53100"
_AWAY = ("08", "57", "53", "25006", "25P03", "40001", "40P01", "55P03")
"""SQLSTATEs (or their classes) that pass by themselves: connections, operators at work, resources, standbys, deadlocks, locks."""


def _says_full(problem: DBAPIError) -> bool:
    if _of_sqlite(problem):
        return "full" in str(problem.orig)
    return getattr(problem.orig, "sqlstate", None) == _FULL


def _is_away(problem: DBAPIError) -> bool:
    if _of_sqlite(problem):
        return False
    state = getattr(problem.orig, "sqlstate", None)
    return problem.connection_invalidated or state is None or state.startswith(_AWAY)


def _of_sqlite(problem: DBAPIError) -> bool:
    return type(problem.orig).__module__ == "sqlite3"


def _first_line(problem: DBAPIError) -> str:
    return str(problem.orig).strip().partition("\n")[0]
