"""What was issued at an instant and holds for a time to come, with every change: read from the journal and the months."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

import numpy as np

from batchsched.forecasts.archive.journal import Journal, Record
from batchsched.forecasts.archive.months import Ints, Months
from batchsched.forecasts.archive.records import Feed, Issue, month
from batchsched.forecasts.archive.weather import Run

Thin = Callable[[Ints, Ints], Ints]  # by times of issue and receipt, in order: which of them are looked at
K = TypeVar("K", bound=Record)
I = TypeVar("I", Issue, Run)  # noqa: E741 - an issue


class Kept(Generic[K]):
    """One kind of record, in the journal and the months."""

    def __init__(self, journal: Journal, months: Months, kind: type[K]) -> None:
        self.months = months
        self._journal = journal
        self._kind = kind

    def feeds(self) -> set[Feed]:
        """The feeds of which there is anything."""
        return self._journal.feeds(self._kind).union(*(self.months.feeds(name) for name in self.months.names()))

    def pending(self) -> dict[str, dict[Feed, list[dict[str, Any]]]]:
        """The journal's records as rows for the months' files."""
        found: dict[str, dict[Feed, list[dict[str, Any]]]] = {}
        for feed in self._journal.feeds(self._kind):
            for record in self._journal.records(self._kind, feed):
                for at, row in record.plain():
                    found.setdefault(month(at), {}).setdefault(feed, []).append(row)
        return found


class Issued(Kept[I]):
    """Issues of one kind."""

    def between(self, feed: Feed, start: int, end: int, at: int, thin: Thin | None = None) -> Iterator[I]:
        """Those issued in [start, end) that had been received by `at`, with every change; of the months what `thin` says."""

        def choose(issued: Ints, received: Ints) -> Ints:
            chosen = np.flatnonzero((issued >= start) & (issued < end) & (issued <= at) & (received <= at))
            return chosen if thin is None else chosen[np.sort(thin(issued[chosen], received[chosen]))]

        for name in self.months.names():
            if month(start) <= name <= month(end):
                yield from (self._kind.from_plain(feed, row) for row in self.months.select(name, feed, choose))
        recent = self._journal.records(self._kind, feed)
        yield from (issue for issue in recent if start <= issue.issued_at < end and _is_out(issue, at))

    def last(self, feed: Feed, at: int) -> I | None:
        """The one that was issued last of those that had been received."""
        best = _last(issue for issue in self._journal.records(self._kind, feed) if _is_out(issue, at))
        for name in reversed(self.months.names()):
            if best and name < month(best.issued_at):
                break
            known = self.months.select(
                name, feed, lambda issued, received: np.flatnonzero((issued <= at) & (received <= at))[-1:]
            )
            if known:
                folded = self._kind.from_plain(feed, known[0])
                return best if best and age(folded) <= age(best) else folded
        return best

    def until(self, feed: Feed, at: int) -> int | None:
        """When that was issued."""
        issued = [issue.issued_at for issue in self._journal.records(self._kind, feed) if _is_out(issue, at)]
        for name in reversed(self.months.names()):
            known, received = self.months.numbers(name, feed)
            if len(out := known[(received <= at) & (known <= at)]):
                issued.append(int(out[-1]))
                break
        return max(issued, default=None)

    def news(self, some: list[I]) -> list[I]:
        """Those that are new or have changed."""
        distinct = {(issue.feed, issue.issued_at): issue for issue in some}.values()
        return [issue for issue in distinct if not self._has(issue)]

    def _has(self, issue: I) -> bool:
        same = _last(self.between(issue.feed, issue.issued_at, issue.issued_at + 1, issue.received_at))
        return same is not None and same.says_the_same(issue)


def age(issue: Issue | Run) -> tuple[int, int]:
    """The order of issues."""
    return issue.issued_at, issue.received_at


def _last(issues: Iterable[I]) -> I | None:
    """The newest; of those that are alike in age the one that was written last."""
    return max(reversed(list(issues)), key=age, default=None)


def _is_out(issue: Issue | Run, at: int) -> bool:
    return issue.issued_at <= at and issue.received_at <= at
