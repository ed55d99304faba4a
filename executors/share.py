"""Split the energy and the busy time of one engine among the chunks that it works on."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

from batchsched.executors.meter import EnergyMeter
from batchsched.wire import EnergySource, Meter


class _Account:
    __slots__ = ("busy_s", "energy_j", "started_at", "tokens")

    def __init__(self, started_at: datetime) -> None:
        self.started_at = started_at
        self.busy_s = 0.0
        self.energy_j = 0.0
        self.tokens = 0


class EnergyShare:
    """Accounts by chunk. All goes out exactly once, by tokens done; only what an idle engine uses is nobody's.

    An interval in which no answer came back is split evenly among the open chunks.
    """

    def __init__(self, meter: EnergyMeter, now: Callable[[], datetime]) -> None:
        self._meter, self._now = meter, now
        self._accounts: dict[str, _Account] = {}
        self._busy = False
        self._source: EnergySource = "modelled"
        self._read_j, self._read_at = 0.0, time.monotonic()
        self._starting: _Account | None = None

    def starting(self) -> None:
        """An engine is being started: what is used from now until the first chunk opens is that chunk's."""
        self._settle()
        self._starting = _Account(self._now())

    def started(self, startup_s: float) -> Meter | None:
        """What the start, which took `startup_s`, and the wait for a chunk after it used; None if that was taken already."""
        self._settle()
        account, self._starting = self._starting, None
        if account is None:
            return None
        return Meter(account.started_at, self._now(), account.busy_s, account.energy_j, self._source, startup_s)

    def open(self, chunk_id: str) -> None:
        """Begin an account."""
        self._settle()
        self._accounts[chunk_id] = _Account(self._now())

    def close(self, chunk_id: str) -> None:
        """End it; what was not taken is dropped."""
        self._settle()
        self._accounts.pop(chunk_id, None)

    def add(self, chunk_id: str, tokens: int) -> None:
        """A request of the chunk came back with this many tokens, read and written."""
        if account := self._accounts.get(chunk_id):
            account.tokens += tokens

    def busy(self, busy: bool) -> None:
        """Requests are in flight at the engine, or no longer."""
        if busy != self._busy:
            self._settle()
            self._busy = busy

    def take(self, chunk_id: str) -> Meter | None:
        """What the chunk took since the last time; None without an account."""
        self._settle()
        account = self._accounts.get(chunk_id)
        if account is None:
            return None
        ended_at = max(self._now(), account.started_at)
        self._accounts[chunk_id] = _Account(ended_at)
        return Meter(account.started_at, ended_at, account.busy_s, account.energy_j, self._source)

    def _settle(self) -> None:
        joules, self._source = self._meter.read()
        now = time.monotonic()
        spent_j, elapsed_s = max(0.0, joules - self._read_j), now - self._read_at
        busy_s = elapsed_s * self._busy
        self._read_j, self._read_at = joules, now
        if self._starting and not self._accounts:
            self._starting.energy_j += spent_j
            self._starting.busy_s += elapsed_s
        total = sum(account.tokens for account in self._accounts.values())
        for account in self._accounts.values():
            part = account.tokens / total if total else 1 / len(self._accounts)
            account.energy_j += spent_j * part
            account.busy_s += busy_s * part
        for account in self._accounts.values():
            account.tokens = 0
