"""Which batchsched this is."""

from __future__ import annotations

import contextlib
from importlib import metadata


def own_version(unknown: str = "") -> str:
    """As it was installed; `unknown` where it was not, but is run from a folder."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version("batchsched")
    return unknown
