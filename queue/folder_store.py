"""A store in a folder, of one server's own or shared by several.

files/<file id>                       what was uploaded, and what was merged
results/<batch id>.<round>/<name>.log results that one server process recorded of a batch: it alone appends, or cuts off failures
tmp/                                  half-made files
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Generator, Iterable, Iterator, Sequence, Set
from contextlib import contextmanager
from itertools import accumulate, pairwise, repeat
from pathlib import Path
from typing import BinaryIO

from batchsched.disk import append, room, sync_folder
from batchsched.queue.rows import Row
from batchsched.queue.store import (
    MARK,
    SWEEP_AGE_S,
    Part,
    Record,
    decoded,
    encoded,
    is_live,
    joined,
    lost,
    parts_of,
    result_folder,
)
from batchsched.queue.together import Together

BLOCK_BYTES = 1 << 20
Span = tuple[int, int]
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class FolderStore:
    """Files under `root`. Paths come from ids, never from users' names."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("files", "results", "tmp"):
            (root / name).mkdir(parents=True, exist_ok=True)
        # Each process writes results to files of its own name: no two of them ever append to one file, on whatever file system.
        self._log_name = f"{secrets.token_hex(6)}.log"
        self._appends = Together[tuple[str, bytes], Span](self._append)

    @contextmanager
    def create(self, file_id: str) -> Generator[BinaryIO]:
        """Write a file so that it is there whole or not at all."""
        with self._whole(self._file(file_id)) as handle:
            yield handle

    @contextmanager
    def _whole(self, path: Path) -> Generator[BinaryIO]:
        temporary = self.root / "tmp" / f"{path.name}-{secrets.token_hex(6)}"
        try:
            with room(), open(temporary, "xb", opener=_private) as handle:
                yield handle
                handle.flush()
                os.fsync(handle.fileno())
            temporary.replace(path)
            sync_folder(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def remove(self, file_id: str) -> None:
        """Forget a file's bytes; no error where there are none."""
        self._file(file_id).unlink(missing_ok=True)

    def blocks(self, file_id: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The bytes of a file from `start` to `end`, a block at a time."""
        with self._file(file_id).open("rb") as handle:
            left = (end if end is not None else handle.seek(0, os.SEEK_END)) - start
            handle.seek(start)
            while left > 0 and (block := handle.read(min(BLOCK_BYTES, left))):
                left -= len(block)
                yield block

    def append(self, chunk: Row, records: Iterable[Record]) -> list[Part]:
        """Add records to this process's log of the batch, and sync it: once for all that come in at the same time."""
        span = self._appends.do((result_folder(chunk["batch_id"], chunk["round"]), encoded(records)))
        return joined(parts_of(chunk), Part(f".{chunk['round']}/{self._log_name}", *span))

    def _append(self, payloads: Sequence[tuple[str, bytes]]) -> list[Span | Exception]:
        found: dict[str, Iterator[Span | Exception]] = {}
        for folder in dict.fromkeys(folder for folder, _ in payloads):
            try:
                found[folder] = self._log(folder, [payload for its_folder, payload in payloads if its_folder == folder])
            except Exception as problem:
                found[folder] = repeat(problem)
        return [next(found[folder]) for folder, _ in payloads]

    def _log(self, folder: str, payloads: Sequence[bytes]) -> Iterator[Span]:
        with room():
            log = self._open_log(folder)
            try:
                start = append(log, b"".join(payloads))
            finally:
                os.close(log)
        return pairwise(accumulate(map(len, payloads), initial=start))

    def _open_log(self, folder: str) -> int:
        path = self.root / "results" / folder / self._log_name
        made = not path.exists()
        if made:
            path.parent.mkdir(exist_ok=True)
        log = os.open(path, _APPEND, 0o600)
        if made:
            try:
                sync_folder(path.parent)
                sync_folder(path.parent.parent)
            except BaseException:
                os.close(log)
                path.unlink()  # the next one makes it anew: a file whose name is not safe must not take results
                raise
        return log

    def records(self, chunk: Row, start: int = 0) -> Iterator[Record]:
        """A chunk's records, line by line."""
        with contextlib.ExitStack() as stack:
            handles: dict[str, BinaryIO] = {}
            for part in parts_of(chunk, start):
                if part.name not in handles:
                    handles[part.name] = stack.enter_context(self._result_file(chunk, part.name))
                handle = handles[part.name]
                handle.seek(part.start)
                left = part.end - part.start
                while left > 0:
                    line = handle.readline()
                    if len(line) > left or not line.endswith(b"\n"):
                        raise lost(chunk, part.name)
                    left -= len(line)
                    yield decoded(line)

    def _result_file(self, chunk: Row, name: str) -> BinaryIO:
        try:
            return Path(self.root, "results", chunk["batch_id"] + name).open("rb")
        except FileNotFoundError:
            raise lost(chunk, name) from None

    def each(self, chunks: Iterable[Row]) -> Iterator[tuple[Row, Iterator[Record]]]:
        """Chunk after chunk: the system reads ahead by itself."""
        for chunk in chunks:
            yield chunk, self.records(chunk)

    def discard_results(self, batch_id: str, round_: int) -> None:
        """Remove a folder."""
        shutil.rmtree(self.root / "results" / result_folder(batch_id, round_), ignore_errors=True)

    def sweep(self, known_files: Set[str], live: Set[tuple[str, int]], older_than_s: float = SWEEP_AGE_S) -> None:
        """Remove leftovers."""
        before = time.time() - older_than_s  # against the file system's own times, so by the system's clock
        for folder, known in (("files", known_files), ("tmp", frozenset[str]())):
            for path in (self.root / folder).iterdir():
                if path.name not in known and _changed(path) <= before:
                    path.unlink(missing_ok=True)
        for path in (self.root / "results").iterdir():
            if not is_live(path.name, live) and max(map(_changed, (path, *path.glob("*")))) <= before:
                shutil.rmtree(path, ignore_errors=True)

    def mark(self) -> str | None:
        """What `set_mark` wrote."""
        path = self.root / MARK
        return path.read_text("ascii", "replace") if path.exists() else None

    def set_mark(self, mark: str) -> None:
        """Say whose this store is."""
        with self._whole(self.root / MARK) as handle:
            handle.write(mark.encode())

    def _file(self, file_id: str) -> Path:
        return self.root / "files" / file_id


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # somebody else swept it
        return 0.0


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)
