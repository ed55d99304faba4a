"""Where bytes lie: uploads, merged outputs, and the results of chunks while a batch runs. One port, two kinds of place.

Nothing here is ever overwritten. Results are only added, and what was added counts once a chunk's row names it: so a crash, a
worker that lost its lease, or a server that slept can leave bytes that nobody reads, but cannot touch what was acknowledged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from contextlib import AbstractContextManager
from itertools import chain
from typing import BinaryIO, NamedTuple, Protocol

from batchsched.errors import StorageUnavailable
from batchsched.queue.rows import Row

MARK = "belongs-to"
"""The file in a store that holds the mark of the one database whose files these are."""
SWEEP_AGE_S = 86_400.0
"""Younger leftovers may be another server's work in hand: half an upload, results whose row is about to be written."""


class Record(NamedTuple):
    """One finished request among a chunk's results: `<line>\\t<1 or 0>\\t<output line>\\n`, so that merging copies bytes."""

    line: int
    ok: bool
    output: bytes


class Part(NamedTuple):
    """Some of a chunk's results: bytes `start` to `end` of a result file or object. Its path is the batch's id and `name`."""

    name: str
    start: int
    end: int


class Store(Protocol):
    """A place for files. Everything that it reports as written is durable. Raises StorageFull, StorageUnavailable.

    Chunks are rows of the database; of these a store reads `batch_id`, `round`, `position`, `token` and `parts`.
    """

    def create(self, file_id: str) -> AbstractContextManager[BinaryIO]:
        """Write a file that is there whole when the block ends, and not at all where it ends by an exception."""
        ...

    def remove(self, file_id: str) -> None:
        """Forget a file's bytes; no error where there are none."""
        ...

    def blocks(self, file_id: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The bytes of a file from `start` to `end`, some MiB at a time. Raises FileNotFoundError."""
        ...

    def append(self, chunk: Row, records: Iterable[Record]) -> list[Part]:
        """Make records durable; the `parts` that the chunk's row has to name from now on. Until it does, nobody sees them."""
        ...

    def records(self, chunk: Row, start: int = 0) -> Iterator[Record]:
        """What a chunk's row names, in the order of recording, without the first `start` bytes: an earlier `result_bytes`."""
        ...

    def each(self, chunks: Iterable[Row]) -> Iterator[tuple[Row, Iterator[Record]]]:
        """The records of many chunks, read ahead where that is faster. As with `groupby`: use one before asking for the next."""
        ...

    def discard_results(self, batch_id: str, round_: int) -> None:
        """Remove the chunk results of a round of a batch, once its merged files are safe.

        A retry begins another round. So whoever is late with this never removes what a retry has recorded since.
        """
        ...

    def sweep(self, known_files: Set[str], live: Set[tuple[str, int]], older_than_s: float = SWEEP_AGE_S) -> None:
        """Remove what crashes left: files that no row knows, results of what is not live, half-made files.

        `live`: (id, round) of the batches that are not over. Whoever calls read the two sets before. `older_than_s` may be 0
        only where nobody else can be writing.
        """
        ...

    def mark(self) -> str | None:
        """The mark of the database whose files these are; None where there is none yet."""
        ...

    def set_mark(self, mark: str) -> None:
        """Say whose this store is."""
        ...


def parts_of(chunk: Row, start: int = 0) -> list[Part]:
    """A chunk's parts without its first `start` bytes."""
    found: list[Part] = []
    for part in (Part(*part) for part in chunk["parts"]):
        skipped = min(start, part.end - part.start)
        start -= skipped
        if part.start + skipped < part.end:
            found.append(part._replace(start=part.start + skipped))
    return found


def length_of(parts: Iterable[Part]) -> int:
    """Bytes in all."""
    return sum(part.end - part.start for part in parts)


def joined(parts: list[Part], new: Part) -> list[Part]:
    """Parts with one more, as one with the last where it begins at its end."""
    last = parts[-1] if parts else None
    if last and (last.name, last.end) == (new.name, new.start):
        return [*parts[:-1], last._replace(end=new.end)]
    return [*parts, new]


def result_folder(batch_id: str, round_: int) -> str:
    """The name of the folder that holds the results of a round of a batch."""
    return f"{batch_id}.{round_}"


def is_live(folder: str, live: Set[tuple[str, int]]) -> bool:
    """Does a result folder belong to a batch that is not over? Folders without a round are of an earlier version."""
    batch_id, _, round_ = folder.partition(".")
    return (batch_id, int(round_) if round_.isdigit() else 0) in live


def lost(chunk: Row, name: str) -> StorageUnavailable:
    """What a row names is not there, or not all of it."""
    return StorageUnavailable(
        f"Acknowledged results of batch {chunk['batch_id']} cannot be read: '{name}' is missing or cut short.",
        hint="Is it the store, or the mounted folder, that belongs to this database?",
    )


def begun(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The same blocks, the first of them read already: what is wrong with the store shows now, and not in mid-answer."""
    first = next(blocks, b"")
    return chain((first,), blocks)


def encoded(records: Iterable[Record]) -> bytes:
    """Records as they are stored."""
    return b"".join(b"%d\t%d\t%s\n" % record for record in records)


def decoded(line: bytes) -> Record:
    """A record from its stored line."""
    number, ok, output = line.split(b"\t", 2)
    return Record(int(number), ok == b"1", output[:-1])
