"""Parquet by month: one file a month, one row group a feed, so that a feed's month is read alone.

A file is never changed: a new one takes its place by rename. The values of a forecast lie in one row, as lists of whole
hundredths, their bytes sorted by rank before zstd: three quarters of the same as float32 (benchmarks/archive.py measures it).
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from batchsched.disk import room, sync_folder
from batchsched.errors import StorageUnavailable
from batchsched.forecasts.archive.records import LEVELS, Feed
from batchsched.forecasts.port import FUELS

Ints = npt.NDArray[np.int64]
Version = tuple[int, int, int]

_TIME = pa.timestamp("us", "UTC")
_FEED = [(name, pa.string()) for name in Feed._fields]
ISSUES = pa.schema(
    [
        *_FEED,
        ("issued_at", _TIME),
        ("received_at", _TIME),
        ("start", _TIME),
        ("grid", pa.string()),
        ("licence", pa.string()),
        ("continued_by", pa.string()),
        ("continued_from", _TIME),
        *((name, pa.list_(pa.int32())) for name in LEVELS),
        ("note", pa.string()),
    ]
)
MEASURED = pa.schema(
    [
        *_FEED,
        ("start", _TIME),
        ("end", _TIME),
        ("received_at", _TIME),
        ("value", pa.int32()),
        ("estimated", pa.bool_()),
        ("licence", pa.string()),
    ]
)
GENERATED = pa.schema([*_FEED, ("start", _TIME), ("end", _TIME), ("received_at", _TIME), *((fuel, pa.int32()) for fuel in FUELS)])
RUNS = pa.schema(
    [
        *_FEED,
        ("issued_at", _TIME),
        ("received_at", _TIME),
        ("published_at", _TIME),
        ("start", _TIME),
        ("step", pa.int64()),
        ("values", pa.list_(pa.float32())),
    ]
)
KEPT_TABLES = 32
KEPT_NUMBERS = 1024


class _Month(NamedTuple):
    """A month's file as it was looked at: what tells it from another, its footer, and which row group each feed is."""

    version: Version
    metadata: Any
    groups: dict[Feed, int]


class Months:
    """The months of one kind of record, in a folder. `keys`: what tells two rows of a feed apart, and their order."""

    def __init__(self, folder: Path, schema: Any, keys: Sequence[str]) -> None:
        self._folder = folder
        self._schema = schema
        self._keys = keys
        self._known: dict[str, _Month] = {}
        self._tables = _Kept(KEPT_TABLES)
        self._numbers = _Kept(KEPT_NUMBERS)
        folder.mkdir(parents=True, exist_ok=True)

    def refresh(self) -> None:
        """Take notice of months that were written since. All that reads knows the months of the last refresh, or newer ones."""
        with os.scandir(self._folder) as found:
            versions = {Path(entry.name).stem: _version(entry.stat()) for entry in found if entry.name.endswith(".parquet")}
        self._known = {name: known for name, known in self._known.items() if name in versions}
        for name, version in versions.items():
            if name not in self._known or self._known[name].version != version:
                with self._opened(name):  # which reads the footer anew
                    pass
        self._known = dict(sorted(self._known.items()))

    def names(self) -> list[str]:
        """The months that there are, oldest first."""
        return list(self._known)

    def feeds(self, month: str) -> Collection[Feed]:
        """The feeds of a month."""
        return self._known[month].groups.keys() if month in self._known else ()

    def select(self, month: str, feed: Feed, choose: Callable[..., Ints]) -> list[dict[str, Any]]:
        """The rows of a feed's month that `choose` picks by the keys, a column each, as plain values."""
        while feed in self.feeds(month):
            version = self._known[month].version
            chosen = choose(*self.numbers(month, feed))
            found = rows(self.table(month, feed), chosen) if len(chosen) else []
            if self._known[month].version == version:  # else it was written anew in between, and the rows moved
                return found
        return []

    def table(self, month: str, feed: Feed) -> Any:
        """A feed's rows of a month, in order of the keys."""
        if feed not in self.feeds(month):
            return self._schema.empty_table()

        def read() -> Any:
            found = self._read(month, feed, self._schema.names)
            for field in self._schema:
                if field.name not in found.column_names:  # the month was written before there was such a column
                    found = found.append_column(field, pa.nulls(len(found), field.type))
            return found.select(self._schema.names)

        return self._tables.get((month, feed, self._known[month].version), read)

    def numbers(self, month: str, feed: Feed) -> list[Ints]:
        """The keys alone, a column each."""
        if feed not in self.feeds(month):
            return [np.empty(0, np.int64) for _ in self._keys]

        def read() -> list[Ints]:
            table = self._read(month, feed, self._keys)
            return [ints(table, key) for key in self._keys]

        found: list[Ints] = self._numbers.get((month, feed, self._known[month].version), read)
        return found

    def _read(self, month: str, feed: Feed, columns: Sequence[str]) -> Any:
        with self._opened(month) as (handle, known):
            file = pq.ParquetFile(handle, metadata=known.metadata)
            return file.read_row_group(known.groups[feed], columns=list(columns))

    def merge(self, month: str, added: Mapping[Feed, list[dict[str, Any]]]) -> None:
        """Write a month anew with more rows; one with the same keys as another takes its place."""
        path = self._folder / f"{month}.parquet"
        half = path.with_suffix(".half")
        try:
            with room(), half.open("wb") as handle:
                with pq.ParquetWriter(handle, self._schema, **_packing(self._schema)) as writer:
                    for feed in sorted({*self.feeds(month), *added}):
                        rows = pa.Table.from_pylist(added.get(feed, []), self._schema)
                        table = self._in_order(pa.concat_tables([self.table(month, feed), rows]))
                        writer.write_table(table, row_group_size=len(table))
                handle.flush()
                os.fsync(handle.fileno())
            half.replace(path)
            sync_folder(self._folder)
        finally:
            half.unlink(missing_ok=True)

    def _in_order(self, table: Any) -> Any:
        keys = np.stack([ints(table, name) for name in self._keys])
        order = np.lexsort(keys[::-1])  # stable: the later of two that are alike stays the later
        ordered = keys[:, order]
        last = np.append((ordered[:, 1:] != ordered[:, :-1]).any(axis=0), True)
        return table.take(order[last])

    @contextmanager
    def _opened(self, month: str) -> Generator[tuple[BinaryIO, _Month]]:
        path = self._folder / f"{month}.parquet"
        try:
            with path.open("rb") as handle:
                version = _version(os.fstat(handle.fileno()))
                if month not in self._known or self._known[month].version != version:
                    metadata = pq.read_metadata(handle)
                    self._known[month] = _Month(version, metadata, _groups(metadata))
                yield handle, self._known[month]
        except (pa.ArrowInvalid, OSError) as problem:
            raise StorageUnavailable(
                f"The archive's file {path} cannot be read: {problem}.", hint="Bring it back from a copy, or move it away."
            ) from problem


