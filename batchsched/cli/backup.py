"""`batchsched backup`, `batchsched migrate`: what operators do to the database and its files, beside or before a server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchsched.cli.common import config_option, load, need, say

if TYPE_CHECKING:
    from batchsched.settings import Loaded


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--dry-run", is_flag=True, help="Say what would be copied from where, and copy nothing.")
@config_option
def backup(folder: Path, dry_run: bool, config: Path | None) -> None:
    """Copy the server's database, files and forecasts into FOLDER, while it works.

    Run it on the server's machine, with its configuration. What a folder holds of an earlier backup is not copied again. The
    copy of a PostgreSQL database is made by pg_dump. Files on an object store stay there: that is backed up by its own means.
    """
    need("server")
    loaded = load(config)
    server = loaded.settings.server
    url, root = server.database_url, _store_folder(loaded)
    source = "the PostgreSQL database" if url else str(Path(server.data_dir) / "batchsched.db")
    files = f"the files in {root}" if root else f"no files: they lie on {server.store_url}, which has backups of its own"
    if dry_run:
        say(f"Would copy {source}, {files}, and the forecasts in {loaded.settings.archive_folder()}, into {folder}.")
        return
    from batchsched.queue import backup as copies
    from batchsched.units import format_bytes

    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if url:
        saved = copies.of_postgres(url, root, folder)
    else:
        saved = copies.of_sqlite(Path(server.data_dir) / "batchsched.db", root, folder)
    forecasts = copies.copy_folder(loaded.settings.archive_folder(), folder / "forecasts")
    text = f"{folder} holds the database and {saved.files} files; copied {saved.copied} of them ({format_bytes(saved.bytes)})"
    click.echo(f"{text}, and {forecasts} files of forecasts.")
    if root is None:
        say(f"Not in it: {files}.")


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@config_option
def migrate(dry_run: bool, config: Path | None) -> None:
    """Bring the database's schema to this version. A server does so itself when it starts.

    With PostgreSQL the servers of the version before go on working meanwhile. A database that a newer version made is refused.
    """
    need("server")
    from batchsched.queue.database import Database
    from batchsched.queue.pending import pending

    server = load(config).settings.server
    where = server.database_url or Path(server.data_dir) / "batchsched.db"
    steps = pending(where)
    if not steps:
        click.echo("Nothing to do: the schema is this version's.")
        return
    if not dry_run:
        Database(where).close()
    click.echo(f"{'To do' if dry_run else 'Done'}: {', '.join(steps)}.")


def _store_folder(loaded: Loaded) -> Path | None:
    """Where the files lie; None for an object store."""
    server = loaded.settings.server
    if not server.store_url:
        return Path(server.data_dir)
    scheme, _, rest = server.store_url.partition("://")
    return Path(rest) if scheme == "file" else None
