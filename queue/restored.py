"""A database that was restored: leases that a later, lost state of it gave out must not be taken for its own.

Tokens fence off leases (chunks.py), and a copy knows only those that were given before it was taken. So a backup carries a mark,
and the server that finds it among its data lets every token leap before it hands out the first lease.
"""

from __future__ import annotations

import logging
from pathlib import Path

from batchsched.disk import put, sync_folder
from batchsched.queue import chunks
from batchsched.queue.database import Database

log = logging.getLogger(__name__)
RESTORED = "restored"
_TEXT = b"A server that starts on this folder takes its leases for those of a restored database, and removes this file.\n"


def mark(folder: Path) -> None:
    """Say so to whoever starts on this copy. Raises StorageFull."""
    put(folder / RESTORED, _TEXT)


def fence(database: Database, folder: Path) -> None:
    """Where the data folder says that the database was restored: no lease from before holds. It may be done twice."""
    path = folder / RESTORED
    if not path.exists():
        return
    with database.write() as connection:
        chunks.fence(connection)
    path.unlink(missing_ok=True)
    sync_folder(folder)
    log.warning("The database was restored from a copy: what was leased is pending again, and older leases are refused.")
