"""Forecasts and measurements from one file that somebody else keeps up to date: CSV, or Parquet with the same columns.

Columns: `zone,start,end,issued_at,mean,q05,q25,q50,q75,q95,realised`. Instants are RFC 3339 with an offset, intensities gCO2e per
kWh. A row with `mean` is one slot of the forecast issued at `issued_at`; a row with `realised` says what came true; one row may
do both. `issued_at`, the quantiles and `realised` may be left out or empty, `issued_at` only where there is no `mean`. NaN and
negative values are unknown. Lines `# signal: average direct`, `# provider: NAME`, `# licence: TEXT` before the header are
optional; in Parquet these are pandas' `attrs`.
"""

from __future__ import annotations

import csv
import heapq
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice, pairwise, takewhile
from pathlib import Path
from typing import Any

import msgspec

from batchsched.errors import ForecastUnavailable, InvalidConfiguration, InvalidValue, MissingExtra
from batchsched.forecasts.port import QUANTILES, ForecastSlot, IntensityForecast, Realised, Signal, known

REQUIRED = ("zone", "start", "end")
QUANTILE_COLUMNS = tuple(f"q{round(level * 100):02d}" for level in QUANTILES)
COLUMNS = (*REQUIRED, "issued_at", "mean", *QUANTILE_COLUMNS, "realised")


class Row(msgspec.Struct, frozen=True, gc=False):
    """One line of the file."""

    start: datetime
    end: datetime
    issued_at: datetime | None
    mean: float | None
    quantiles: tuple[float, ...] | None
    realised: float | None


_Piece = tuple[datetime, datetime, Row]


class _Content(msgspec.Struct):
    provider: str
    signal: Signal = Signal()
    licence: str = ""
    forecasts: dict[str, list[Row]] = {}
    realised: dict[str, list[_Piece]] = {}


class FileProvider:
    """Reads the file when made, and again whenever its time or size has changed. Raises InvalidConfiguration for a bad file.

    Whoever writes the file should write a new one beside it and rename, so that no half of it is ever read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None
        self._content = _Content("")
        self._fresh()

    @property
    def name(self) -> str:
        """What the file calls its provider, else the file's name."""
        return self._fresh().provider

    def zones(self) -> list[str]:
        """Zones with a forecast or with measurements."""
        content = self._fresh()
        return sorted(content.forecasts.keys() | content.realised.keys())

    def signal_of(self, zone: str) -> Signal:
        """The file's one signal. Raises ForecastUnavailable for an unknown zone."""
        if zone not in (known_zones := self.zones()):
            raise ForecastUnavailable(f"{self._path} has no zone '{zone}' (it has: {', '.join(known_zones) or 'none'}).")
        return self._content.signal

    def forecast(self, zone: str, now: datetime, until: datetime) -> IntensityForecast:
        """For each moment the newest issue that was out by `now`. Raises ForecastUnavailable where no slot is known."""
        signal = self.signal_of(zone)
        rows = [
            row
            for row in self._content.forecasts.get(zone, [])
            if row.issued_at and row.issued_at <= now < row.end and (row.start < until or row.start <= now)
        ]
        if not rows:
            raise ForecastUnavailable(f"{self._path} has no forecast for '{zone}' after {now:%Y-%m-%d %H:%M:%S} UTC.")
        rows.sort(key=lambda row: row.issued_at or now)
        slots = tuple(ForecastSlot(start, end, row.mean, row.quantiles) for start, end, row in _resolve(rows))
        return IntensityForecast(zone, rows[-1].issued_at or now, self.name, signal, slots, self._content.licence)

    def realised(self, zone: str, start: datetime, end: datetime, now: datetime) -> list[Realised]:
        """Measurements whose span had ended by `now`; where rows overlap, the later line of the file holds."""
        content = self._fresh()
        pieces = content.realised.get(zone, [])
        first = bisect_right(pieces, start, key=lambda piece: piece[1])
        return [
            Realised(zone, since, to, row.realised, content.provider, content.signal)
            for since, to, row in takewhile(lambda piece: piece[0] < end, islice(pieces, first, None))
            if row.realised is not None and row.end <= now
        ]

    def _fresh(self) -> _Content:
        try:
            stat = self._path.stat()
            if (seen := (stat.st_mtime_ns, stat.st_size)) != self._seen:
                self._content = _read(self._path)
                self._seen = seen
        except OSError as problem:
            raise InvalidConfiguration(f"Cannot read the forecast file {self._path}: {problem.strerror}.") from None
        return self._content


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


def _read(path: Path) -> _Content:
    lines, options = (_parquet if path.suffix == ".parquet" else _csv)(path)
    content = _Content(provider=options.get("provider") or f"file {path.name}", licence=options.get("licence", ""))
    try:
        content.signal = Signal.parse(options.get("signal") or str(Signal()))
    except InvalidValue as problem:
        raise InvalidConfiguration(f"{path}: '# signal': {problem.message}") from None
    measured: dict[str, list[Row]] = {}
    for number, cells in lines:
        zone, row = _row(cells, f"{path}, line {number}")
        if row.mean is not None:
            content.forecasts.setdefault(zone, []).append(row)
        if row.realised is not None:
            measured.setdefault(zone, []).append(row)
    content.realised = {zone: list(_resolve(rows)) for zone, rows in measured.items()}
    return content


