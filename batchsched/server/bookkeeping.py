"""Keeps the books of batches that ended: once at their end, then as intensities become known or are revised.

Grids report hours late and revise them for weeks. So an ended batch is looked at every hour for two days, then once a day for
five weeks; what has changed is entered as a difference.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import msgspec

from batchsched.carbon.books import Posting, corrections, lines
from batchsched.clock import Clock
from batchsched.queue import batches, books, ledger, spending
from batchsched.queue.database import Database
from batchsched.queue.rows import Row
from batchsched.queue.tenancy import ANY
from batchsched.server import counting
from batchsched.server.accounts import Accounts

AT_A_TIME = 20
OFTEN, OFTEN_FOR = timedelta(hours=1), timedelta(days=2)
SELDOM, SELDOM_FOR = timedelta(days=1), timedelta(days=35)
_ENDS = ("completed_at", "failed_at", "expired_at", "cancelled_at")


class Bookkeeping:
    """The leader's housekeeping calls it; what it does at a time is bounded."""

    def __init__(self, database: Database, accounts: Accounts, clock: Clock) -> None:
        self._database = database
        self._accounts = accounts
        self._clock = clock

    def round(self) -> None:
        """Write some of the books that are due."""
        with self._database.read() as connection:
            found = books.due(connection, self._clock.now(), AT_A_TIME)
        for batch_id in found:
            self.write(batch_id)

    def write(self, batch_id: str) -> list[Posting]:
        """Enter what is known now of a batch and not yet in its books.

        Raises Conflict where another server does the same.
        """
        now = self._clock.now()
        with self._database.read() as connection:
            batch = batches.get(connection, batch_id, ANY)
            work, wasted = ledger.of_batch(connection, batch_id), spending.of_batch(connection, batch_id)
            seen = books.of_batch(connection, batch_id)
        booked = [posting(row) for row in seen]
        news = corrections(self._accounts.entries(work), self._accounts.wasted(wasted), self._accounts.truth, booked)
        known, saved_g = _known([*booked, *news]) and not _known(booked), None
        if news and known:  # for the first time all of its grams are known
            saved_g = self._accounts.report(batch, work).saved_g
        with self._database.write() as connection:
            entries = [msgspec.structs.asdict(each) for each in news]
            books.add(connection, batch_id, len(seen), entries, now, _due_at(batch, now))
            counting.note_books(connection, news)
            if news and not seen:
                counting.note_times(connection, batch, work, _ended_at(batch) or now)
            if saved_g is not None:
                counting.note_saving(connection, saved_g)
        return news


def posting(row: Row) -> Posting:
    """A row as an entry."""
    return Posting(**{name: row[name] for name in Posting.__struct_fields__})


def _known(entries: Iterable[Posting]) -> bool:
    """Are the grams of all of it known?"""
    found = lines(entries)
    return bool(found) and all(line.grams is not None for line in found.values())


def _ended_at(batch: Row) -> datetime | None:
    ended: Any = max((batch[name] for name in _ENDS if batch[name]), default=None)
    return ended  # type: ignore[no-any-return]


def _due_at(batch: Row, now: datetime) -> datetime | None:
    ended = _ended_at(batch) or now
    if now - ended > SELDOM_FOR:
        return None
    return now + (OFTEN if now - ended < OFTEN_FOR else SELDOM)
