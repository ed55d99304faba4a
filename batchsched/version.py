"""Which batchsched this is."""

from __future__ import annotations

import contextlib
from importlib import metadata


def own_version() -> str:
    """As it was installed; empty where it was not, but is run from a folder."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version("batchsched")
    return ""
