"""Forecasts and measurements from one file that somebody else keeps up to date: CSV or Parquet, in any layout of layouts.py."""

from __future__ import annotations

import heapq
import logging
import threading
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import islice, pairwise, takewhile
from pathlib import Path

from batchsched.errors import ForecastUnavailable, InvalidConfiguration
from batchsched.forecasts.layouts import Content, Row, read_file
from batchsched.forecasts.port import ForecastSlot, Generation, IntensityForecast, Realised, Signal

log = logging.getLogger(__name__)
_Piece = tuple[datetime, datetime, Row]


class FileProvider:
    """Reads the file when made, and again whenever its time or size has changed. Raises InvalidConfiguration for a bad file.

    One that goes bad or away later, or to another signal, leaves what it last said in force, and a warning in the log; `strict`:
    it raises then too.

    Whoever writes the file should write a new one beside it and rename, so that no half of it is ever read.
    """

    def __init__(self, path: Path, signal: Signal | None = None, *, strict: bool = False) -> None:
        """`signal`: which one to take from a file that has several."""
        self._path = path
        self._asked = signal
        self._strict = strict
        self._reading = threading.Lock()
        self._problem = ""
        self._seen: tuple[int, int] | None = None
        self._content = Content("")
        self._realised: dict[str, list[_Piece]] = {}
        self._fresh()

    @property
    def name(self) -> str:
        """What the file calls its provider, else the file's name."""
        return self._fresh().provider

    def zones(self) -> list[str]:
        """Zones with a forecast or with measurements."""
        return self._fresh().zones

    def signal_of(self, zone: str) -> Signal:
        """The file's one signal. Raises ForecastUnavailable for an unknown zone."""
        if zone not in (known_zones := self.zones()):
            raise ForecastUnavailable(f"{self._path} has no zone '{zone}' (it has: {', '.join(known_zones) or 'none'}).")
        return self._content.signal

    def forecast(self, zone: str, now: datetime, until: datetime) -> IntensityForecast:
        """For each moment the newest issue that was out by `now`. Raises ForecastUnavailable where no slot is known."""
        signal = self.signal_of(zone)
        rows = [row for row in self._out(zone, now) if now < row.end and (row.start < until or row.start <= now)]
        return self._made(zone, signal, rows, now)

    def newest(self, zone: str, now: datetime) -> IntensityForecast:
        """The newest issue that was out by `now`, whole, and earlier ones where it leaves time open: the same until the next one.

        Raises ForecastUnavailable where nothing of it lies ahead.
        """
        signal = self.signal_of(zone)
        rows = self._out(zone, now)
        issued_at = max((row.issued_at for row in rows if row.issued_at), default=now)
        rows = [row for row in rows if row.end > issued_at]
        return self._made(zone, signal, rows if any(row.end > now for row in rows) else [], now)

    def _out(self, zone: str, now: datetime) -> list[Row]:
        return [row for row in self._content.forecasts.get(zone, []) if row.issued_at and row.issued_at <= now]

    def _made(self, zone: str, signal: Signal, rows: list[Row], now: datetime) -> IntensityForecast:
        if not rows:
            raise ForecastUnavailable(f"{self._path} has no forecast for '{zone}' after {now:%Y-%m-%d %H:%M:%S} UTC.")
        rows.sort(key=lambda row: row.issued_at or now)
        slots = tuple(ForecastSlot(start, end, row.mean, row.quantiles) for start, end, row in _resolve(rows))
        return IntensityForecast(zone, rows[-1].issued_at or now, self.name, signal, slots, self._content.licence)

    def realised(self, zone: str, start: datetime, end: datetime, now: datetime) -> list[Realised]:
        """Measurements whose span had ended by `now`; where rows overlap, the later line of the file holds."""
        content = self._fresh()
        pieces = self._realised.get(zone, [])
        first = bisect_right(pieces, start, key=lambda piece: piece[1])
        return [
            Realised(zone, since, to, row.realised, content.provider, content.signal, row.estimated, content.licence)
            for since, to, row in takewhile(lambda piece: piece[0] < end, islice(pieces, first, None))
            if row.realised is not None and row.end <= now
        ]

    def generation(self, zone: str, start: datetime, end: datetime, now: datetime) -> list[Generation]:
        """What generated power in slots that begin in [start, end) and had ended by `now`."""
        content, until = self._fresh(), min(end, now)
        rows = [row for row in content.generated.get(zone, []) if row.mw and start <= row.start < end and row.end <= until]
        return [Generation(zone, row.start, row.end, content.provider, row.mw or {}) for row in rows]

    def _fresh(self) -> Content:
        if self._reading.acquire(blocking=False):  # who comes meanwhile gets what was there before
            try:
                self._look()
            finally:
                self._reading.release()
        return self._content

    def _look(self) -> None:
        try:
            stat = self._path.stat()
            if (seen := (stat.st_mtime_ns, stat.st_size)) != self._seen:
                self._read(seen)
        except OSError as problem:
            self._keep(InvalidConfiguration(f"Cannot read the forecast file {self._path}: {problem.strerror}."))

    def _read(self, seen: tuple[int, int]) -> None:
        try:
            content = read_file(self._path, self._asked)
            if content.weather:
                raise InvalidConfiguration(f"{self._path} holds weather, not intensities; bring it in by 'forecast import'.")
            self._content = content
        except InvalidConfiguration as problem:
            self._keep(problem)
        else:
            self._realised = {zone: list(_resolve(rows)) for zone, rows in self._content.realised.items()}
            self._problem, self._asked = "", self._content.signal  # which it keeps to
        self._seen = seen

    def _keep(self, problem: InvalidConfiguration) -> None:
        if self._strict or self._seen is None:
            raise problem from None
        if problem.message != self._problem:
            log.warning("%s What it said before stays in force.", problem.message)
        self._problem = problem.message


def _resolve(rows: Sequence[Row]) -> Iterator[_Piece]:
    """Cut overlapping rows so that at each moment the last of the sequence holds."""
    by_start = sorted(range(len(rows)), key=lambda rank: rows[rank].start, reverse=True)
    edges = sorted({edge for row in rows for edge in (row.start, row.end)})
    open_ranks: list[int] = []  # a heap of negated ranks: the last row on top
    piece: _Piece | None = None
    for since, to in pairwise(edges):
        while by_start and rows[by_start[-1]].start <= since:
            heapq.heappush(open_ranks, -by_start.pop())
        while open_ranks and rows[-open_ranks[0]].end <= since:
            heapq.heappop(open_ranks)
        row = rows[-open_ranks[0]] if open_ranks else None
        if piece and row is piece[2]:
            piece = (piece[0], to, piece[2])
            continue
        if piece:
            yield piece
        piece = (since, to, row) if row else None
    if piece:
        yield piece
