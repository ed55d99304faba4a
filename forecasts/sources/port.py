"""What every source gives, and what they share: names of zones, the one signal, cleaned values."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, NamedTuple, Protocol, runtime_checkable

import msgspec

from batchsched.errors import ForecastUnavailable, InvalidConfiguration, InvalidValue, SignalMismatch, SourceRefused
from batchsched.feeds import FeedSource
from batchsched.forecasts.port import ForecastSlot, Generation, IntensityForecast, Realised, Signal, known, plausible
from batchsched.forecasts.sources.fetcher import Fetcher


class Source(Protocol):
    """A provider that is asked for news. Blocking; one thread at a time; not for a thread with an event loop."""

    name: str
    has_forecast: bool
    has_history: bool

    def zones(self) -> list[str]:
        """Zones that it is asked about, by our names."""
        ...

    def signal_of(self, zone: str) -> Signal:
        """Which figure its values are. Raises ForecastUnavailable for an unknown zone."""
        ...

    def fetch_forecast(self, zone: str, now: datetime) -> IntensityForecast:
        """Its newest forecast, issued at `now` at the latest. Raises ForecastUnavailable, SourceLimited, SourceRefused."""
        ...

    def fetch_realised(self, zone: str, start: datetime, end: datetime, now: datetime) -> list[Realised]:
        """What came true in slots that begin in [start, end) and had ended by `now`, in order. Raises like `fetch_forecast`."""
        ...


class Measured(NamedTuple):
    """What came true, and what power was generated from, both in order."""

    realised: list[Realised]
    generation: list[Generation]


@runtime_checkable
class Generating(Protocol):
    """A source that also sees what power is generated from."""

    def fetch_generation(self, zone: str, start: datetime, end: datetime, now: datetime) -> Measured:
        """What `fetch_realised` gives, and the generation of the same span, by one question. Raises like it."""
        ...


class Point(msgspec.Struct, frozen=True):
    """One slot as a provider gave it, in g/kWh; None: unknown."""

    start: datetime
    end: datetime
    value: float | None
    estimated: bool = False


class Base:
    """What the sources share."""

    has_forecast = True
    has_history = True
    licence = ""
    signals: tuple[Signal, ...] = (Signal(),)
    """Those it can give; the first one where none is asked for."""

    def __init__(self, name: str, declared: FeedSource, fetcher: Fetcher) -> None:
        self.name = name
        self._fetcher = fetcher
        self._zones = declared.zones
        self._signal = chosen(name, declared) or self.signals[0]
        if self._signal not in self.signals:
            allowed = ", ".join(map(str, self.signals))
            raise InvalidConfiguration(
                f"forecast.sources.{name}.signal: {declared.kind} gives no {self._signal} (allowed: {allowed})."
            )

    def zones(self) -> list[str]:
        """Zones that it is asked about, by our names."""
        return sorted(self._zones)

    def signal_of(self, zone: str) -> Signal:
        """The source's one signal. Raises ForecastUnavailable for an unknown zone."""
        self._theirs(zone)
        return self._signal

    def fetch_forecast(self, zone: str, now: datetime) -> IntensityForecast:
        """None, of a source that only measures. Raises ForecastUnavailable."""
        del zone, now
        raise ForecastUnavailable(f"The source '{self.name}' measures and does not forecast.")

    def _theirs(self, zone: str) -> str:
        """What the source calls a zone of ours."""
        if zone not in self._zones:
            raise ForecastUnavailable(
                f"The source '{self.name}' has no zone '{zone}' (it has: {', '.join(self.zones())}).",
                hint=f"Add it to forecast.sources.{self.name}.zones.",
            )
        return self._zones[zone]

    def _forecast(self, zone: str, issued_at: datetime, now: datetime, points: Iterable[Point]) -> IntensityForecast:
        """The forecast of these points. An issue time ahead of our clock (theirs is fast) becomes `now`."""
        slots = tuple(
            ForecastSlot(point.start, point.end, point.value)
            for point in cleaned(points, self._signal)
            if point.end > min(issued_at, now)
        )
        if not any(slot.mean_g_per_kwh is not None for slot in slots):
            raise ForecastUnavailable(f"The source '{self.name}' has no forecast for '{zone}' now.")
        return IntensityForecast(zone, min(issued_at, now), self.name, self._signal, slots, self.licence)

    def _realised(self, zone: str, points: Iterable[Point], start: datetime, end: datetime, now: datetime) -> list[Realised]:
        return [
            Realised(zone, point.start, point.end, point.value, self.name, self._signal, point.estimated, self.licence)
            for point in cleaned(points, self._signal)
            if point.value is not None and start <= point.start < end and point.end <= now
        ]

    def _generation(
        self, zone: str, mix: Mapping[datetime, Mapping[str, float]], step: timedelta, start: datetime, end: datetime
    ) -> list[Generation]:
        """Of slots that begin in [start, end - step]."""
        return [
            Generation(zone, at, at + step, self.name, mix[at])
            for at in sorted(mix)
            if mix[at] and start <= at and at + step <= end
        ]

    @contextmanager
    def _reading(self) -> Generator[None]:
        """Around the reading of an answer: another form than the documented one is a ForecastUnavailable."""
        try:
            yield
        except (KeyError, IndexError, TypeError, AttributeError, ValueError, OverflowError):
            broken = True
        else:
            broken = False
        if broken:  # out here, so that the error does not drag the answer along with it
            raise ForecastUnavailable(f"The source '{self.name}' answered in another form than its documented one.")

    def _must_be(self, found: Signal | None, answer: str) -> None:
        """Raises SignalMismatch where an answer names another signal than the one that was asked for."""
        if found != self._signal:
            raise SignalMismatch(
                f"The source '{self.name}' was asked for {self._signal} and answered with {answer}: these are never mixed."
            )


