"""Gathers what a batch caused beside its work, from rows: engine starts, waste, idle pools, transfers, what was kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from batchsched.carbon.beside import added, metered, network, scaled
from batchsched.carbon.hardware import Range
from batchsched.carbon.report import Beside
from batchsched.queue import chunks, ledger, spending
from batchsched.queue.database import Database
from batchsched.queue.rows import Row
from batchsched.server.accounts import Accounts
from batchsched.server.stored import DAY, Storage, by_day
from batchsched.settings import Carbon
from batchsched.units import format_bytes

Span = tuple[datetime, datetime]


class Besides:
    """Reads rows; changes nothing."""

    def __init__(self, database: Database, accounts: Accounts, storage: Storage, carbon: Carbon) -> None:
        self._database = database
        self._accounts = accounts
        self.storage = storage
        self._carbon = carbon

    def of(self, batch: Row, entries: Sequence[Row]) -> list[Beside]:
        """What is known of it by now, the largest kinds first."""
        with self._database.read() as connection:
            wasted = spending.of_batch(connection, batch["id"])
        parts = (self.loading(entries), self.waste(wasted), self._idle(entries))
        spans: dict[str, Span] = {}
        for row in entries:
            start, end = spans.get(row["pool"], (row["started_at"], row["ended_at"]))
            spans[row["pool"]] = min(start, row["started_at"]), max(end, row["ended_at"])
        moved = self.network(batch["id"], spans).values()
        return [*(part for part in parts if part), *moved, *self.storage.of(batch, entries)]

    def loading(self, entries: Sequence[Row]) -> Beside | None:
        """The engine starts among entries of the ledger, None where there are none."""
        starts = [row for row in entries if row["startup_s"] > 0]
        return metered("loading", self._accounts.alone(starts), f"{len(starts)} engine start(s); in the sums") if starts else None

    def waste(self, rows: Sequence[Row]) -> Beside | None:
        """What meters told of work whose results nobody took, None where they told of none."""
        return metered("waste", self._accounts.of_hours(rows), "work whose results nobody took") if rows else None

    def _idle(self, entries: Sequence[Row]) -> Beside | None:
        parts: list[Beside] = []
        for (pool, day), busy_s in by_day(entries).items():
            idle, all_s = self.idle_of_day(pool, day)
            if idle and idle.how and all_s > 0:
                parts.append(scaled(idle, min(1.0, busy_s / all_s)))
        how = "its part of what its pools took idle on the days that it ran, by busy time"
        return added(parts, how) if parts else None

    def idle_of_day(self, pool: str, day: datetime) -> tuple[Beside | None, float]:
        """A pool's idle energy of a day, None where its meters told nothing at all that day; and the seconds of all its work,
        among which it is shared."""
        with self._database.read() as connection:
            told = spending.of_pool(connection, pool, day, day + DAY)
            all_s = ledger.busy_s(connection, day, day + DAY, pool=pool)
        idle = [row for row in told if row["kind"] == "idle"]
        if not idle:
            return Beside("idle", 0.0, 0.0, Range(0, 0, 0), "") if told else None, all_s
        return metered("idle", self._accounts.of_hours(idle), pool), all_s

    def network(self, batch_id: str, spans: Mapping[str, Span]) -> dict[str, Beside]:
        """A batch's transfers, by pools away from home that it worked on; `spans`: from when to when."""
        home = self._accounts.home
        away = {pool: there for pool in sorted(spans) if (there := self._accounts.place(pool)) not in (None, home)}
        if not away:
            return {}
        with self._database.read() as connection:
            bytes_of = chunks.bytes_of_pools(connection, batch_id)
        return {
            pool: self._sent(bytes_of[pool], there, spans[pool]) for pool, there in away.items() if there and pool in bytes_of
        }

    def _sent(self, size: int, there: str, span: Span) -> Beside:
        home = self._accounts.home
        here, away = (self._accounts.truth(self._accounts.site(name).zone, *span) for name in (home, there))
        how = f"{format_bytes(size)} between {home} and {there}, {self._carbon.network_kwh_per_gb:g} kWh a GB"
        return network(size, self._carbon.network_kwh_per_gb, (here, away), how)
