"""Gathers what a batch caused beside its work, from rows: engine starts, waste, idle pools, transfers, stored files."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from batchsched.carbon.beside import added, metered, network
from batchsched.carbon.report import Beside
from batchsched.carbon.storage import Stored, What, keeping
from batchsched.clock import Clock
from batchsched.errors import NotFound
from batchsched.queue import chunks, files, ledger, spending
from batchsched.queue.database import Database
from batchsched.queue.rows import Row
from batchsched.queue.tenancy import ANY
from batchsched.server.accounts import Accounts
from batchsched.settings import Carbon
from batchsched.units import format_bytes

DAY = timedelta(days=1)
_FILES: tuple[tuple[str, What], ...] = (("input_file_id", "input"), ("output_file_id", "output"), ("error_file_id", "output"))


class Besides:
    """Reads rows; changes nothing."""

    def __init__(self, database: Database, accounts: Accounts, clock: Clock, carbon: Carbon) -> None:
        self._database = database
        self._accounts = accounts
        self._clock = clock
        self._carbon = carbon

    def of(self, batch: Row, entries: Sequence[Row]) -> list[Beside]:
        """What is known of it by now, the largest kinds first."""
        parts = (self._loading(entries), self._waste(batch["id"]), self._idle(entries))
        moved = self._network(batch["id"], entries)
        return [*(part for part in parts if part), *moved, *self._storage(batch)]

    def _loading(self, entries: Sequence[Row]) -> Beside | None:
        starts = [row for row in entries if row["startup_s"] > 0]
        return metered("loading", self._accounts.alone(starts), f"{len(starts)} engine start(s); in the sums") if starts else None

    def _waste(self, batch_id: str) -> Beside | None:
        with self._database.read() as connection:
            rows = spending.of_batch(connection, batch_id)
        return metered("waste", self._accounts.of_hours(rows), "work whose results nobody took") if rows else None

    def _idle(self, entries: Sequence[Row]) -> Beside | None:
        """A pool's idle energy of a day, shared among all that worked on it that day, by the time that they took."""
        mine: Counter[tuple[str, datetime]] = Counter()
        for row in entries:
            mine[row["pool"], _day(row["started_at"])] += row["busy_s"]
        parts: list[Beside] = []
        for (pool, day), busy_s in mine.items():
            with self._database.read() as connection:
                idle = [row for row in spending.of_pool(connection, pool, day, day + DAY) if row["kind"] == "idle"]
                all_s = ledger.busy_s(connection, pool, day, day + DAY)
            if idle and all_s > 0:
                parts.append(metered("idle", self._accounts.of_hours(idle), "", min(1.0, busy_s / all_s)))
        how = "its part of what its pools took idle on the days that it ran, by busy time"
        return added(parts, how) if parts else None

    def _network(self, batch_id: str, entries: Sequence[Row]) -> Iterator[Beside]:
        home = self._accounts.home
        with self._database.read() as connection:
            bytes_of = chunks.bytes_of_pools(connection, batch_id)
        for pool, size in sorted(bytes_of.items()):
            spans = [(row["started_at"], row["ended_at"]) for row in entries if row["pool"] == pool]
            there = self._accounts.place(pool)
            if not spans or there is None or there == home:
                continue
            span = min(start for start, _ in spans), max(end for _, end in spans)
            here, away = (self._accounts.truth(self._accounts.site(name).zone, *span) for name in (home, there))
            how = f"{format_bytes(size)} between {home} and {there}, {self._carbon.network_kwh_per_gb:g} kWh a GB"
            yield network(size, self._carbon.network_kwh_per_gb, (here, away), how)

    def _storage(self, batch: Mapping[str, Any]) -> Iterator[Beside]:
        now, home = self._clock.now(), self._accounts.site(self._accounts.home)
        for column, what in _FILES:
            with self._database.read() as connection, contextlib.suppress(NotFound):
                file = files.get(connection, batch[column] or "", ANY)
                held_s = (now - file["created_at"]).total_seconds()
                mean = self._accounts.truth(home.zone, file["created_at"], now).mean_g_per_kwh
                stored = Stored(what, file["bytes"] / 1e9, held_s)
                kept = keeping(stored, mean, pue=home.pue, lifetime_years=self._carbon.lifetime_years)
                if kept:
                    how = f"{what} file, {format_bytes(file['bytes'])} since {file['created_at']:%d %b %H:%M}; {kept.source}"
                    yield Beside("storage", kept.energy_j, kept.operational_g, kept.embodied_g, how)


def _day(at: datetime) -> datetime:
    return at.replace(hour=0, minute=0, second=0, microsecond=0)
