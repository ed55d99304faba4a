"""A store in memory: files that nobody wrote, since only their sizes count, and results as they are recorded."""

from __future__ import annotations

import io
from collections.abc import Generator, Iterable, Iterator, Set
from contextlib import contextmanager
from typing import BinaryIO, NamedTuple

from batchsched.queue.rows import Row
from batchsched.queue.store import SWEEP_AGE_S, Part, Record, decoded, encoded, is_live, joined, lost, parts_of, result_folder

BLOCK_BYTES = 1 << 20


class Draft(NamedTuple):
    """A batch file of so many lines, each of `width` bytes, which are only there while somebody reads them."""

    lines: int
    width: int
    endpoint: str
    model: str

    @property
    def size(self) -> int:
        """Bytes in all."""
        return self.lines * self.width

    def line(self, number: int) -> bytes:
        """One of them, counted from 0, newline included."""
        body = f'{{"model":"{self.model}","messages":[]}}'
        text = f'{{"custom_id":"r{number}","method":"POST","url":"{self.endpoint}","body":{body}}}'
        return text.encode().ljust(self.width - 1) + b"\n"


class MemoryStore:
    """The port of queue/store.py. Nothing outlives the process."""

    def __init__(self) -> None:
        self._files: dict[str, bytes | Draft] = {}
        self._results: dict[str, bytearray] = {}
        self._mark: str | None = None

    def draft(self, file_id: str, draft: Draft) -> None:
        """Keep a file that nobody wrote."""
        self._files[file_id] = draft

    @contextmanager
    def create(self, file_id: str) -> Generator[BinaryIO]:
        """Write a file."""
        handle = io.BytesIO()
        yield handle
        self._files[file_id] = handle.getvalue()

    def remove(self, file_id: str) -> None:
        """Forget a file."""
        self._files.pop(file_id, None)

    def blocks(self, file_id: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The bytes of a file; of a draft line by line."""
        if (found := self._files.get(file_id)) is None:
            raise FileNotFoundError(file_id)
        end = (len(found) if isinstance(found, bytes) else found.size) if end is None else end
        if isinstance(found, bytes):
            for first in range(start, end, BLOCK_BYTES):
                yield found[first : min(end, first + BLOCK_BYTES)]
            return
        for number in range(start // found.width, -(-end // found.width)):
            first = number * found.width
            yield found.line(number)[max(0, start - first) : end - first]

    def append(self, chunk: Row, records: Iterable[Record]) -> list[Part]:
        """Add records to those of the batch's round."""
        log = self._results.setdefault(result_folder(chunk["batch_id"], chunk["round"]), bytearray())
        start = len(log)
        log += encoded(records)
        return joined(parts_of(chunk), Part(f".{chunk['round']}/memory", start, len(log)))

    def records(self, chunk: Row, start: int = 0) -> Iterator[Record]:
        """A chunk's records."""
        for part in parts_of(chunk, start):
            log = self._results.get(chunk["batch_id"] + part.name.partition("/")[0], bytearray())
            if len(log) < part.end:
                raise lost(chunk, part.name)
            for line in bytes(log[part.start : part.end]).splitlines(keepends=True):
                yield decoded(line)

    def each(self, chunks: Iterable[Row]) -> Iterator[tuple[Row, Iterator[Record]]]:
        """Chunk after chunk."""
        for chunk in chunks:
            yield chunk, self.records(chunk)

    def discard_results(self, batch_id: str, round_: int) -> None:
        """Forget the results of a round."""
        self._results.pop(result_folder(batch_id, round_), None)

    def sweep(self, known_files: Set[str], live: Set[tuple[str, int]], older_than_s: float = SWEEP_AGE_S) -> None:
        """Forget what no row knows, where its age does not count: nobody remembers that here."""
        if older_than_s > 0:
            return
        self._files = {name: file for name, file in self._files.items() if name in known_files}
        self._results = {name: log for name, log in self._results.items() if is_live(name, live)}

    def mark(self) -> str | None:
        """What `set_mark` was told."""
        return self._mark

    def set_mark(self, mark: str) -> None:
        """Say whose this store is."""
        self._mark = mark
