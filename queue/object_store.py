"""A store on an object store that fsspec can reach: S3 and those that speak like it, Google's, Azure's.

files/<file id>                                           what was uploaded, and what was merged
results/<batch id>.<round>/<position>-<token>-<random>    a group of results, acknowledged where a row names it

Objects are written once, whole, and never changed. Credentials and endpoints come from the environment, as each of fsspec's
drivers reads them.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Set
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from itertools import islice
from typing import Any, BinaryIO, cast

from batchsched.errors import MissingExtra, StorageUnavailable
from batchsched.queue.rows import Row
from batchsched.queue.store import MARK, SWEEP_AGE_S, Part, Record, decoded, encoded, is_live, lost, parts_of, result_folder

BLOCK_BYTES = 4 << 20
UPLOAD_BYTES = 8 << 20
"""A piece of a multipart upload: S3 wants 5 MiB or more of each but the last, and takes 10,000."""
FETCH_BYTES = 8 << 20
"""Parts of results that are read at the same time."""
EXTRAS = {"s3": "batchsched[s3]", "gs": "gcsfs", "az": "adlfs"}
"""The kinds of stores that are allowed, and what to install for each."""

OPTIONS = {"s3": {"config_kwargs": {"connect_timeout": 5, "read_timeout": 30, "retries": {"total_max_attempts": 2}}}}
"""Whoever waits for us can wait and ask again, so that a store which is away is given up soon."""


class ObjectStore:
    """Objects under `prefix` of an fsspec file system."""

    def __init__(self, system: Any, prefix: str) -> None:
        self._system = system
        self._prefix = prefix.rstrip("/")

    @contextmanager
    def create(self, file_id: str) -> Generator[BinaryIO]:
        """Write a file in pieces; they become an object when the block ends."""
        with self._reaching():
            handle = self._system.open(self._file(file_id), "wb", block_size=UPLOAD_BYTES, autocommit=False)
        try:
            yield cast("BinaryIO", _Upload(handle, self._reaching))
            with self._reaching():
                handle.close()
                handle.commit()
        except BaseException:
            _give_up(handle)
            raise

    def remove(self, file_id: str) -> None:
        """Forget a file's bytes; no error where there are none."""
        with contextlib.suppress(FileNotFoundError), self._reaching(absent_ok=True):
            self._system.rm_file(self._file(file_id))

    def blocks(self, file_id: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The bytes of a file from `start` to `end`, a block at a time."""
        path = self._file(file_id)
        if end is None:
            with self._reaching(absent_ok=True):
                end = int(self._system.info(path)["size"])
        while start < end:
            with self._reaching(absent_ok=True):
                block = self._system.cat_file(path, start=start, end=min(end, start + BLOCK_BYTES))
            if not block:
                return
            start += len(block)
            yield block

    def append(self, chunk: Row, records: Iterable[Record]) -> list[Part]:
        """Write the records as one object of a name that was never used."""
        payload = encoded(records)
        name = f".{chunk['round']}/{chunk['position']}-{chunk['token']}-{secrets.token_hex(6)}"
        with self._reaching():
            self._system.pipe_file(self._result(chunk, name), payload)
        return [*parts_of(chunk), Part(name, 0, len(payload))]

    def records(self, chunk: Row, start: int = 0) -> Iterator[Record]:
        """A chunk's records, several parts fetched at once."""
        return _records(self._bodies([(chunk, part) for part in parts_of(chunk, start)]))

    def each(self, chunks: Iterable[Row]) -> Iterator[tuple[Row, Iterator[Record]]]:
        """Chunk after chunk; small ones are fetched together."""
        for group in _groups(chunks):
            wanted = [(chunk, part) for chunk in group for part in parts_of(chunk)]
            bodies = self._bodies(wanted)
            for chunk in group:
                mine = islice(bodies, len(chunk["parts"]))
                yield chunk, _records(mine)
                for _ in mine:  # what the caller left
                    pass

    def _bodies(self, wanted: list[tuple[Row, Part]]) -> Iterator[bytes]:
        """The bytes of parts, in order, fetched about FETCH_BYTES at a time."""
        batch: list[tuple[Row, Part]] = []
        size = 0
        for chunk, part in wanted:
            batch.append((chunk, part))
            size += part.end - part.start
            if size >= FETCH_BYTES:
                yield from self._fetch(batch)
                batch, size = [], 0
        yield from self._fetch(batch)

    def _fetch(self, batch: list[tuple[Row, Part]]) -> list[bytes]:
        if not batch:
            return []
        paths = [self._result(chunk, part.name) for chunk, part in batch]
        starts, ends = [part.start for _, part in batch], [part.end for _, part in batch]
        try:
            with self._reaching(absent_ok=True):
                bodies = cast("list[bytes]", self._system.cat_ranges(paths, starts, ends, on_error="raise"))
        except FileNotFoundError as problem:
            raise lost(batch[0][0], str(problem)) from problem
        for (chunk, part), body in zip(batch, bodies, strict=True):
            if len(body) != part.end - part.start:
                raise lost(chunk, part.name)
        return bodies

    def discard_results(self, batch_id: str, round_: int) -> None:
        """Remove a round's objects."""
        with contextlib.suppress(FileNotFoundError), self._reaching(absent_ok=True):
            self._system.invalidate_cache()
            self._system.rm(f"{self._prefix}/results/{result_folder(batch_id, round_)}", recursive=True)

    def sweep(self, known_files: Set[str], live: Set[tuple[str, int]], older_than_s: float = SWEEP_AGE_S) -> None:
        """Remove leftovers."""
        before = time.time() - older_than_s  # against the store's own times, so by the system's clock
        lost = [path for name, path in self._old("files", before) if name not in known_files]
        over = [path for name, path in self._old("results", before) if not is_live(name.partition("/")[0], live)]
        with self._reaching():
            for path in lost + over:
                self._system.rm_file(path)
            if hasattr(self._system, "abort_mpu"):
                self._drop_uploads(before)

    def _old(self, folder: str, before: float) -> list[tuple[str, str]]:
        root = f"{self._prefix}/{folder}"
        with self._reaching():
            self._system.invalidate_cache()
            found = self._system.find(root, detail=True)
        return [(path.rpartition(f"{root}/")[2], path) for path, info in found.items() if _changed(info) <= before]

    def _drop_uploads(self, before: float) -> None:
        """S3 keeps the pieces of an upload that broke off, seen by nobody and paid for, until they are dropped."""
        bucket, _, key = self._prefix.partition("/")
        with contextlib.suppress(PermissionError):  # an operator may leave that to a rule of the bucket
            found = self._system.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=f"{key}/".lstrip("/"))
            for upload in found.get("Uploads", []):
                if upload["Initiated"].timestamp() <= before:
                    self._system.abort_mpu(bucket, upload["Key"], upload["UploadId"])

    def mark(self) -> str | None:
        """What `set_mark` wrote."""
        with contextlib.suppress(FileNotFoundError), self._reaching(absent_ok=True):
            return str(self._system.cat_file(f"{self._prefix}/{MARK}").decode("ascii", "replace"))
        return None

    def set_mark(self, mark: str) -> None:
        """Say whose this store is."""
        with self._reaching():
            self._system.pipe_file(f"{self._prefix}/{MARK}", mark.encode())

    def _file(self, file_id: str) -> str:
        return f"{self._prefix}/files/{file_id}"

    def _result(self, chunk: Row, name: str) -> str:
        return f"{self._prefix}/results/{chunk['batch_id']}{name}"

    @contextmanager
    def _reaching(self, *, absent_ok: bool = False) -> Generator[None]:
        """Whatever the driver raises means that the store cannot be used now, unless what is looked for may be absent."""
        try:
            yield
        except Exception as problem:  # each driver has errors of its own
            if isinstance(problem, StorageUnavailable) or (absent_ok and isinstance(problem, FileNotFoundError)):
                raise
            raise StorageUnavailable(f"The object store {self._prefix} cannot be used: {_said(problem)}") from problem


