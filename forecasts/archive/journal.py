"""The newest records, in a file that only grows: synced before anybody is told that they are kept.

A line is a checksum and a record as JSON. A line that a crash cut short is skipped, and whoever writes next begins a line of its
own. Each journal has a number of its own for ever; when its records lie in the months' files, the next one begins.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from zlib import crc32

import msgspec

from batchsched.disk import append, room, sync_folder
from batchsched.forecasts.archive.generated import Generated
from batchsched.forecasts.archive.records import Feed, Issue, Measured
from batchsched.forecasts.archive.weather import Run

log = logging.getLogger(__name__)

Record = Issue | Measured | Generated | Run
R = TypeVar("R", bound=Record)
_decoder: msgspec.json.Decoder[Record] = msgspec.json.Decoder(Record)


class _Read:
    """A journal as far as it was read."""

    def __init__(self) -> None:
        self.bytes = self.newest = 0
        self.records: dict[type, dict[Feed, list[Any]]] = {}

    def more(self, path: Path) -> None:
        """Read on, up to the last whole line."""
        with path.open("rb") as handle:
            handle.seek(self.bytes)
            whole, newline, _ = handle.read().rpartition(b"\n")
        self.bytes += len(whole) + len(newline)
        for line in whole.split(b"\n"):
            if line and (record := _record(line, path)):
                self.records.setdefault(type(record), {}).setdefault(record.feed, []).append(record)
                self.newest = max(self.newest, record.received_at)


class Journal:
    """The journals of a folder: one, and for a moment two. Not thread-safe; several processes may share it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[str, _Read] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def refresh(self) -> None:
        """Take notice of what was written, and of what was folded, since."""
        names = {path.name for path in self._folder.glob("*.log")}
        for name in self._read.keys() - names:
            del self._read[name]
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # folded just now: the months have it
                self._read.setdefault(name, _Read()).more(self._folder / name)

    @property
    def bytes(self) -> int:
        """How much there is to fold."""
        return sum(read.bytes for read in self._read.values())

    @property
    def newest(self) -> int:
        """The latest receipt that its records have."""
        return max((read.newest for read in self._read.values()), default=0)

    def feeds(self, kind: type) -> set[Feed]:
        """The feeds of its records of a kind."""
        return {feed for read in self._read.values() for feed in read.records.get(kind, ())}

    def records(self, kind: type[R], feed: Feed) -> Iterator[R]:
        """A feed's records of a kind, in the order of writing."""
        return (record for _, read in sorted(self._read.items()) for record in read.records.get(kind, {}).get(feed, ()))

    @contextmanager
    def writing(self) -> Generator[None]:
        """One writer at a time, of all processes."""
        with (self._folder / "lock").open("wb") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            self.refresh()
            yield

    def append(self, records: Iterable[Record]) -> None:
        """Make records durable; all of them, or none. Raises StorageFull. Only while `writing`."""
        path = self._folder / max(self._read, default=_name(1))
        made = not path.exists()
        with room():
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                size = os.lseek(descriptor, 0, os.SEEK_END)
                torn = size and os.pread(descriptor, 1, size - 1) != b"\n"
                append(descriptor, b"\n" * bool(torn) + b"".join(map(_line, records)))
            finally:
                os.close(descriptor)
            if made:
                sync_folder(self._folder)
        self.refresh()

    def begin_anew(self) -> None:
        """Drop what was read, since it lies elsewhere now, and begin the next journal. Only while `writing`."""
        done = sorted(self._read)
        (self._folder / _name(int(done[-1].removesuffix(".log")) + 1)).touch(0o600)
        sync_folder(self._folder)  # the next number stands before the last one goes: none is ever given twice
        for name in done:
            (self._folder / name).unlink()
        self.refresh()


def _name(number: int) -> str:
    return f"{number:08d}.log"


def _line(record: Record) -> bytes:
    payload = msgspec.json.encode(record)
    return b"%08x %s\n" % (crc32(payload), payload)


def _record(line: bytes, path: Path) -> Record | None:
    checksum, _, payload = line.partition(b" ")
    if checksum == b"%08x" % crc32(payload):
        return _decoder.decode(payload)
    log.warning("%s: a line that is cut short or damaged is skipped.", path)
    return None
