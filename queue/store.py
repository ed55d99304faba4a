"""The files beside the database: uploads, results of chunks, merged outputs. Paths come from ids, never from users' names.

files/<file id>                      what was uploaded, and what was merged
results/<batch id>/<position>.jsonl  acknowledged results of one chunk, and perhaps a tail that nobody acknowledged
tmp/                                 half-made files; emptied at start
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator, Iterable, Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

BLOCK_BYTES = 1 << 20


class Record(NamedTuple):
    """One finished request in a chunk's result file: `<line>\\t<1 or 0>\\t<output line>\\n`, so that merging copies bytes."""

    line: int
    ok: bool
    output: bytes


class Store:
    """A data folder. Everything that it reports as written has been synced to the disk."""

    def __init__(self, root: Path) -> None:
        self.root = root
        shutil.rmtree(root / "tmp", ignore_errors=True)
        for name in ("files", "results", "tmp"):
            (root / name).mkdir(parents=True, exist_ok=True)

    def file_path(self, file_id: str) -> Path:
        """Where a file's bytes lie."""
        return self.root / "files" / file_id

    @contextmanager
    def create(self, file_id: str) -> Generator[BinaryIO]:
        """Write a file so that it is there whole or not at all."""
        temporary = self.root / "tmp" / file_id
        try:
            with temporary.open("wb") as handle:
                yield handle
                handle.flush()
                os.fsync(handle.fileno())
            temporary.replace(self.file_path(file_id))
            _sync_folder(self.root / "files")
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def remove(self, file_id: str) -> None:
        """Forget a file's bytes; no error where there are none."""
        self.file_path(file_id).unlink(missing_ok=True)

    def blocks(self, file_id: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The bytes of a file from `start` to `end`, a block at a time."""
        with self.file_path(file_id).open("rb") as handle:
            handle.seek(start)
            left = (end if end is not None else handle.seek(0, os.SEEK_END)) - start
            handle.seek(start)
            while left > 0 and (block := handle.read(min(BLOCK_BYTES, left))):
                left -= len(block)
                yield block

    def append(self, batch_id: str, position: int, offset: int, records: Iterable[Record]) -> int:
        """Add records after the first `offset` bytes of a chunk's result file; the new length.

        What lies beyond `offset` was written but never acknowledged (a crash came between): it is cut off first.
        """
        path = self._results(batch_id, position)
        made = not path.exists()
        if made:
            path.parent.mkdir(exist_ok=True)
        payload = b"".join(b"%d\t%d\t%s\n" % record for record in records)
        with path.open("r+b" if not made else "w+b") as handle:
            handle.truncate(offset)
            handle.seek(offset)
            handle.write(payload)
            handle.flush()
            os.fsync(handle.fileno())
        if made:
            _sync_folder(path.parent)
            _sync_folder(path.parent.parent)
        return offset + len(payload)

    def records(self, batch_id: str, position: int, length: int) -> Iterator[Record]:
        """The acknowledged records of a chunk: those within the first `length` bytes."""
        if length == 0:
            return
        with self._results(batch_id, position).open("rb") as handle:
            while handle.tell() < length:
                line, ok, output = handle.readline().rstrip(b"\n").split(b"\t", 2)
                yield Record(int(line), ok == b"1", output)

    def sweep(self, known_files: Set[str], live_batches: Set[str]) -> None:
        """Remove files that no row knows and results of batches that are over: what a crash left between two steps."""
        for path in (self.root / "files").iterdir():
            if path.name not in known_files:
                path.unlink()
        for path in (self.root / "results").iterdir():
            if path.name not in live_batches:
                shutil.rmtree(path, ignore_errors=True)

    def discard_results(self, batch_id: str) -> None:
        """Remove a batch's chunk results, once its merged files are safe."""
        shutil.rmtree(self.root / "results" / batch_id, ignore_errors=True)

    def _results(self, batch_id: str, position: int) -> Path:
        return self.root / "results" / batch_id / f"{position}.jsonl"


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
