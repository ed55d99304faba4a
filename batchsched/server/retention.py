"""Removes what the configuration says is over. The leader's housekeeping calls it; what it does at a time is bounded."""

from __future__ import annotations

from datetime import timedelta

from batchsched.clock import Clock
from batchsched.queue import deliveries, files, idempotency, retention, schedules
from batchsched.queue.database import Database
from batchsched.queue.store import Store
from batchsched.settings import Retention as Rules

OLD_EVERY_S = 60.0
FILES_A_ROUND, BATCHES_A_ROUND = 100, 20
DELIVERIES_KEPT = timedelta(days=30)
RELEASES_KEPT, RELEASES_A_ROUND = timedelta(days=30), 1000
"""Of recurring jobs' times of which no batch came."""


class Retention:
    """The time of files at each round; that of batches, keys, deliveries and recurring jobs' history once a minute."""

    def __init__(self, database: Database, store: Store, rules: Rules, clock: Clock) -> None:
        self._database = database
        self._store = store
        self._rules = rules
        self._clock = clock
        self._next_s = clock.monotonic()

    def round(self) -> None:
        """Remove some of what is over."""
        self._files()
        if self._clock.monotonic() >= self._next_s:
            self._next_s = self._clock.monotonic() + OLD_EVERY_S
            self._old()

    def _files(self) -> None:
        with self._database.read() as connection:
            if not retention.expired(connection, self._clock.now(), FILES_A_ROUND):
                return
        with self._database.write() as connection:
            now = self._clock.now()
            gone = retention.expired(connection, now, FILES_A_ROUND, lock=True)
            for file_id in gone:
                files.remove(connection, file_id, now)
        for file_id in gone:
            self._store.remove(file_id)

    def _old(self) -> None:
        now = self._clock.now()
        with self._database.write() as connection:
            deliveries.forget(connection, now - DELIVERIES_KEPT)
            schedules.forget(connection, now - RELEASES_KEPT, RELEASES_A_ROUND)
            idempotency.forget(connection, now - timedelta(days=self._rules.idempotency_days))
        if not self._rules.batches_days:
            return
        with self._database.read() as connection:
            old = retention.over(connection, now - timedelta(days=self._rules.batches_days), BATCHES_A_ROUND)
        for batch_id in old:
            with self._database.write() as connection:
                retention.forget(connection, batch_id)
