"""What was known when: every forecast and every measurement, with the time it reached us, kept for ever in one folder.

journal/        the newest records, synced one by one
forecasts/      Parquet by the month of issue
realised/       Parquet by the month that was measured
generation/     likewise, what power was generated from
weather/        weather forecasts, by the month of issue

Reading as of an instant uses what had reached us by then, and nothing else. Any number of processes may read and write: writers
take turns. A reader looks into the journal first and into the months after it, so a fold between the two hides nothing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec
import numpy as np

from batchsched.errors import SignalMismatch, StorageFull, StorageUnavailable
from batchsched.forecasts.archive.generated import PARTS_PER_MW, Generated
from batchsched.forecasts.archive.issued import Issued, Thin, age
from batchsched.forecasts.archive.journal import Journal
from batchsched.forecasts.archive.months import GENERATED, ISSUES, MEASURED, RUNS, Ints, Months
from batchsched.forecasts.archive.records import (
    PARTS_PER_G,
    Feed,
    Issue,
    Measured,
    Receipt,
    Slot,
    instant,
    micros,
    micros_of_hour,
)
from batchsched.forecasts.archive.slots import Floats, Measurements, Slots
from batchsched.forecasts.archive.weather import Run
from batchsched.forecasts.port import FUELS, Generation, IntensityForecast, Realised, Signal
from batchsched.forecasts.weather import WeatherRun

__all__ = ["Archive", "Feed", "Receipt", "Summary"]

log = logging.getLogger(__name__)

R = TypeVar("R", Issue, Measured, Generated, Run)
HOUR = 3600 * 10**6
FOLD_BYTES = 8 << 20
TOGETHER = 500
CLOCK_BACK = 60 * 10**6  # a clock that was put back by less goes on from where it was; by more, it was wrong before

When = datetime | Callable[[], datetime]
"""An instant of receipt, or the clock that says it when the record is written."""


class Summary(NamedTuple):
    """What the archive has of a feed."""

    feed: Feed
    newest_issue_at: datetime | None
    realised_until: datetime | None


class Archive:
    """The archive in a folder. Thread-safe. Intensities are kept to a hundredth of a gram per kWh.

    `order`: who measures a zone, the best one first; whoever it does not name comes last. `fold_bytes`: once the journal is
    longer than this, its records move into the months' files.

    What comes now is given with a clock as its `received_at`: it is stamped under the lock that readers wait for, so that who
    reads at an instant sees what anybody will see later as of that instant. An instant is for what came earlier.
    """

    def __init__(
        self, folder: Path, *, order: Callable[[str], Sequence[str]] = lambda _zone: (), fold_bytes: int = FOLD_BYTES
    ) -> None:
        self.folder = folder
        self._fold_bytes = fold_bytes
        self._lock = threading.RLock()
        self._journal = Journal(folder / "journal")
        issued, slots = ("issued_at", "received_at"), ("start", "end", "received_at")
        self._issues = Issued(self._journal, Months(folder / "forecasts", ISSUES, issued), Issue)
        self._runs = Issued(self._journal, Months(folder / "weather", RUNS, issued), Run)
        measured = Months(folder / "realised", MEASURED, slots)
        self._measured = Measurements(self._journal, measured, Measured, ("value", "estimated"), order)
        self._generated = Slots(self._journal, Months(folder / "generation", GENERATED, slots), Generated, FUELS, order)
        self._kinds = (self._issues, self._measured, self._generated, self._runs)

    def add_forecast(self, forecast: IntensityForecast, received_at: When) -> bool:
        """Keep a forecast; False where it was there. Durable when this returns. Raises StorageFull."""
        return self.add_forecasts([forecast], received_at) == 1

    def add_forecasts(self, forecasts: Iterable[IntensityForecast], received_at: When) -> int:
        """Keep those that are new, and say how many; one that has changed since, under the same time of issue, is new."""
        issues = (Issue.of(forecast) for forecast in forecasts if forecast.slots)
        return sum(map(len, self._add(issues, received_at, self._issues.news)))

    def add_realised(self, values: Iterable[Realised], received_at: When) -> int:
        """Keep what is new or has changed (a revision: the earlier value stays), and say how many values these were."""
        added = self._add(Measured.of(values), received_at, self._measured.news)
        return sum(len(record.values) for records in added for record in records)

    def add_generation(self, values: Iterable[Generation], received_at: When) -> int:
        """The same for what power was generated from."""
        added = self._add(Generated.of(values), received_at, self._generated.news)
        return sum(len(record.values) for records in added for record in records)

    def add_weather(self, runs: Iterable[WeatherRun], received_at: When) -> int:
        """The same for runs of a weather model."""
        added = self._add(Run.of(runs), received_at, self._runs.news)
        return len({(run.feed[:2], run.issued_at) for records in added for run in records})

    def newest(
        self, zone: str, *, as_of: datetime, provider: str | None = None, signal: Signal | None = None
    ) -> IntensityForecast | None:
        """The forecast that was issued last of those that had reached us, None where there is none.

        Raises SignalMismatch, as all that reads does, where the archive has the zone by another signal than the one asked for, or
        by several and none was asked for.
        """
        found = self.newest_receipt(zone, as_of=as_of, provider=provider, signal=signal)
        return found.forecast if found else None

    def newest_receipt(
        self, zone: str, *, as_of: datetime, provider: str | None = None, signal: Signal | None = None
    ) -> Receipt | None:
        """The same, with the time it reached us."""
        with self._lock:
            last = (self._issues.last(feed, micros(as_of)) for feed in self._feeds(zone, provider, signal))
            newest = max(filter(None, last), key=age, default=None)
            return newest.receipt() if newest else None

    def forecasts(
        self,
        zone: str,
        start: datetime,
        end: datetime,
        *,
        as_of: datetime,
        provider: str | None = None,
        signal: Signal | None = None,
    ) -> list[IntensityForecast]:
        """All that were issued in [start, end) and had reached us, in order of issue; of one that was changed, the last."""
        found = self.receipts(zone, start, end, as_of=as_of, provider=provider, signal=signal)
        return list({(one.forecast.provider, one.forecast.issued_at): one.forecast for one in found}.values())

    def receipts(
        self,
        zone: str,
        start: datetime,
        end: datetime,
        *,
        as_of: datetime,
        provider: str | None = None,
        signal: Signal | None = None,
    ) -> list[Receipt]:
        """All that were issued in [start, end) and had reached us, with every change, in order of issue and receipt."""
        with self._lock:
            feeds = self._feeds(zone, provider, signal)
            found = [issue for feed in feeds for issue in self._issues.between(feed, micros(start), micros(end), micros(as_of))]
            return [issue.receipt() for issue in sorted(found, key=age)]

    def each_hour(
        self, zone: str, start: datetime, end: datetime, *, as_of: datetime, provider: str, signal: Signal
    ) -> Iterator[Receipt]:
        """The same, but of those that reached us within an hour only the newest; one at a time, for many take much room."""

        def newest(issued: Ints, received: Ints) -> Ints:
            del issued
            return len(received) - 1 - np.unique(-(-received[::-1] // HOUR), return_index=True)[1]

        return self._thinned(newest, Feed(zone, provider, str(signal)), start, end, as_of)

    def first_of_each(
        self, hours: int, zone: str, start: datetime, end: datetime, *, as_of: datetime, provider: str, signal: Signal
    ) -> Iterator[Receipt]:
        """The same, but of those that were issued within so many hours only the first, as it first came."""

        def first(issued: Ints, received: Ints) -> Ints:
            del received
            return np.unique(issued // (hours * HOUR), return_index=True)[1]

        return self._thinned(first, Feed(zone, provider, str(signal)), start, end, as_of)

    def _thinned(self, thin: Thin, feed: Feed, start: datetime, end: datetime, as_of: datetime) -> Iterator[Receipt]:
        with self._lock:
            self._refresh()
            found = sorted(self._issues.between(feed, micros(start), micros(end), micros(as_of), thin), key=age)
        keys = np.array([age(issue) for issue in found], np.int64).reshape(-1, 2)
        return (found[n].receipt() for n in sorted(thin(keys[:, 0], keys[:, 1]).tolist()))

    def realised(
        self,
        zone: str,
        start: datetime,
        end: datetime,
        *,
        as_of: datetime,
        provider: str | None = None,
        signal: Signal | None = None,
    ) -> list[Realised]:
        """What came true in [start, end), as far as it had reached us, in order.

        Where two overlap, the better one's holds by the zone's `order`; of one source, or of two that have no place in it, what
        was received last.
        """
        with self._lock:
            feeds = self._feeds(zone, provider, signal)
            found = self._measured.joined(feeds, micros(start), micros(end), micros(as_of))
            said = [self._measured.licence(feed, micros(start), micros(end), micros(as_of)) for feed in feeds]
        rows = zip(found.start.tolist(), found.end.tolist(), found.numbers.tolist(), strict=True)
        return [
            Slot(since, to, int(value), estimated > 0).realised(feeds[int(of)], said[int(of)])
            for since, to, (value, estimated, of) in rows
        ]

    def hours(self, zone: str, first: int, last: int, *, as_of: datetime, signal: Signal) -> Floats:
        """The same as means of the hours [first, last), counted from the epoch; NaN where an hour is not known whole."""
        with self._lock:
            feeds = self._feeds(zone, None, signal)
            found = self._measured.joined(feeds, micros_of_hour(first), micros_of_hour(last), micros(as_of))
        found = found.chosen(found.end <= micros(as_of))
        return found.by_hour(first, last)[:, 0] / PARTS_PER_G

    def generation(self, zone: str, first: int, last: int, *, as_of: datetime) -> dict[str, Floats]:
        """Megawatts by fuel as means of the hours [first, last), as `hours` has them; of the fuels of which any is known."""
        with self._lock:
            self._refresh()
            feeds = sorted(feed for feed in self._generated.feeds() if feed.zone == zone)
            found = self._generated.joined(feeds, micros_of_hour(first), micros_of_hour(last), micros(as_of))
        means = found.chosen(found.end <= micros(as_of)).by_hour(first, last) / PARTS_PER_MW
        return {fuel: means[:, n] for n, fuel in enumerate(FUELS) if np.isfinite(means[:, n]).any()}

    def weather(self, zone: str, start: datetime, end: datetime, *, as_of: datetime) -> list[Run]:
        """The weather runs of [start, end) that had been published and had reached us, with every change, in order of receipt."""
        at = micros(as_of)
        with self._lock:
            self._refresh()
            feeds = sorted(feed for feed in self._runs.feeds() if feed.zone == zone)
            found = [run for feed in feeds for run in self._runs.between(feed, micros(start), micros(end), at)]
        return sorted((run for run in found if run.published_at <= at), key=lambda run: run.received_at)

    def feeds(self, zone: str | None = None) -> list[Feed]:
        """Who has said something about what."""
        with self._lock:
            self._refresh()
            return sorted(feed for feed in self._issues.feeds() | self._measured.feeds() if zone in {None, feed.zone})

    def summaries(self, as_of: datetime) -> list[Summary]:
        """How far each feed reached."""
        with self._lock:
            feeds, at = self.feeds(), micros(as_of)
            ends = [(self._issues.until(feed, at), self._measured.until(feed, at)) for feed in feeds]
        return [
            Summary(feed, *(None if end is None else instant(end) for end in both))
            for feed, both in zip(feeds, ends, strict=True)
        ]

    def fold(self) -> None:
        """Move the journal's records into the months' files. Adding does it when there is enough to move."""
        with self._lock, self._journal.writing():
            self._refresh()
            self._fold()

    def _refresh(self) -> None:
        """The journal first: what is folded meanwhile is then seen twice, and not missed."""
        self._journal.refresh()
        for kind in self._kinds:
            kind.months.refresh()

    def _add(self, records: Iterable[R], received_at: When, news: Callable[[list[R]], list[R]]) -> list[list[R]]:
        added: list[list[R]] = []
        coming = iter(records)
        while some := list(islice(coming, TOGETHER)):
            with self._lock, self._journal.writing():
                self._refresh()
                if new := news(self._stamped(some, received_at)):
                    self._journal.append(self._stamped(new, received_at))  # again: looking took its time
                    added.append(new)
                if self._journal.bytes > self._fold_bytes:
                    try:
                        self._fold()
                    except (StorageFull, StorageUnavailable) as problem:  # nothing is lost: the journal has it
                        log.warning("The forecast archive cannot be tidied: %s", problem.message)
        return added

    def _stamped(self, records: list[R], received_at: When) -> list[R]:
        if isinstance(received_at, datetime):
            at = micros(received_at)
        else:
            at, last = micros(received_at()), self._journal.newest
            at = last if at < last <= at + CLOCK_BACK else at
        return [msgspec.structs.replace(record, received_at=at) for record in records]

    def _fold(self) -> None:
        for kind in self._kinds:
            for name, added in kind.pending().items():
                kind.months.merge(name, added)
        self._journal.begin_anew()

    def _feeds(self, zone: str, provider: str | None, signal: Signal | None) -> list[Feed]:
        found = [feed for feed in self.feeds(zone) if provider in {None, feed.provider}]
        asked = [feed for feed in found if signal is None or feed.signal == str(signal)]
        if len({feed.signal for feed in asked}) > 1 or (found and not asked):
            has = " and ".join(f"{feed.signal} by {feed.provider}" for feed in found)
            raise SignalMismatch(
                f"The archive has '{zone}' as {has}; " + (f"{signal} was asked for." if signal else "say which signal is meant.")
            )
        return asked