class _Kept:
    """What was read last, at most so many pieces."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._pieces: OrderedDict[Any, Any] = OrderedDict()

    def get(self, key: Any, read: Callable[[], Any]) -> Any:
        """The piece that is kept, or a new one."""
        if key not in self._pieces:
            self._pieces[key] = read()
            if len(self._pieces) > self._most:
                self._pieces.popitem(last=False)
        self._pieces.move_to_end(key)
        return self._pieces[key]


def _version(stat: os.stat_result) -> Version:
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def ints(table: Any, name: str) -> Ints:
    """A column of instants or numbers, as numbers."""
    found: Ints = table[name].cast(pa.int64()).to_numpy()
    return found


def rows(table: Any, chosen: Ints) -> list[dict[str, Any]]:
    """Some rows as plain values, instants as numbers, without what says of which feed they are."""
    taken = table.take(chosen).drop_columns(list(Feed._fields))
    times = [field.name for field in taken.schema if pa.types.is_timestamp(field.type)]
    for name in times:
        taken = taken.set_column(taken.schema.get_field_index(name), name, taken[name].cast(pa.int64()))
    found: list[dict[str, Any]] = taken.to_pylist()
    return found


def _groups(metadata: Any) -> dict[Feed, int]:
    def feed(number: int) -> Feed:
        group = metadata.row_group(number)
        return Feed(*(group.column(column).statistics.min for column in range(len(Feed._fields))))

    return {feed(number): number for number in range(metadata.num_row_groups)}


def _packing(schema: Any) -> dict[str, Any]:
    texts = [field.name for field in schema if pa.types.is_string(field.type)]
    times = [field.name for field in schema if pa.types.is_timestamp(field.type)]
    numbers = [field.name for field in schema if pa.types.is_integer(field.type)]
    lists = [f"{field.name}.list.element" for field in schema if pa.types.is_list(field.type)]
    encoding = dict.fromkeys(times, "DELTA_BINARY_PACKED") | dict.fromkeys(numbers + lists, "BYTE_STREAM_SPLIT")
    return {"compression": "zstd", "use_dictionary": texts, "column_encoding": encoding}