@contextmanager
def about_the_key() -> Generator[None]:
    """Around a question that is refused for its key alone, be it with a 403 that elsewhere may be of one zone."""
    try:
        yield
    except SourceRefused as refused:
        refused.status = 401
        raise


def chosen(name: str, declared: FeedSource) -> Signal | None:
    """The declared signal, if any. Raises InvalidConfiguration."""
    try:
        return Signal.parse(declared.signal) if declared.signal else None
    except InvalidValue as problem:
        raise InvalidConfiguration(f"forecast.sources.{name}.signal: {problem.message}") from None


def cleaned(points: Iterable[Point], signal: Signal) -> list[Point]:
    """The points in order, one a slot (the last one given holds), and what cannot be true made unknown.

    That is: NaN, negative and absurdly high values, and zeros that are not `plausible`. A slot that
    reaches into the next one is cut there.
    """
    by_start = {
        point.start: msgspec.structs.replace(point, value=known(point.value)) for point in points if point.start < point.end
    }
    ordered = [by_start[start] for start in sorted(by_start)]
    for index, (point, after) in enumerate(pairwise(ordered)):
        if point.end > after.start:
            ordered[index] = msgspec.structs.replace(point, end=after.start)
    values = plausible([point.value for point in ordered], signal)
    return [msgspec.structs.replace(point, value=value) for point, value in zip(ordered, values, strict=True)]


def number(value: Any) -> float | None:
    """A number as JSON or XML carry it, also as text; anything else, and what is not finite, is unknown."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def instant(value: Any) -> datetime:
    """An instant of an answer, UTC where it names no offset. Raises ValueError for what is none."""
    at = datetime.fromisoformat(str(value))
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def spans(start: datetime, end: datetime, longest: timedelta) -> list[tuple[datetime, datetime]]:
    """[start, end) in pieces no longer than a provider allows in one request."""
    pieces: list[tuple[datetime, datetime]] = []
    while start < end:
        pieces.append((start, min(start + longest, end)))
        start += longest
    return pieces