def _csv(path: Path) -> tuple[Iterator[tuple[int, Mapping[str, str]]], dict[str, str]]:
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise InvalidConfiguration(f"{path} is not UTF-8 text.") from None
    options: dict[str, str] = {}
    body = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    while body and body[0][1].startswith("#"):
        key, _, value = body.pop(0)[1].lstrip("# ").partition(":")
        options[key.strip().lower()] = value.strip()
    body = [(number, line) for number, line in body if not line.startswith("#")]
    header = [name.strip() for name in next(csv.reader([body[0][1]]))] if body else []
    _check_header(header, f"{path}, line {body[0][0] if body else 1}")
    return _cells(body[1:], header, path), options


def _cells(body: list[tuple[int, str]], header: list[str], path: Path) -> Iterator[tuple[int, Mapping[str, str]]]:
    for (number, _), values in zip(body, csv.reader(line for _, line in body), strict=False):
        if len(values) != len(header):
            raise InvalidConfiguration(f"{path}, line {number}: {len(values)} values under {len(header)} columns.")
        yield number, dict(zip(header, values, strict=True))


def _parquet(path: Path) -> tuple[Iterator[tuple[int, Mapping[str, Any]]], dict[str, str]]:
    try:
        import pandas as pd
    except ImportError:
        raise MissingExtra(f"Reading {path} needs pandas.", hint="pip install 'batchsched[server]', or write CSV.") from None
    try:
        frame = pd.read_parquet(path)
    except (ValueError, OSError) as problem:
        raise InvalidConfiguration(f"{path} is not a Parquet file: {problem}.") from None
    header = [str(name) for name in frame.columns]
    _check_header(header, str(path))
    columns = (  # plain datetimes: pandas' own are slow one at a time, and nobody else can encode them
        pd.DatetimeIndex(column).to_pydatetime() if pd.api.types.is_datetime64_any_dtype(column) else column.tolist()
        for _, column in frame.items()
    )
    rows = (dict(zip(header, values, strict=True)) for values in zip(*columns, strict=True))
    return enumerate(rows, 1), {str(key): str(value) for key, value in frame.attrs.items()}


def _check_header(header: list[str], where: str) -> None:
    missing, unknown = [name for name in REQUIRED if name not in header], [name for name in header if name not in COLUMNS]
    if missing or unknown or len(set(header)) != len(header):
        what = (
            f"column '{missing[0]}' is missing"
            if missing
            else f"column '{unknown[0]}' is unknown"
            if unknown
            else "a column is named twice"
        )
        raise InvalidConfiguration(f"{where}: {what} (allowed: {', '.join(COLUMNS)}; the first three are needed).")


def _row(cells: Mapping[str, Any], where: str) -> tuple[str, Row]:
    zone = str(cells["zone"]).strip()
    start, end = (_instant(cells[name], f"{where}, column '{name}'") for name in ("start", "end"))
    if not zone or start is None or end is None or start >= end:
        raise InvalidConfiguration(f"{where}: zone, start and end are needed, and end lies after start.")
    issued_at = _instant(cells.get("issued_at"), f"{where}, column 'issued_at'")
    mean, realised = (_number(cells.get(name), f"{where}, column '{name}'") for name in ("mean", "realised"))
    if mean is not None and issued_at is None:
        raise InvalidConfiguration(f"{where}, column 'issued_at': a row with a mean says when that forecast was issued.")
    levels = [_number(cells.get(name), f"{where}, column '{name}'") for name in QUANTILE_COLUMNS]
    quantiles = tuple(level for level in levels if level is not None)
    if quantiles and list(quantiles) != sorted(quantiles):
        raise InvalidConfiguration(f"{where}: the quantiles must not fall from q05 to q95.")
    return zone, Row(start, end, issued_at, mean, quantiles if len(quantiles) == len(QUANTILES) else None, realised)


def _instant(value: Any, where: str) -> datetime | None:
    if value is None or value != value or not str(value).strip() or str(value) == "NaT":  # noqa: PLR0124 - NaN, NaT
        return None
    try:
        at = value if isinstance(value, datetime) else datetime.fromisoformat(str(value).strip())
    except ValueError:
        raise InvalidConfiguration(f"{where}: '{value}' is not an instant such as 2026-05-01T06:00:00Z.") from None
    if at.tzinfo is None:
        raise InvalidConfiguration(f"{where}: '{value}' has no time zone; add Z for UTC or an offset such as +02:00.")
    return at.astimezone(UTC)


def _number(value: Any, where: str) -> float | None:
    try:
        return known(float(value)) if value is not None and value != "" else None
    except (TypeError, ValueError):
        raise InvalidConfiguration(f"{where}: '{value}' is not a number of grams per kWh (empty: unknown).") from None
