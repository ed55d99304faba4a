"""What was known when: every forecast and every measurement, with the time it reached us, kept for ever in one folder.

journal/        the newest records, synced one by one
forecasts/      Parquet by the month of issue
realised/       Parquet by the month that was measured

Reading as of an instant uses what had reached us by then, and nothing else. Any number of processes may read and write: writers
take turns. A reader looks into the journal first and into the months after it, so a fold between the two hides nothing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from batchsched.errors import SignalMismatch, StorageFull, StorageUnavailable
from batchsched.forecasts.archive.journal import Journal
from batchsched.forecasts.archive.months import ISSUES, MEASURED, Ints, Months
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
    month,
)
from batchsched.forecasts.archive.slots import Floats, Slots, Values, apart
from batchsched.forecasts.port import IntensityForecast, Realised, Signal

__all__ = ["Archive", "Feed", "Receipt", "Summary"]

log = logging.getLogger(__name__)

R = TypeVar("R", Issue, Measured)
Thin = Callable[[Ints, Ints], Ints]  # by times of issue and receipt, in order: which of them are looked at
HOUR = 3600 * 10**6
FOLD_BYTES = 8 << 20
TOGETHER = 500


class Summary(NamedTuple):
    """What the archive has of a feed."""

    feed: Feed
    newest_issue_at: datetime | None
    realised_until: datetime | None


class Archive:
    """The archive in a folder. Thread-safe. Intensities are kept to a hundredth of a gram per kWh.

    `fold_bytes`: once the journal is longer than this, its records move into the months' files.
    """

    def __init__(self, folder: Path, *, fold_bytes: int = FOLD_BYTES) -> None:
        self.folder = folder
        self._fold_bytes = fold_bytes
        self._lock = threading.RLock()
        self._journal = Journal(folder / "journal")
        self._issues = Months(folder / "forecasts", ISSUES, ("issued_at", "received_at"))
        self._measured = Months(folder / "realised", MEASURED, ("start", "end", "received_at"))
        self._slots = Slots(self._journal, self._measured, Measured, ("value", "estimated"))

    def add_forecast(self, forecast: IntensityForecast, received_at: datetime) -> bool:
        """Keep a forecast; False where it was there. Durable when this returns. Raises StorageFull."""
        return self.add_forecasts([forecast], received_at) == 1

    def add_forecasts(self, forecasts: Iterable[IntensityForecast], received_at: datetime) -> int:
        """Keep those that are new, and say how many; one that has changed since, under the same time of issue, is new."""
        issues = (Issue.of(forecast, received_at) for forecast in forecasts if forecast.slots)
        return sum(map(len, self._add(issues, self._new_issues)))

    def add_realised(self, values: Iterable[Realised], received_at: datetime) -> int:
        """Keep what is new or has changed (a revision: the earlier value stays), and say how many values these were."""
        added = self._add(Measured.of(values, received_at), self._new_values)
        return sum(len(record.values) for records in added for record in records)

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
            last = (self._last_issue(feed, micros(as_of)) for feed in self._feeds(zone, provider, signal))
            newest = max(filter(None, last), key=_age, default=None)
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
            found = [issue for feed in feeds for issue in self._issued(feed, micros(start), micros(end), micros(as_of))]
            return [issue.receipt() for issue in sorted(found, key=_age)]

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
            found = sorted(self._issued(feed, micros(start), micros(end), micros(as_of), thin), key=_age)
        keys = np.array([_age(issue) for issue in found], np.int64).reshape(-1, 2)
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
        """What came true in [start, end), as far as it had reached us, in order. Where two overlap, the later receipt holds."""
        with self._lock:
            feeds = self._feeds(zone, provider, signal)
            found = self._true(feeds, micros(start), micros(end), micros(as_of))
        rows = zip(found.start.tolist(), found.end.tolist(), found.numbers.tolist(), strict=True)
        return [Slot(since, to, int(value), estimated > 0).realised(feeds[int(of)]) for since, to, (value, estimated, of) in rows]

    def hours(self, zone: str, first: int, last: int, *, as_of: datetime, signal: Signal) -> Floats:
        """The same as means of the hours [first, last), counted from the epoch; NaN where an hour is not known whole."""
        with self._lock:
            feeds = self._feeds(zone, None, signal)
            found = self._true(feeds, micros_of_hour(first), micros_of_hour(last), micros(as_of))
        found = found.chosen(found.end <= micros(as_of))
        return found.by_hour(first, last)[:, 0] / PARTS_PER_G

    def feeds(self, zone: str | None = None) -> list[Feed]:
        """Who has said something about what."""
        with self._lock:
            self._refresh()
            months = (feed for kind in (self._issues, self._measured) for name in kind.names() for feed in kind.feeds(name))
            recent = self._journal.feeds(Issue) | self._journal.feeds(Measured)
            return sorted({feed for feed in (*recent, *months) if zone in {None, feed.zone}})

    def summaries(self, as_of: datetime) -> list[Summary]:
        """How far each feed reached."""
        with self._lock:
            return [self._summary(feed, micros(as_of)) for feed in self.feeds()]

    def fold(self) -> None:
        """Move the journal's records into the months' files. Adding does it when there is enough to move."""
        with self._lock, self._journal.writing():
            self._refresh()
            self._fold()

    def _refresh(self) -> None:
        """The journal first: what is folded meanwhile is then seen twice, and not missed."""
        self._journal.refresh()
        self._issues.refresh()
        self._measured.refresh()

    def _add(self, records: Iterable[R], news: Callable[[list[R]], list[R]]) -> list[list[R]]:
        added: list[list[R]] = []
        coming = iter(records)
        while some := list(islice(coming, TOGETHER)):
            with self._lock, self._journal.writing():
                self._refresh()
                if new := news(some):
                    self._journal.append(new)
                    added.append(new)
                if self._journal.bytes > self._fold_bytes:
                    try:
                        self._fold()
                    except (StorageFull, StorageUnavailable) as problem:  # nothing is lost: the journal has it
                        log.warning("The forecast archive cannot be tidied: %s", problem.message)
        return added

    def _new_issues(self, some: list[Issue]) -> list[Issue]:
        distinct = {(issue.feed, issue.issued_at): issue for issue in some}.values()
        return [issue for issue in distinct if not self._has(issue)]

    def _has(self, issue: Issue) -> bool:
        same = _last(self._issued(issue.feed, issue.issued_at, issue.issued_at + 1, issue.received_at))
        return same is not None and same.says_the_same(issue)

    def _new_values(self, some: list[Measured]) -> list[Measured]:
        return [new for record in some if (new := self._slots.revised(record)).values]

    def _true(self, feeds: list[Feed], start: int, end: int, at: int) -> Values:
        """What came true without overlaps; the last column is the place of the feed."""
        parts = [self._slots.read(feed, start, end, at) for feed in feeds]
        marked = [
            part._replace(numbers=np.column_stack([part.numbers, np.full(len(part.start), of)])) for of, part in enumerate(parts)
        ]
        return apart(Values.joined(marked)) if marked else Values.empty(3)

    def _feeds(self, zone: str, provider: str | None, signal: Signal | None) -> list[Feed]:
        found = [feed for feed in self.feeds(zone) if provider in {None, feed.provider}]
        asked = [feed for feed in found if signal is None or feed.signal == str(signal)]
        if len({feed.signal for feed in asked}) > 1 or (found and not asked):
            has = " and ".join(f"{feed.signal} by {feed.provider}" for feed in found)
            raise SignalMismatch(
                f"The archive has '{zone}' as {has}; " + (f"{signal} was asked for." if signal else "say which signal is meant.")
            )
        return asked

    def _issued(self, feed: Feed, start: int, end: int, at: int, thin: Thin | None = None) -> Iterator[Issue]:
        def choose(issued: Ints, received: Ints) -> Ints:
            chosen = np.flatnonzero((issued >= start) & (issued < end) & (issued <= at) & (received <= at))
            return chosen if thin is None else chosen[np.sort(thin(issued[chosen], received[chosen]))]

        for name in self._issues.names():
            if month(start) <= name <= month(end):
                yield from (Issue.from_plain(feed, row) for row in self._issues.select(name, feed, choose))
        recent = self._journal.records(Issue, feed)
        yield from (issue for issue in recent if start <= issue.issued_at < end and _is_out(issue, at))

    def _last_issue(self, feed: Feed, at: int) -> Issue | None:
        best = _last(issue for issue in self._journal.records(Issue, feed) if _is_out(issue, at))
        for name in reversed(self._issues.names()):
            if best and name < month(best.issued_at):
                break
            known = self._issues.select(
                name, feed, lambda issued, received: np.flatnonzero((issued <= at) & (received <= at))[-1:]
            )
            if known:
                folded = Issue.from_plain(feed, known[0])
                return best if best and _age(folded) <= _age(best) else folded
        return best

    def _summary(self, feed: Feed, at: int) -> Summary:
        issued = [issue.issued_at for issue in self._journal.records(Issue, feed) if _is_out(issue, at)]
        for name in reversed(self._issues.names()):
            if out := [
                known for known, received in zip(*self._issues.numbers(name, feed), strict=True) if received <= at >= known
            ]:
                issued.append(int(out[-1]))
                break
        recent = self._journal.records(Measured, feed)
        ends = [slot.end for record in recent if record.received_at <= at for slot in record.values]
        for name in reversed(self._measured.names()):
            _, to, received = self._measured.numbers(name, feed)
            if known := to[received <= at].tolist():
                ends.append(max(known))
                break
        return Summary(feed, instant(max(issued)) if issued else None, instant(max(ends)) if ends else None)

    def _fold(self) -> None:
        issues: dict[str, dict[Feed, list[dict[str, Any]]]] = {}
        measured: dict[str, dict[Feed, list[dict[str, Any]]]] = {}
        for feed in self._journal.feeds(Issue):
            for issue in self._journal.records(Issue, feed):
                issues.setdefault(month(issue.issued_at), {}).setdefault(feed, []).append(issue.plain())
        for feed in self._journal.feeds(Measured):
            for record in self._journal.records(Measured, feed):
                for row in record.plain():
                    measured.setdefault(month(row["start"]), {}).setdefault(feed, []).append(row)
        for kind, months in ((self._issues, issues), (self._measured, measured)):
            for name, added in months.items():
                kind.merge(name, added)
        self._journal.begin_anew()


def _age(issue: Issue) -> tuple[int, int]:
    return issue.issued_at, issue.received_at


def _last(issues: Iterable[Issue]) -> Issue | None:
    """The newest; of those that are alike in age the one that was written last."""
    return max(reversed(list(issues)), key=_age, default=None)


def _is_out(issue: Issue, at: int) -> bool:
    return issue.issued_at <= at and issue.received_at <= at
