"""Whether this server can do its work now: what `/readyz` asks of it. A load balancer passes over one that cannot.

What servers share and each of them can do without for a while (an object store, a solver, forecasts) is not asked: its loss
would take them all away at once, where they go on with what is left.
"""

from __future__ import annotations

from pathlib import Path

from batchsched.disk import writable
from batchsched.errors import NotReady
from batchsched.queue import batches
from batchsched.queue.folder_store import FolderStore
from batchsched.queue.pending import lacking
from batchsched.queue.tenancy import ANY
from batchsched.server.runtime import Runtime


def check(runtime: Runtime) -> None:
    """Raises DatabaseUnavailable, NotReady, StorageUnavailable."""
    with runtime.database.read() as connection:
        batches.page(connection, ANY, limit=1)
        steps = lacking(connection)
    if steps:
        raise NotReady(
            f"The database's schema lacks {', '.join(steps)}: it was replaced by an older one.",
            hint="Start the server again: it brings the schema up to date.",
        )
    for folder in _folders(runtime):
        writable(folder)
    alive = {
        "plans": runtime.scheduler.alive,
        "keeps house": runtime.lifecycle.alive,
        "stands for the lead": runtime.leadership.alive,
    }
    if ended := [task for task, turns in alive.items() if not turns]:
        raise NotReady(f"The thread that {ended[0]} has ended.", hint="Start the server again; its log says what happened.")


def _folders(runtime: Runtime) -> set[Path]:
    """Of this machine, to which it writes: those of the files and of SQLite."""
    server, store = runtime.settings.server, runtime.store
    own = set() if server.database_url else {Path(server.data_dir)}
    return own | ({store.root} if isinstance(store, FolderStore) else set())
