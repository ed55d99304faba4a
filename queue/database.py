"""The one door to the database: write and read transactions over SQLite or PostgreSQL, and the migrations."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DataError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from batchsched.errors import BatchschedError, DamagedDatabase, DatabaseBusy, DatabaseUnavailable, InvalidRequest, StorageFull
from batchsched.queue.postgres import Postgres
from batchsched.queue.revisions import MIGRATIONS, revision_of, revisions
from batchsched.queue.sqlite import Sqlite

log = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")
TRIES = 4
_FULL = "53100"
_BUSY = ("40", "55P03")
"""SQLSTATEs (or their classes): rolled back for another's sake (deadlock, serialization), a lock that did not come."""
_AWAY = ("08", "57", "53", "25006", "25P03")
"""Connections, operators at work or a statement cut short, resources, a standby, a transaction that stood still."""
_SQLITE_AWAY = ("SQLITE_IOERR", "SQLITE_CANTOPEN", "SQLITE_READONLY")
"""What a disk does that fails, is unmounted, or has a quota or a limit of size: it tells those two like a fault."""


class Database:
    """Connections to one database. `write()` blocks are atomic; `read()` blocks see one snapshot.

    On SQLite writers come one after the other. On PostgreSQL they run side by side, in this server and in others: what a block
    reads in order to change it, it must lock (`with_for_update`).
    """

    def __init__(self, where: Path | str, *, lasting: bool = True, reading: bool = False) -> None:
        """Open (and migrate) the SQLite file at a path, or the PostgreSQL database at a `postgresql://` URL.

        `lasting`: is it to outlive a loss of power? Only a simulation's is not. `reading`: PostgreSQL alone, which servers may
        have in use: nothing is migrated, and nothing can be changed; of SQLite take a copy (`copying.copy_of`).
        Raises DataFolderInUse where another process has the file open, DamagedDatabase, DatabaseUnavailable.
        """
        self._below = Postgres(where, reading=reading) if isinstance(where, str) else Sqlite(where, lasting=lasting)
        try:
            with translated():
                if reading and isinstance(where, str):
                    same_schema(self._below.writer)
                else:
                    upgrade(self._below.writer)
        except DBAPIError as problem:
            self._below.close()
            raise DamagedDatabase(
                f"{self._below.name} cannot be read: {problem.orig}.",
                hint="Restore it from a backup, or choose another one.",
            ) from None
        except DatabaseUnavailable as problem:
            self._below.close()
            raise DatabaseUnavailable(
                f"{self._below.name} does not answer: {_line(problem.__cause__)}",
                hint="Is it running, and may this server connect? See server.database_url."
                if isinstance(where, str)
                else "Is the disk sound, with room on it? Does another program have the file open?",
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
    def statement(self) -> Generator[Connection]:
        """`write()` for a single statement, which is all or nothing by itself; a second one would be a transaction of its own."""
        with translated(), self._below.statement() as connection:
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
    with engine.connect() as connection:
        if revision == "head" and revision_of(connection) == revisions()[-1]:
            return
        connection.rollback()  # what has been read is no part of it
        _migrate(connection, revision)


def _migrate(connection: Connection, revision: str) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, revision)
    except CommandError:  # it knows no such revision
        raise newer() from None


def same_schema(engine: Engine) -> None:
    """Raises DamagedDatabase where the schema is not the one of this version; changes nothing."""
    with engine.connect() as connection:
        found = revision_of(connection)
    if found is None:
        raise DamagedDatabase("The database holds nothing of batchsched.", hint="Is it the one that your server has?")
    if found == revisions()[-1]:
        return
    if found not in revisions():
        raise newer()
    raise DamagedDatabase(
        f"The database's schema ({found}) is older than this batchsched's ({revisions()[-1]}).",
        hint="Here it is only read, so it is left as it is: upgrade the server first, or use the server's own version.",
    )


def newer() -> DamagedDatabase:
    """A schema that this version does not know."""
    return DamagedDatabase(
        "The database was made by a newer batchsched.",
        hint="Upgrade this one, or restore the backup from before the upgrade: a schema does not go back.",
    )


def again(step: Callable[P, T]) -> Callable[P, T]:
    """A step that is taken again where its transaction was rolled back for another's sake: for steps that bear repetition."""

    @wraps(step)
    def taken(*args: P.args, **kwargs: P.kwargs) -> T:
        for turn in range(TRIES - 1):
            with suppress(DatabaseBusy):
                return step(*args, **kwargs)
            time.sleep(0.05 * 2**turn)  # who was given way to must have time to take what was left to him
        return step(*args, **kwargs)

    return taken


@contextmanager
def translated() -> Generator[None]:
    """Troubles of whichever layer below become errors of ours: no room, no database, a value that cannot be stored."""
    try:
        yield
    except (DBAPIError, PoolTimeout, UnicodeEncodeError, OverflowError) as problem:
        ours = _ours(problem)
        if ours is None:
            raise
        raise ours from problem


def _ours(problem: Exception) -> BatchschedError | None:
    if isinstance(problem, PoolTimeout):
        log.error("Every connection to the database is busy.")
        return DatabaseUnavailable()
    if not isinstance(problem, DBAPIError) or isinstance(problem, DataError):
        return InvalidRequest(f"A value cannot be stored: {getattr(problem, 'orig', problem)}.")
    return _of_sqlite(problem) if type(problem.orig).__module__ == "sqlite3" else _of_postgres(problem)


def _of_sqlite(problem: DBAPIError) -> BatchschedError | None:
    name: str = getattr(problem.orig, "sqlite_errorname", "")
    if name == "SQLITE_FULL":
        return StorageFull()
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):  # by a program that has no business with it
        return DatabaseBusy()
    if name.startswith(_SQLITE_AWAY):
        log.error("The database does not answer: %s (%s)", _line(problem), name)
        return DatabaseUnavailable()
    return None


def _of_postgres(problem: DBAPIError) -> BatchschedError | None:
    state: str | None = getattr(problem.orig, "sqlstate", None)
    if state == _FULL:
        return StorageFull()
    if state and state.startswith(_BUSY):
        return DatabaseBusy()
    if problem.connection_invalidated or state is None or state.startswith(_AWAY):
        log.error("The database does not answer: %s", _line(problem))  # the caller need not know where it lives
        return DatabaseUnavailable()
    return None


def _line(problem: BaseException | None) -> str:
    """What the driver said, in a line."""
    return str(getattr(problem, "orig", problem)).strip().partition("\n")[0]
