"""Weather forecasts as the archive keeps them: a record for each run of a weather model, zone and variable."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any

import msgspec

from batchsched.forecasts.archive.records import NOT_YET, Feed, micros
from batchsched.forecasts.weather import WeatherRun

_SINGLE = struct.Struct("f")


class Run(msgspec.Struct, array_like=True, tag="weather", frozen=True):
    """One variable (the feed's third part) of one run: `values[n]` holds at `start` + n * `step`, microseconds; NaN is None.

    `published_at`: when the run could be had.
    """

    feed: Feed
    issued_at: int
    received_at: int
    published_at: int
    start: int
    step: int
    values: tuple[float | None, ...]

    @classmethod
    def of(cls, runs: Iterable[WeatherRun]) -> Iterator[Run]:
        """A record for each variable, in single precision."""
        for run in runs:
            edges = micros(run.issued_at), NOT_YET, micros(run.published_at), micros(run.start)
            for name, values in run.values.items():
                single = tuple(None if value is None else _SINGLE.unpack(_SINGLE.pack(value))[0] for value in values)
                yield cls(Feed(run.zone, run.provider, name), *edges, run.step // timedelta(microseconds=1), single)

    def plain(self) -> list[tuple[int, dict[str, Any]]]:
        """A row of a table, and by which instant it belongs to a month."""
        return [(self.issued_at, msgspec.structs.asdict(self) | self.feed._asdict())]

    @classmethod
    def from_plain(cls, feed: Feed, row: dict[str, Any]) -> Run:
        """The run of such a row."""
        row["values"] = tuple(row["values"])
        return cls(feed=feed, **row)

    def says_the_same(self, other: Run) -> bool:
        """Is it the same, whenever it came?"""
        return msgspec.structs.replace(other, received_at=self.received_at) == self
