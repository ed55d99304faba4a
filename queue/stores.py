"""Which place holds the files."""

from __future__ import annotations

from pathlib import Path

from batchsched.errors import InvalidConfiguration
from batchsched.queue.folder_store import FolderStore
from batchsched.queue.store import Store


def open_store(url: str, data_dir: Path) -> Store:
    """The store that `server.store_url` names; empty means the data folder. Raises InvalidConfiguration, MissingExtra."""
    scheme, separator, rest = url.partition("://")
    if not url:
        return FolderStore(data_dir)
    if separator and scheme == "file" and rest.startswith("/"):
        return FolderStore(Path(rest))
    raise InvalidConfiguration(f"key 'server.store_url': '{url}' is not supported (allowed: file:///folder).")
