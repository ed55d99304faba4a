"""`batchsched doctor` on the database: its version, whether its commits are synced, and whether its schema is this version's."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from batchsched.cli.common import lacking
from batchsched.cli.printed import Finding
from batchsched.errors import DamagedDatabase

if TYPE_CHECKING:
    from batchsched.settings import Loaded

UPGRADE = "Upgrade this batchsched, or restore the backup from before the upgrade: a schema does not go back."


def database(loaded: Loaded) -> Iterator[Finding]:
    """PostgreSQL where one is declared, else SQLite in the data folder."""
    server = loaded.settings.server
    if server.database_url:
        yield from _postgresql(server.database_url)
        return
    yield _version()
    path = Path(server.data_dir).absolute() / "batchsched.db"
    if not lacking("server"):
        yield from _sqlite(path)


def _version() -> Finding:
    """Between 3.7.0 and 3.51.2 two concurrent checkpoints of a WAL can corrupt the database."""
    version = sqlite3.sqlite_version
    if not (3, 7, 0) <= sqlite3.sqlite_version_info <= (3, 51, 2):
        return Finding("SQLite", "ok", version)
    text = f"{version} has the WAL-reset bug; met by letting only the one writer checkpoint"
    what = "Let no other program open the database; a Python with SQLite 3.51.3 or newer is free of it."
    return Finding("SQLite", "warning", text, what)


def _sqlite(path: Path) -> Iterator[Finding]:
    """How the server opens it, what its file says, and its schema."""
    from batchsched.queue.checkup import in_wal, sync_level
    from batchsched.queue.pending import pending

    level = sync_level()
    text = f"synchronous={level}: a commit is {'' if level in {'FULL', 'EXTRA'} else 'not '}on the disk when it is acknowledged"
    what = (
        "" if level in {"FULL", "EXTRA"} else "This SQLite was built to do less than it is told; use Python's own, or PostgreSQL."
    )
    yield Finding("SQLite sync", "broken" if what else "ok", text, what)
    if not path.exists():
        yield Finding("database", "ok", f"{path} is not there yet; the first server makes it")
        return
    if in_wal(path):
        yield Finding("database", "ok", f"{path}: in write-ahead mode")
    else:
        what = "Stop the server and put server.data_dir on a local disk: file systems of a network may not allow it."
        yield Finding("database", "broken", f"{path}: not in write-ahead mode", what)
    try:
        yield _schema(str(path), pending(path))
    except DamagedDatabase as problem:
        yield Finding("schema", "broken", problem.message, problem.hint or UPGRADE)


def _schema(name: str, to_come: Sequence[str]) -> Finding:
    if not to_come:
        return Finding("schema", "ok", f"{name}: this version's; no migration is pending")
    text = f"{name}: {len(to_come)} migration(s) pending, {', '.join(to_come)}"
    return Finding(
        "schema", "warning", text, "`batchsched backup FOLDER`, then `batchsched migrate`; a server that starts does it too."
    )


def _postgresql(url: str) -> Iterator[Finding]:
    from batchsched.queue.checkup import examine

    found = examine(url)
    if found.old:
        yield Finding("PostgreSQL", "broken", f"{found.version}, too old", "Upgrade it to 14.4 or newer.")
    elif found.flawed:
        text = f"{found.version}: indexes that are made concurrently may be corrupt"
        yield Finding("PostgreSQL", "warning", text, "Upgrade it to 14.4 or newer, then REINDEX what was made so.")
    else:
        yield Finding("PostgreSQL", "ok", found.version)
    if found.unsafe:
        text = f"{' and '.join(found.unsafe)} off: a crash of its machine may lose what was acknowledged"
        what = f"Set {' and '.join(f'{name} = on' for name in found.unsafe)} in postgresql.conf and restart it."
        yield Finding("PostgreSQL settings", "broken", text, what)
    else:
        yield Finding("PostgreSQL settings", "ok", "fsync and full_page_writes on; each session sets synchronous_commit=on")
    if found.newer:
        text = f"{found.name}: schema {found.revision} was made by a newer batchsched"
        yield Finding("schema", "broken", text, UPGRADE)
    elif found.revision is None:
        yield Finding("schema", "ok", f"{found.name} is empty; the first server makes its tables")
    else:
        yield _schema(found.name, found.pending)
