"""Gathers what a batch caused beside its work, from rows: engine starts, waste, idle pools, transfers, what was kept."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from batchsched.carbon.beside import added, metered, network, scaled
from batchsched.carbon.hardware import Range
from batchsched.carbon.report import Beside, Truth
from batchsched.queue import spending
from batchsched.queue.database import Database
from batchsched.queue.rows import Row
from batchsched.server.accounts import Accounts
from batchsched.server.lookup import Lookup, by_day
from batchsched.server.stored import Storage
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
            look = Lookup(connection, [batch["id"]], self._accounts)
        parts = (self.loading(entries, look.truth), self.waste(wasted, look.truth), self._idle(entries, look))
        moved = self.network(batch["id"], look).values()
        return [*(part for part in parts if part), *moved, *self.storage.of(batch["id"], look)]

    def loading(self, entries: Sequence[Row], truth: Truth) -> Beside | None:
        """The engine starts among entries of the ledger, None where there are none."""
        starts = [row for row in entries if row["startup_s"] > 0]
        how = f"{len(starts)} engine start(s); in the sums"
        return metered("loading", self._accounts.alone(starts, truth), how) if starts else None

    def waste(self, rows: Sequence[Row], truth: Truth) -> Beside | None:
        """What meters told of work whose results nobody took, None where they told of none."""
        return metered("waste", self._accounts.of_hours(rows, truth), "work whose results nobody took") if rows else None

    def _idle(self, entries: Sequence[Row], look: Lookup) -> Beside | None:
        parts: list[Beside] = []
        for (pool, day), busy_s in (+by_day(entries)).items():
            idle, all_s = self.idle_of_day(pool, day, look)
            if idle and idle.how and all_s > 0:
                parts.append(scaled(idle, min(1.0, busy_s / all_s)))
        how = "its part of what its pools took idle on the days that it ran, by busy time"
        return added(parts, how) if parts else None

    def idle_of_day(self, pool: str, day: datetime, look: Lookup) -> tuple[Beside | None, float]:
        """A pool's idle energy of a day, None where its meters told nothing at all that day; and the seconds of all its work,
        among which it is shared."""
        told, all_s = look.days.told(pool, day), look.days.busy_s(day, pool)
        idle = [row for row in told if row["kind"] == "idle"]
        if not idle:
            return Beside("idle", 0.0, 0.0, Range(0, 0, 0), "") if told else None, all_s
        return metered("idle", self._accounts.of_hours(idle, look.truth), pool), all_s

    def network(self, batch_id: str, look: Lookup) -> dict[str, Beside]:
        """A batch's transfers, by pools away from home that it worked on, at the grids of the time that it worked there."""
        home, spans = self._accounts.home, dict[str, Span]()
        for row in look.spans.get(batch_id, ()):
            start, end = spans.get(row["pool"], (row["started_at"], row["ended_at"]))
            spans[row["pool"]] = min(start, row["started_at"]), max(end, row["ended_at"])
        away = {pool: there for pool in sorted(spans) if (there := self._accounts.place(pool)) not in (None, home)}
        bytes_of = look.bytes_of(batch_id) if away else {}
        return {
            pool: self._sent(bytes_of[pool], there, spans[pool], look.truth)
            for pool, there in away.items()
            if there and pool in bytes_of
        }

    def _sent(self, size: int, there: str, span: Span, truth: Truth) -> Beside:
        home = self._accounts.home
        here, away = (truth(self._accounts.site(name).zone, *span) for name in (home, there))
        how = f"{format_bytes(size)} between {home} and {there}, {self._carbon.network_kwh_per_gb:g} kWh a GB"
        return network(size, self._carbon.network_kwh_per_gb, (here, away), how)
