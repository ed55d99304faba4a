"""What was measured slot by slot, with every revision: read from the journal and the months as columns of numbers."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batchsched.forecasts.archive.generated import Generated
from batchsched.forecasts.archive.issued import Kept
from batchsched.forecasts.archive.journal import Journal
from batchsched.forecasts.archive.months import Ints, Months, ints
from batchsched.forecasts.archive.records import LONGEST_SLOT, Feed, Measured, micros_of_hour, month

Floats = npt.NDArray[np.float64]
S = TypeVar("S", bound=Measured | Generated)
_HOUR = micros_of_hour(1)
_WHOLE = 0.999


class Values(NamedTuple):
    """Slots in order of time, a row each: edges and receipt in microseconds, and the numbers that belong to them."""

    start: Ints
    end: Ints
    received_at: Ints
    numbers: Floats

    def chosen(self, which: Any) -> Values:
        """Some of the rows."""
        return Values(self.start[which], self.end[which], self.received_at[which], self.numbers[which])

    @classmethod
    def empty(cls, names: int) -> Values:
        """No slot."""
        nothing = np.zeros(0, np.int64)
        return cls(nothing, nothing, nothing, np.zeros((0, names)))

    @classmethod
    def joined(cls, parts: Sequence[Values]) -> Values:
        """One after the other."""
        return cls(
            np.concatenate([part.start for part in parts]),
            np.concatenate([part.end for part in parts]),
            np.concatenate([part.received_at for part in parts]),
            np.concatenate([part.numbers for part in parts]),
        )

    def by_hour(self, first: int, last: int) -> Floats:
        """[hours, numbers]: the mean of each hour in [first, last) that is known whole, NaN elsewhere.

        Hours are counted from the epoch. The slots must not overlap.
        """
        edges = np.stack([self.start, self.end], 1).ravel() - first * _HOUR
        marks = np.arange(last - first + 1) * _HOUR
        out = np.full((last - first, self.numbers.shape[1]), np.nan)
        for column, values in enumerate(self.numbers.T if len(edges) else ()):
            known = np.isfinite(values)
            length = (self.end - self.start) * known
            amounts = np.stack([np.zeros(len(values)), np.where(known, values, 0.0) * length], 1).ravel()
            lengths = np.stack([np.zeros(len(values)), length], 1).ravel()
            amount, share = (np.diff(np.interp(marks, edges, np.cumsum(part))) for part in (amounts, lengths))
            whole = share > _WHOLE * _HOUR
            out[whole, column] = amount[whole] / share[whole]
        return out


class Slots(Kept[S]):
    """The slots of one kind of record. `names`: the columns of numbers. `order`: who measures a zone, the best one first."""

    def __init__(
        self, journal: Journal, months: Months, kind: type[S], names: Sequence[str], order: Callable[[str], Sequence[str]]
    ) -> None:
        super().__init__(journal, months, kind)
        self._names = names
        self._order = order

    def read(self, feed: Feed, start: int, end: int, at: int) -> Values:
        """What touches [start, end), of each slot what had been received last by `at`."""
        parts = [
            self._folded(name, feed, start, end, at)
            for name in self.months.names()
            if month(start - LONGEST_SLOT) <= name <= month(end) and feed in self.months.feeds(name)
        ]
        rows = [
            (*slot[:2], record.received_at, *slot.numbers())
            for record in self._journal.records(self._kind, feed)
            if record.received_at <= at
            for slot in record.values
            if slot.start < end and slot.end > start
        ]
        table = np.array(rows, float).reshape(len(rows), 3 + len(self._names))  # microseconds since 1970 are exact in floats
        edges = table[:, :3].astype(np.int64)
        parts.append(Values(edges[:, 0], edges[:, 1], edges[:, 2], table[:, 3:]))
        found = Values.joined(parts)
        order = np.lexsort((found.received_at, found.end, found.start))  # stable: of two alike the one written later
        found = found.chosen(order)
        same = (found.start[1:] == found.start[:-1]) & (found.end[1:] == found.end[:-1])
        return found.chosen(np.append(~same, True)[: len(order)])

    def joined(self, feeds: Sequence[Feed], start: int, end: int, at: int) -> Values:
        """The same of several feeds of a zone, without overlaps: the better one's holds, of equal ones what was received last.

        The last column is the place of the feed.
        """
        parts = [self.read(feed, start, end, at) for feed in feeds]
        marked = [
            part._replace(numbers=np.column_stack([part.numbers, np.full(len(part.start), of)])) for of, part in enumerate(parts)
        ]
        if not marked:
            return Values.empty(len(self._names) + 1)
        order = [*self._order(feeds[0].zone)]
        ranks = np.array([order.index(feed.provider) if feed.provider in order else len(order) for feed in feeds])
        found = Values.joined(marked)
        return apart(found, ranks[found.numbers[:, -1].astype(int)])

    def until(self, feed: Feed, at: int) -> int | None:
        """The end of the last slot that had been received."""
        recent = self._journal.records(self._kind, feed)
        ends = [slot.end for record in recent if record.received_at <= at for slot in record.values]
        for name in reversed(self.months.names()):
            _, to, received = self.months.numbers(name, feed)
            if known := to[received <= at].tolist():
                ends.append(max(known))
                break
        return max(ends, default=None)

    def news(self, some: list[S]) -> list[S]:
        """Of some records what is new or has changed."""
        return [new for record in some if (new := self._revised(record)).values]

    def _revised(self, record: S) -> S:
        start, end = min(slot.start for slot in record.values), max(slot.end for slot in record.values)
        held = self.read(record.feed, start, end, record.received_at)
        spans = zip(held.start.tolist(), held.end.tolist(), strict=True)
        known: dict[Any, Any] = dict(zip(spans, _comparable(held.numbers).tolist(), strict=True))
        told = _comparable([slot.numbers() for slot in record.values]).tolist()
        news = [slot for n, slot in enumerate(record.values) if known.get(slot[:2]) != told[n]]
        return msgspec.structs.replace(record, values=news)

    def _folded(self, name: str, feed: Feed, start: int, end: int, at: int) -> Values:
        table = self.months.table(name, feed)
        numbers = np.stack([_floats(table[name]) for name in self._names], 1)
        found = Values(ints(table, "start"), ints(table, "end"), ints(table, "received_at"), numbers)
        return found.chosen((found.start < end) & (found.end > start) & (found.received_at <= at))


class Measurements(Slots[Measured]):
    """The slots of intensities."""

    def licence(self, feed: Feed, start: int, end: int, at: int) -> str:
        """Under which a feed gave the newest that had been received of what touches [start, end)."""
        months = [name for name in self.months.names() if month(start - LONGEST_SLOT) <= name <= month(end)]
        said = [self.months.table(name, feed)["licence"][-1].as_py() for name in months if feed in self.months.feeds(name)]
        said += [record.licence for record in self._journal.records(Measured, feed) if record.received_at <= at]
        return next(filter(None, reversed(said)), "")


def apart(values: Values, ranks: Ints) -> Values:
    """In order and without overlaps: of two that overlap, the one of lower rank holds, of equal ones what was received later."""
    order = np.lexsort((values.end, values.start))
    if not (values.start[order][1:] < values.end[order][:-1]).any():
        return values.chosen(order)
    taken: list[tuple[int, int, int]] = []
    for row in np.lexsort((-values.received_at, ranks)).tolist():
        start, end = int(values.start[row]), int(values.end[row])
        place = bisect_right(taken, (start, end, -1))
        if (place == 0 or taken[place - 1][1] <= start) and (place == len(taken) or taken[place][0] >= end):
            taken.insert(place, (start, end, row))
    return values.chosen(np.array([row for _, _, row in taken], np.int64))


def _comparable(numbers: Any) -> Floats:
    """Unknown is like unknown, and unlike any power."""
    return np.asarray(np.nan_to_num(np.asarray(numbers, float), nan=-1e300))


def _floats(column: Any) -> Floats:
    return np.asarray(column.cast(pa.float64()).to_numpy(), float)
