"""What the archive keeps, as plain records: a forecast as it came, and some measurements as they came.

Instants are microseconds since 1970 (UTC), intensities whole hundredths of gCO2e per kWh, None where unknown. `grid` is the
steps of a forecast from its `start`: `3600*96` is 96 steps of 3600 s, `-1800` a gap of 1800 s.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import groupby
from typing import Any, NamedTuple

import msgspec

from batchsched.forecasts.port import QUANTILES, ForecastSlot, IntensityForecast, Realised, Signal, known

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_FIRST = (datetime.min.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND
PARTS_PER_G = 100
MOST_G_PER_KWH = 1e6
NOT_YET = 0  # the receipt of what has not been written
LONGEST_SLOT = 31 * 86400 * 10**6
LEVELS = ("mean", *(f"q{round(level * 100):02d}" for level in QUANTILES))
Levels = list[list[int | None]]


class Feed(NamedTuple):
    """Who says what about which zone. Values of two feeds are never mixed."""

    zone: str
    provider: str
    signal: str


class Slot(NamedTuple):
    """A measurement."""

    start: int
    end: int
    value: int
    estimated: bool

    def realised(self, feed: Feed, licence: str) -> Realised:
        """The measurement again."""
        signal = Signal.parse(feed.signal)
        span = instant(self.start), instant(self.end)
        return Realised(feed.zone, *span, self.value / PARTS_PER_G, feed.provider, signal, bool(self.estimated), licence)

    def numbers(self) -> tuple[float, ...]:
        """What is said of the time, as numbers."""
        return self.value, self.estimated


class Receipt(NamedTuple):
    """A forecast, and when it reached us."""

    received_at: datetime
    forecast: IntensityForecast


class Issue(msgspec.Struct, array_like=True, tag="issue", frozen=True):
    """One forecast as received or made. `values`: the means, then each quantile where the provider gave any, as JSON."""

    feed: Feed
    issued_at: int
    received_at: int
    start: int
    grid: str
    licence: str
    continued_by: str | None
    continued_from: int | None
    values: msgspec.Raw
    note: str = ""

    @classmethod
    def of(cls, forecast: IntensityForecast) -> Issue:
        """The record of a forecast that has slots."""
        slots = forecast.slots
        levels: Levels = [[parts(slot.mean_g_per_kwh) for slot in slots]]
        if any(slot.quantiles for slot in slots):
            levels += [[parts(slot.quantiles[n]) if slot.quantiles else None for slot in slots] for n in range(len(QUANTILES))]
        return cls(
            Feed(forecast.zone, forecast.provider, str(forecast.signal)),
            micros(forecast.issued_at),
            NOT_YET,
            micros(slots[0].start),
            _grid(slots),
            forecast.licence,
            forecast.continued_by,
            micros(forecast.continued_from) if forecast.continued_from else None,
            msgspec.Raw(msgspec.json.encode(levels)),
            forecast.note,
        )

    def receipt(self) -> Receipt:
        """The forecast again."""
        means, *quantiles = self.levels()
        spread = [_quantiles(column) for column in zip(*quantiles, strict=True)] if quantiles else [None] * len(means)
        edges = _edges(self.start, self.grid)
        slots = tuple(ForecastSlot(*edge, grams(mean), q) for edge, mean, q in zip(edges, means, spread, strict=True))
        forecast = IntensityForecast(
            self.feed.zone,
            instant(self.issued_at),
            self.feed.provider,
            Signal.parse(self.feed.signal),
            slots,
            self.licence,
            self.continued_by,
            instant(self.continued_from) if self.continued_from is not None else None,
            self.note,
        )
        return Receipt(instant(self.received_at), forecast)

    def levels(self) -> Levels:
        """Means, and quantiles where there are any."""
        return msgspec.json.decode(self.values, type=Levels)

    def plain(self) -> list[tuple[int, dict[str, Any]]]:
        """A row of a table with one column for each level, and by which instant it belongs to a month."""
        row = msgspec.structs.asdict(self) | self.feed._asdict()
        levels = self.levels()
        row |= dict(zip(LEVELS, [*levels, *[None] * (len(LEVELS) - len(levels))], strict=True))
        return [(self.issued_at, row)]

    @classmethod
    def from_plain(cls, feed: Feed, row: dict[str, Any]) -> Issue:
        """The issue of such a row."""
        levels = [level for name in LEVELS if (level := row.pop(name)) is not None]
        note = row.pop("note") or ""  # months of before it was kept have none
        return cls(feed=feed, values=msgspec.Raw(msgspec.json.encode(levels)), note=note, **row)

    def says_the_same(self, other: Issue) -> bool:
        """Is it the same forecast, whenever it came?"""
        return msgspec.structs.replace(other, received_at=self.received_at) == self


class Measured(msgspec.Struct, array_like=True, tag="measured", frozen=True):
    """What came true, as it was known at `received_at`, slot by slot."""

    feed: Feed
    received_at: int
    values: list[Slot]
    licence: str = ""

    @classmethod
    def of(cls, values: Iterable[Realised]) -> list[Measured]:
        """A record for each feed; unknown values are left out."""
        by_feed: dict[tuple[Feed, str], list[Slot]] = {}
        for value in values:
            if (number := parts(value.intensity_g_per_kwh)) is not None:
                feed = Feed(value.zone, value.provider, str(value.signal))
                by_feed.setdefault((feed, value.licence), []).append(
                    Slot(micros(value.start), micros(value.end), number, value.estimated)
                )
        return [cls(feed, NOT_YET, slots, licence) for (feed, licence), slots in by_feed.items()]

    def plain(self) -> list[tuple[int, dict[str, Any]]]:
        """A row of a table for each slot, and by which instant it belongs to a month."""
        own = self.feed._asdict() | {"received_at": self.received_at, "licence": self.licence}
        return [(slot.start, own | slot._asdict()) for slot in self.values]


def micros(at: datetime) -> int:
    """An instant as the archive keeps it."""
    return (at - _EPOCH) // _MICROSECOND


def micros_of_hour(hour: int) -> int:
    """When an hour begins, counted from the epoch."""
    return hour * 3600 * 10**6


def instant(micros: int) -> datetime:
    """The instant again, aware UTC."""
    return _EPOCH + timedelta(microseconds=micros)


def parts(value: float | None) -> int | None:
    """An intensity as the archive keeps it; what is no intensity, or beyond any grid's, is unknown."""
    grams = known(value)
    return round(grams * PARTS_PER_G) if grams is not None and grams <= MOST_G_PER_KWH else None


