"""Split the energy and the busy time of one engine among the chunks that it works on.

What no chunk is charged for is kept apart and told as well, so that everything adds up to what the meter saw.

Where others use the engine too, only our share of it goes to our chunks: the tokens that came back to us over all that the engine
counted, both lately. Not of the moment, because the engine counts a token when it is made and we when its answer comes; and not
of all time, because a token takes more where few are made at once, and it is ours that are made at night.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable
from datetime import datetime
from typing import NamedTuple

from batchsched.executors.meters import EnergyMeter, Reading
from batchsched.wire import EnergySource, Meter, SpentKind, SpentPart

LATELY_S = 600.0
"""What was so long ago counts for 1/e in how a shared engine is split: longer than answers take, shorter than loads last."""


class _Amount(NamedTuple):
    """What was used: by the engine's GPUs, by the host beside them, and for how long; the drafts that were made meanwhile; and
    for how long a replica of another pool was there for the engine, which is used as joules are, whether it worked or waited."""

    energy_j: float = 0.0
    host_j: float = 0.0
    seconds: float = 0.0
    drafts: float = 0.0
    draft_tokens: float = 0.0
    accepted_tokens: float = 0.0
    beside_s: float = 0.0

    def plus(self, other: _Amount, part: float = 1.0) -> _Amount:
        """With that part of another, and never less than nothing."""
        return _Amount(*(max(0.0, mine + part * more) for mine, more in zip(self, other, strict=True)))


class _Account:
    __slots__ = ("batch_id", "started_at", "tokens", "used")

    def __init__(self, started_at: datetime, batch_id: str = "") -> None:
        self.started_at = started_at
        self.batch_id = batch_id
        self.used = _Amount()
        self.tokens = 0


class _Use:
    """What a shared engine used lately while we used it, and how much of that has been charged to us."""

    __slots__ = ("all_tokens", "charged", "our_tokens", "used")

    def __init__(self) -> None:
        self.used = self.charged = _Amount()
        self.all_tokens = self.our_tokens = 0.0

    def fade(self, seconds: float) -> _Amount:
        """So much time goes by: what is not counted any more and was not charged to us, which was others'.

        All fade alike, so as long as a token takes the same, we are charged for each of ours just as without it.
        """
        keep = math.exp(-seconds / LATELY_S)
        others = _Amount().plus(self.used.plus(self.charged, -1.0), 1.0 - keep)
        self.used, self.charged = _Amount().plus(self.used, keep), _Amount().plus(self.charged, keep)
        self.all_tokens, self.our_tokens = self.all_tokens * keep, self.our_tokens * keep
        return others

    def ours(self, spent: _Amount) -> _Amount:
        """Add what was used; what is to be charged now. The whole comes to our share of the tokens, late but never twice."""
        self.used = self.used.plus(spent)
        part = min(1.0, self.our_tokens / (self.all_tokens or 1.0))
        due = _Amount().plus(self.used, part).plus(self.charged, -1.0)
        self.charged = self.charged.plus(due)
        return due


class EnergyShare:
    """Accounts by lease. All goes out exactly once: to the chunks by tokens done, what is nobody's by `spent`.

    An interval in which no answer came back is split evenly among the open chunks.
    """

    def __init__(self, meter: EnergyMeter, now: Callable[[], datetime], monotonic: Callable[[], float] = time.monotonic) -> None:
        self._meter, self._now, self._monotonic = meter, now, monotonic
        self._accounts: dict[Hashable, _Account] = {}
        self.in_flight = False
        """Are requests in flight at the engine? The meter is read whenever this changes."""
        self._reading, self._read_at = Reading(0.0, "modelled"), monotonic()
        self._faded_at = self._read_at
        self._starting: _Account | None = None
        self._use = _Use()
        self._counter: float | None = None
        self._drafts: tuple[float, float, float] | None = None
        self._spent: dict[tuple[SpentKind, str, EnergySource, str], SpentPart] = {}

    def saw(self, tokens: float) -> None:
        """What a shared engine has counted for all its users since it started. Until this is said, all that it uses is ours."""
        self._fade()
        if self._counter is not None:  # one that falls is that of an engine that began anew
            self._use.all_tokens += tokens - self._counter if tokens >= self._counter else tokens
        self._settle()
        self._counter = tokens
        self._end_use()

    def drafted(self, counted: tuple[float, float, float]) -> None:
        """What the engine has counted of drafts since it started: how many, their tokens, and those that stayed."""
        before, self._drafts = self._drafts or counted, counted
        if counted[0] >= before[0]:  # one that falls is that of an engine that began anew
            counted = counted[0] - before[0], counted[1] - before[1], counted[2] - before[2]
        self._settle(counted)

    def starting(self) -> None:
        """An engine is being started: what is used from now, failed starts too, until the first chunk opens is that chunk's."""
        self._settle()
        self._drafts = (0.0, 0.0, 0.0)
        self._starting = self._starting or _Account(self._now())

    def stopped(self) -> None:
        """The engine was stopped; where no chunk had come, its start was in vain."""
        self._settle()
        if account := self._starting:
            self._spend("waste", account.used)
        self._starting = None

    def started(self, startup_s: float) -> Meter | None:
        """What the start, which took `startup_s`, and the wait for a chunk after it used; None if that was taken already."""
        self._settle()
        account, self._starting = self._starting, None
        if account is None:
            return None
        return self._metered(account, self._now(), startup_s)

    def open(self, key: Hashable, batch_id: str = "") -> None:
        """Begin an account."""
        self.close(key)
        self._accounts[key] = _Account(self._now(), batch_id)

    def close(self, key: Hashable) -> None:
        """End it; what was not taken was wasted."""
        self._settle()
        if account := self._accounts.pop(key, None):
            self._spend("waste", account.used, account.batch_id)

    def add(self, key: Hashable, tokens: int, counted: int | None = None) -> None:
        """A request came back with this many tokens computed, and `counted` by the engine (it counts cached ones too)."""
        if account := self._accounts.get(key):
            self._fade()
            account.tokens += tokens
            self._use.our_tokens += tokens if counted is None else counted

    def waste(self, batch_id: str, tokens: int) -> None:
        """A request was broken off: so many tokens that were computed for it will be computed again."""
        if tokens > 0:
            key = object()
            self._accounts[key] = _Account(self._now(), batch_id)
            self.add(key, tokens)
            self.close(key)

    def busy(self, busy: bool) -> None:
        """Requests are in flight at the engine, or no longer."""
        if busy != self.in_flight:
            self._settle()
            self.in_flight = busy

    def take(self, key: Hashable) -> Meter | None:
        """What the chunk took since the last time; None without an account."""
        self._settle()
        account = self._accounts.get(key)
        if account is None:
            return None
        ended_at = max(self._now(), account.started_at)
        self._accounts[key] = _Account(ended_at, account.batch_id)
        return self._metered(account, ended_at)

    def give_back(self, key: Hashable, taken: Meter | None) -> None:
        """What was taken did not reach the server, or was refused there."""
        account = self._accounts.get(key)
        if account and taken:
            account.started_at = min(account.started_at, taken.started_at)
            drafts = taken.drafts, taken.draft_tokens, taken.accepted_tokens
            account.used = account.used.plus(_Amount(taken.energy_j, taken.host_j, taken.busy_s, *drafts, taken.beside_s))

    def spent(self) -> list[SpentPart]:
        """All that was metered since the last time, and the part of it that is no chunk's."""
        self._settle()
        self._end_use()
        parts, self._spent = list(self._spent.values()), {}
        return parts

    def _fade(self) -> None:
        now = self._monotonic()
        self._spend("others", self._use.fade(now - self._faded_at))
        self._faded_at = now

    def _end_use(self) -> None:
        """Once we have nothing to do, what was not charged to us was others'."""
        if not self._accounts:
            self._spend("others", self._use.used.plus(self._use.charged, -1.0))
            self._use = _Use()

    def _metered(self, account: _Account, ended_at: datetime, startup_s: float = 0.0) -> Meter:
        used, said = account.used, self._reading
        return Meter(
            started_at=account.started_at,
            ended_at=ended_at,
            busy_s=used.seconds,
            energy_j=used.energy_j,
            energy_source=said.source,
            startup_s=startup_s,
            host_j=used.host_j,
            host_source=said.host_source,
            mark=said.mark,
            drafts=used.drafts,
            draft_tokens=used.draft_tokens,
            accepted_tokens=used.accepted_tokens,
            beside_s=used.beside_s,
            beside_pool=said.beside_pool,
        )

    def _spend(self, kind: SpentKind, used: _Amount, batch_id: str = "") -> None:
        """GPUs and host are told apart where their sources differ; the seconds go with the GPUs."""
        self._tell(kind, batch_id, self._reading.source, used)
        self._tell(kind, batch_id, self._reading.host_source, _Amount(used.host_j))

    def _tell(self, kind: SpentKind, batch_id: str, source: EnergySource, used: _Amount) -> None:
        if used.seconds <= 0 and used.energy_j <= 0 and used.beside_s <= 0:
            return
        beside = self._reading.beside_pool or ""
        first = SpentPart(kind, batch_id, self._now(), 0.0, 0.0, source, beside)
        part = self._spent.setdefault((kind, batch_id, source, beside), first)
        part.seconds += used.seconds
        part.energy_j += used.energy_j
        part.beside_s += used.beside_s

    def _settle(self, drafted: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> None:
        before, self._reading = self._reading, self._meter.read()
        self._fade()
        now = self._monotonic()
        elapsed_s, self._read_at = now - self._read_at, now
        used_j = max(0.0, self._reading.energy_j - before.energy_j), max(0.0, self._reading.host_j - before.host_j)
        spent = _Amount(*used_j, elapsed_s, *drafted, max(0.0, self._reading.beside_s - before.beside_s))
        self._spend("metered", spent)
        busy = spent._replace(seconds=elapsed_s * self.in_flight)
        if self._starting and not self._accounts:
            self._starting.used = self._starting.used.plus(spent)
        elif not self._accounts:
            self._spend("idle" if self._counter is None else "others", spent)
        elif self._counter is not None:
            busy = self._use.ours(busy)
        total = sum(account.tokens for account in self._accounts.values())
        for account in self._accounts.values():
            account.used = account.used.plus(busy, account.tokens / total if total else 1 / len(self._accounts))
        for account in self._accounts.values():
            account.tokens = 0
