"""Workers whose engines do not start, by what they say with each heartbeat: what is noted of it, and whether that is news."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from batchsched.queue.rows import Row
from batchsched.queue.workers import ENGINE_WELL
from batchsched.wire import Failing

LONGEST = 1000
"""Letters of a reason that are kept."""
_MOST = 1_000_000


def noted(worker: Row, said: Failing | None, now: datetime) -> dict[str, Any]:
    """The columns of a worker's row. Nothing that it says is refused: a heartbeat is worth more."""
    if said is None:
        return ENGINE_WELL
    why = " ".join(said.reason.replace("\0", " ").split())[:LONGEST]
    return {
        "failing_since": worker["failing_since"] or now,
        "failing_times": min(_MOST, max(1, said.times)),
        "failing_why": why,
    }


def is_news(before: Row, after: Row) -> bool:
    """Did it begin to fail, or get ready?"""
    return (before["failing_since"] is None) != (after["failing_since"] is None)
