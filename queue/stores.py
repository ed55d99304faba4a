"""Which place holds the files, and whether it is the right one."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import select, update

from batchsched.errors import InvalidConfiguration
from batchsched.queue import batches, files, tables
from batchsched.queue.database import Database
from batchsched.queue.folder_store import FolderStore
from batchsched.queue.object_store import EXTRAS, open_object_store
from batchsched.queue.states import OPEN
from batchsched.queue.store import MARK, SWEEP_AGE_S, Store


def open_store(url: str, data_dir: Path) -> Store:
    """The store that `server.store_url` names; empty means the data folder. Raises InvalidConfiguration, MissingExtra."""
    scheme, separator, rest = url.partition("://")
    if not url:
        return FolderStore(data_dir)
    if separator and scheme == "file" and rest.startswith("/"):
        return FolderStore(Path(rest))
    if separator and scheme in EXTRAS and rest.strip("/") and not set(rest) & set("@?#"):
        return open_object_store(url)
    raise InvalidConfiguration(
        f"key 'server.store_url': '{url}' is not supported (allowed: file:///folder, s3://bucket/prefix, gs://..., az://...).",
        hint="Credentials and endpoints come from the environment, not from the URL.",
    )


def settle(database: Database, store: Store) -> None:
    """Make sure that this store holds this database's files, and no other's, before anything is written or swept.

    A folder that is not mounted, a bucket of another installation, a database that was lost or made anew: each would look like
    files that no row knows, or rows whose files are gone. Raises InvalidConfiguration.
    """
    with database.read() as connection:
        row = connection.execute(select(tables.store)).mappings().one()
    found = store.mark()
    if found is None and not row["placed"]:
        store.set_mark(row["mark"])
    elif found is None:
        raise InvalidConfiguration(
            "the files of this database are not where the configuration says: the place is empty.",
            hint="Is the folder mounted? Check server.store_url and server.data_dir.",
        )
    elif found != row["mark"]:
        raise InvalidConfiguration(
            "the files at the configured place belong to another database.",
            hint=f"Check server.store_url and server.data_dir; to take the files over, write {row['mark']} into '{MARK}' there.",
        )
    if not row["placed"]:
        with database.write() as connection:
            connection.execute(update(tables.store).values(placed=True))


def sweep(database: Database, store: Store, older_than_s: float = SWEEP_AGE_S) -> None:
    """Remove what crashes left in the store: files without a row, results of batches that are merged, half-made files.

    With several servers only what is a day old: younger bytes may be a server's work in hand, for bytes come before rows. A
    server that is alone with its data folder sweeps everything when it starts, before it does anything else.
    """
    with database.read() as connection:
        known = files.ids(connection)
        live = {(row["id"], row["round"]) for row in batches.in_state(connection, sorted(OPEN))}
    store.sweep(known, live, older_than_s)
