"""A copy of all that a server keeps, taken while it works: the database as it is at one instant, and every file that it names.

Bytes are written before the row that names them, logs of results only grow, and nothing is overwritten. So files that are copied
after the database hold all that it names, unless they were removed meanwhile: then both are looked at again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import URL, Connection, create_engine
from sqlalchemy.exc import DBAPIError

from batchsched.disk import room, sync_folder
from batchsched.errors import DatabaseUnavailable, InvalidConfiguration, StorageUnavailable
from batchsched.queue import batches, chunks, files, restored
from batchsched.queue.copying import copy_of
from batchsched.queue.postgres import Postgres, parse_url
from batchsched.queue.states import OPEN
from batchsched.queue.store import MARK, parts_of, result_folder

DATABASE = "batchsched.db"
DUMP = "database.dump"
TRIES = 5


class Saved(NamedTuple):
    """What a backup holds: files that the database names, of these copied now, and their bytes."""

    files: int
    copied: int
    bytes: int


def named(connection: Connection) -> dict[str, int]:
    """Every file that a database names, by its place in the store, and the bytes that it must have at least."""
    found = {f"files/{file_id}": 0 for file_id in files.ids(connection)}
    for batch in batches.in_state(connection, sorted(OPEN)):
        for chunk in chunks.of_batch(connection, batch["id"]):
            for part in parts_of(chunk):
                place = f"results/{result_folder(batch['id'], chunk['round'])}/{part.name.rpartition('/')[2]}"
                found[place] = max(found.get(place, 0), part.end)
    return found


def of_sqlite(database: Path, root: Path | None, target: Path) -> Saved:
    """Back up the SQLite file and the store in the folder `root` (None: it is elsewhere) into the folder `target`.

    Raises DatabaseUnavailable, StorageFull, StorageUnavailable.
    """

    def taken(fresh: Path) -> dict[str, int]:
        fresh.unlink(missing_ok=True)
        copy_of(database, fresh)
        with _opened(fresh) as connection:
            return named(connection) if root else {}

    return _saved(taken, root, target, DATABASE)


def of_postgres(url: str, root: Path | None, target: Path) -> Saved:
    """The same of PostgreSQL, by its own pg_dump on the very snapshot whose files are copied."""
    below = Postgres(url)

    def taken(fresh: Path) -> dict[str, int]:
        with below.read() as connection:
            connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
            snapshot = str(connection.exec_driver_sql("SELECT pg_export_snapshot()").scalar_one())
            wanted = named(connection) if root else {}
            _dump(parse_url(url), snapshot, fresh)
        return wanted

    try:
        return _saved(taken, root, target, DUMP)
    except DBAPIError as problem:
        raise DatabaseUnavailable(f"{below.name} does not answer: {str(problem.orig).partition(chr(10))[0]}") from None
    finally:
        below.close()


def _saved(taken: Callable[[Path], dict[str, int]], root: Path | None, target: Path, name: str) -> Saved:
    """Try until no file is lacking. `taken`: writes the database to a path, and says which files it names."""
    copied, size, lacking = 0, 0, list[str]()
    for _ in range(TRIES):
        fresh = target / f"{name}.new"
        with room():
            wanted = taken(fresh)
            more, bytes_, lacking = _copy(root, target, wanted) if root else (0, 0, [])
            copied, size = copied + more, size + bytes_
            if not lacking:
                restored.mark(target)
                _settle(fresh, target / name)
                _prune(target, wanted)
                return Saved(len(wanted), copied, size)
    raise _incomplete(lacking)


def copy_folder(source: Path, target: Path) -> int:
    """Bring a folder of files that are added, grow or are replaced whole up to date in `target`; how many were copied."""
    copied = 0
    for path in sorted(source.rglob("*")) if source.is_dir() else ():
        place = target / path.relative_to(source)
        with contextlib.suppress(FileNotFoundError):  # replaced by another a moment ago
            if path.is_file() and not _same(path, place):
                _copy_one(path, place)
                copied += 1
    return copied


def _same(path: Path, place: Path) -> bool:
    before = path.stat()
    return place.exists() and (place.stat().st_size, int(place.stat().st_mtime)) == (before.st_size, int(before.st_mtime))


@contextmanager
def _opened(path: Path) -> Generator[Connection]:
    engine = create_engine(f"sqlite:///{path}")
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def _dump(address: URL, snapshot: str, path: Path) -> None:
    """The password goes by the environment: others see arguments. Raises DatabaseUnavailable, InvalidConfiguration."""
    plain = address.set(drivername="postgresql")
    env = os.environ | ({"PGPASSWORD": str(plain.password)} if plain.password else {})
    where = URL.create(plain.drivername, plain.username, None, plain.host, plain.port, plain.database, plain.query)
    command = ["pg_dump", "--format=custom", f"--snapshot={snapshot}", f"--file={path}"]
    command.append(f"--dbname={where.render_as_string(hide_password=False)}")
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        hint = (
            "Install PostgreSQL's client programs, of the server's version or newer (Debian: apt-get install postgresql-client)."
        )
        raise InvalidConfiguration("pg_dump is not installed here.", hint=hint) from None
    if done.returncode:
        raise DatabaseUnavailable(f"pg_dump could not save the database: {done.stderr.strip()}")


def _copy(root: Path, target: Path, wanted: dict[str, int]) -> tuple[int, int, list[str]]:
    """Copy what `target` lacks: how many, their bytes, and what is not there to be copied."""
    copied, size, lacking = 0, 0, list[str]()
    for place, least in {**wanted, MARK: 1}.items():
        there = target / place
        if there.exists() and (not place.startswith("results/") or there.stat().st_size >= least):
            continue
        try:
            _copy_one(root / place, there)
        except FileNotFoundError:
            lacking.append(place)
            continue
        if there.stat().st_size < least:
            lacking.append(place)
        copied, size = copied + 1, size + there.stat().st_size
    return copied, size, lacking


def _copy_one(source: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    fresh = place.with_name(f"{place.name}.new")
    try:
        shutil.copy2(source, fresh)
        _settle(fresh, place)
    finally:
        fresh.unlink(missing_ok=True)


def _settle(fresh: Path, place: Path) -> None:
    """A whole file takes its place, for good."""
    with fresh.open("rb") as file:
        os.fsync(file.fileno())
    fresh.replace(place)
    sync_folder(place.parent)


def _prune(target: Path, wanted: dict[str, int]) -> None:
    """What an earlier backup into the same folder held and this one does not name."""
    for path in _held(target):
        if str(path.relative_to(target)) not in wanted:
            path.unlink()


def _held(target: Path) -> Iterator[Path]:
    for folder in ("files", "results"):
        yield from (path for path in (target / folder).rglob("*") if path.is_file())


def _incomplete(lacking: list[str]) -> StorageUnavailable:
    few = ", ".join(lacking[:5])
    return StorageUnavailable(
        f"{len(lacking)} files that the database names could not be copied, such as {few}.",
        hint="Is it the store of this database? Where files go faster than they are copied, try again when less is going on.",
    )
