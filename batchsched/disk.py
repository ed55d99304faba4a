"""What is written so that it lasts: all of it, its name as well, and a full disk told as such."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from batchsched.errors import StorageFull, StorageUnavailable

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextmanager
def room() -> Generator[None]:
    """No room (disk full, quota, file-size limit) becomes StorageFull."""
    try:
        yield
    except OSError as problem:
        if problem.errno in _FULL:
            raise StorageFull from problem
        raise


def writable(folder: Path) -> None:
    """Try to make a file there, without a name where the system can. Raises StorageUnavailable; a full disk can make room."""
    import tempfile

    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as problem:
        if problem.errno not in _FULL:
            raise StorageUnavailable(
                f"Nothing can be written to {folder}: {problem.strerror}.",
                hint="Is the folder there and mounted, and may the server write to it?",
            ) from None


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def put(path: Path, payload: bytes) -> None:
    """Write a small file for this user's eyes, and for good: all of it, or it stays as it was. Raises StorageFull."""
    fresh = path.with_suffix(".new")
    with room():
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        sync_folder(path.parent)


def append(descriptor: int, payload: bytes) -> int:
    """Add every byte at the end of a file, or none, and sync it; returns where they begin."""
    start, left = os.lseek(descriptor, 0, os.SEEK_END), memoryview(payload)
    try:
        while left:
            left = left[os.write(descriptor, left) :]
    except BaseException:
        with contextlib.suppress(OSError):  # nobody was told of these bytes: a full disk gets them back
            os.ftruncate(descriptor, start)
        raise
    os.fsync(descriptor)
    return start


def folder_bytes(folder: Path, pattern: str = "*") -> int:
    """Bytes of all files below a folder, those that links name too; what goes away meanwhile counts for nothing."""
    size = 0
    for path in folder.rglob(pattern):
        with contextlib.suppress(OSError):
            size += path.stat().st_size if path.is_file() else 0
    return size