def grams(value: int | None) -> float | None:
    """The intensity again."""
    return None if value is None else value / PARTS_PER_G


def month(micros: int) -> str:
    """The month of an instant, such as `2026-05`."""
    at = instant(max(micros, _FIRST))
    return f"{at.year:04}-{at.month:02}"


def _quantiles(column: Sequence[int | None]) -> tuple[float, ...] | None:
    found = tuple(value / PARTS_PER_G for value in column if value is not None)
    return found if len(found) == len(column) else None


def _grid(slots: Sequence[ForecastSlot]) -> str:
    steps: list[str] = []
    for before, slot in zip((None, *slots), slots, strict=False):
        if before and before.end != slot.start:
            steps.append(_seconds(before.end - slot.start))
        steps.append(_seconds(slot.end - slot.start))
    counted = ((step, sum(1 for _ in same)) for step, same in groupby(steps))
    return ",".join(step if count == 1 else f"{step}*{count}" for step, count in counted)


def _seconds(span: timedelta) -> str:
    return f"{span / timedelta(seconds=1):.6f}".rstrip("0").rstrip(".")


@lru_cache(maxsize=512)
def _edges(start: int, grid: str) -> tuple[tuple[datetime, datetime], ...]:
    edges: list[tuple[datetime, datetime]] = []
    at = instant(start)
    for run in grid.split(","):
        step, _, count = run.partition("*")
        for _ in range(int(count or 1)):
            end = at + abs(timedelta(seconds=float(step)))
            if not step.startswith("-"):
                edges.append((at, end))
            at = end
    return tuple(edges)
