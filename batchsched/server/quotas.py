"""What a tenant may still take: limits on what it holds now, and budgets for a UTC month.

A request that would pass a limit is refused with QuotaExceeded. How large a batch is shows only at its validation: then the batch
fails with the same code, as OpenAI's does. What was accepted is finished, also where it takes more than was expected of it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import Connection

from batchsched.clock import Clock
from batchsched.errors import QuotaExceeded
from batchsched.profiles.answers import Answers
from batchsched.profiles.lengths import estimate, refine
from batchsched.queue import ledger, usage
from batchsched.queue.rows import Row
from batchsched.settings import Settings, Tenant
from batchsched.units import format_duration

GRAMS_KEPT_S = 60.0
WAIT_S = (10, 3600)
"""Shortest and longest answer to when there may be room again, where no month has to end first."""
GramsSince = Callable[[str, datetime], float]
AnswersNow = Callable[[Connection, Sequence[Mapping[str, Any]], datetime], Answers]


class Size(msgspec.Struct, frozen=True):
    """What a batch will take, as far as it is known."""

    requests: int = 0
    tokens: float = 0.0
    grams: float = 0.0


class Quotas:
    """Checks, each in the write transaction of what it lets through."""

    def __init__(self, settings: Settings, grams_since: GramsSince, answers: AnswersNow, clock: Clock) -> None:
        """`grams_since(tenant, at)`: what a tenant's work cost since then; `answers(connection, batches, now)`: how long
        answers were, as far as these batches need it."""
        self._settings = settings
        self._grams_since = grams_since
        self._answers = answers
        self._clock = clock
        self._grams: dict[str, tuple[float, datetime, float]] = {}
        self._lock = threading.Lock()

    def grams(self, tenant: str) -> float:
        """What a tenant used of its month's grams, to the minute; to be asked before the transaction, for it may take a while."""
        if self._settings.tenant(tenant).grams_per_month is None:
            return 0.0
        with self._lock:
            now, month = self._clock.monotonic(), month_of(self._clock.now())
            until, of_month, grams = self._grams.get(tenant, (-math.inf, month, 0.0))
            if now >= until or of_month != month:
                grams = self._grams_since(tenant, month)
                self._grams[tenant] = (now + GRAMS_KEPT_S, month, grams)
            return grams

    def upload(self, connection: Connection, tenant: str, size: int = 1) -> None:
        """May a file of `size` bytes be kept? Raises QuotaExceeded."""
        limit = self._settings.tenant(tenant).max_bytes
        if limit is None:
            return
        usage.lock(connection, tenant)
        first = usage.first_expiry(connection, tenant)
        _hold("max_bytes", tenant, limit, usage.stored_bytes(connection, tenant), size, self._soon([first] if first else []))

    def create(self, connection: Connection, tenant: str, grams: float) -> None:
        """May one more batch be accepted, whatever its size? Raises QuotaExceeded."""
        limits = self._settings.tenant(tenant)
        if limits == Tenant(weight=limits.weight):
            return
        usage.lock(connection, tenant)
        held = usage.open_batches(connection, tenant)
        if limits.max_open_batches is not None:
            _hold("max_open_batches", tenant, limits.max_open_batches, len(held), 1, self._soon(_finishes(held)))
        self._hold_sizes(connection, tenant, limits, held, Size(), grams)

    def start(
        self, connection: Connection, batch: Mapping[str, Any], facts: Mapping[str, Any], verdict: Mapping[str, Any], grams: float
    ) -> None:
        """May this batch go on, now that its size is known? Raises QuotaExceeded."""
        tenant = batch["tenant"]
        limits = self._settings.tenant(tenant)
        if limits == Tenant(weight=limits.weight):
            return
        usage.lock(connection, tenant)
        held = [row for row in usage.open_batches(connection, tenant) if row["id"] != batch["id"]]
        more = self._left(connection, {**batch, **facts, "verdict": verdict})
        self._hold_sizes(connection, tenant, limits, held, more, grams)

    def _hold_sizes(
        self, connection: Connection, tenant: str, limits: Tenant, held: Sequence[Row], more: Size, grams: float
    ) -> None:
        sizes = [self._left(connection, row) for row in held]
        tokens, now = sum(size.tokens for size in sizes), self._clock.now()
        soon = self._soon(_finishes(held))
        month_s = math.ceil((month_after(now) - now).total_seconds())
        if limits.max_enqueued_requests is not None:
            present = sum(size.requests for size in sizes)
            _hold("max_enqueued_requests", tenant, limits.max_enqueued_requests, present, more.requests, soon)
        if limits.max_enqueued_tokens is not None:
            _hold("max_enqueued_tokens", tenant, limits.max_enqueued_tokens, tokens, more.tokens, soon)
        if limits.tokens_per_month is not None:
            used = ledger.tokens_since(connection, tenant, month_of(now))
            _hold("tokens_per_month", tenant, limits.tokens_per_month, used + tokens, more.tokens, month_s)
        if limits.grams_per_month is not None:
            expected = sum(size.grams for size in sizes)
            _hold("grams_per_month", tenant, limits.grams_per_month, grams + expected, more.grams, month_s)

    def _left(self, connection: Connection, row: Mapping[str, Any]) -> Size:
        """What an open batch is still expected to take."""
        total, done = row["total"], row["completed"] + row["failed"]
        left = total - done
        if not left:
            return Size()
        answers = self._answers(connection, [row], self._clock.now()).expected(row["tenant"], row["model"], row["endpoint"])
        blind = estimate(row["input_bytes"], total, row["max_tokens_total"], answers)
        lengths = refine(blind, total, done, row["input_tokens"], row["output_tokens"])
        grams = (row["verdict"] or {}).get("expected_grams") or 0.0
        return Size(left, lengths.input_tokens + lengths.output_tokens, grams * left / total)

    def _soon(self, instants: Sequence[datetime]) -> int:
        """Seconds until the first of these, within reason; a minute where there is none."""
        if not instants:
            return 60
        shortest, longest = WAIT_S
        return round(min(longest, max(shortest, (min(instants) - self._clock.now()).total_seconds())))


def _hold(quota: str, tenant: str, limit: float, present: float, more: float, retry_after_s: int) -> None:
    """Refuse what would pass the limit; at the limit, everything."""
    if present < limit and present + more <= limit:
        return
    asked = f", and this would add {_figure(more)}" if more > 0 else ""
    raise QuotaExceeded(
        f"The quota {quota} of tenant '{tenant}' is {_figure(limit)}; {_figure(present)} are taken{asked}.",
        hint=f"Try again in {format_duration(retry_after_s)}, or ask the operator of the server for more.",
        retry_after_s=retry_after_s,
    )


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == round(value) else f"{value:.3g}"


def _finishes(rows: Sequence[Row]) -> list[datetime]:
    expected = ((row["verdict"] or {}).get("expected_finish_at") for row in rows)
    return [datetime.fromisoformat(at) for at in expected if at]


def month_of(now: datetime) -> datetime:
    """When the UTC month of an instant began."""
    return now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def month_after(now: datetime) -> datetime:
    """When the next UTC month begins."""
    return month_of(month_of(now) + timedelta(days=32))