class _Upload:
    """What a writer gets: the driver's handle, its errors translated."""

    def __init__(self, handle: Any, reaching: Callable[[], AbstractContextManager[None]]) -> None:
        self._handle = handle
        self._reaching = reaching

    def write(self, data: bytes) -> int:
        """Take more of the file."""
        with self._reaching():
            return int(self._handle.write(data))


def open_object_store(url: str) -> ObjectStore:
    """The object store at a URL. Raises MissingExtra, InvalidConfiguration."""
    import fsspec

    scheme = url.partition("://")[0]
    try:
        # No caches: neither of listings, which others change, nor of drivers, whose endpoints the environment sets.
        system, prefix = fsspec.url_to_fs(url, use_listings_cache=False, skip_instance_cache=True, **OPTIONS.get(scheme, {}))
    except ImportError:
        extra = EXTRAS[scheme]
        raise MissingExtra(f"Files on {scheme}:// need a driver that is not installed.", hint=f"pip install '{extra}'") from None
    return ObjectStore(system, prefix)


def _records(bodies: Iterable[bytes]) -> Iterator[Record]:
    for body in bodies:
        for line in body.splitlines(keepends=True):
            yield decoded(line)


def _groups(chunks: Iterable[Row]) -> Iterator[list[Row]]:
    """Neighbouring chunks with results of about FETCH_BYTES together."""
    group: list[Row] = []
    size = 0
    for chunk in chunks:
        group.append(chunk)
        size += chunk["result_bytes"]
        if size >= FETCH_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _give_up(handle: Any) -> None:
    """Drop an upload; pieces that cannot be dropped now are dropped by the next sweep."""
    with contextlib.suppress(Exception):
        handle.discard()
    with contextlib.suppress(AttributeError):  # or its finaliser would try to finish the upload
        handle.closed = True


def _changed(info: dict[str, Any]) -> float:
    """When an object was written, by the store's own clock; drivers name it as their services do."""
    for name in ("LastModified", "last_modified", "mtime", "updated"):
        if name in info:
            value = info[name]
            return value.timestamp() if isinstance(value, datetime) else float(value)
    return time.time()  # nobody says: treat it as young


def _said(problem: Exception) -> str:
    return str(problem).strip().partition("\n")[0] or type(problem).__name__
