"""How the GPUs of a worker are, by what it says of them: what is noted of it, and whether that is news for the plan.

What is ill is ill at once. It counts as well only once it was for a while: a card that heat slows again and again would
otherwise have everything planned anew each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from batchsched.queue import workers
from batchsched.queue.rows import Row
from batchsched.wire import Card

STEADY = timedelta(minutes=5)
LOST = -1
"""Errors of a card that answers no more: worse than any number of them, and nobody can let it pass."""


def noted(connection: Connection, worker: Row, cards: Sequence[Card] | None, now: datetime) -> dict[str, Any]:
    """The columns of a worker's row that change with what it says now; `cards` None: it sees none."""
    if cards is None:
        return {}
    ills = [f"{card.title}: {ill}" for card in cards if (ill := card.trouble())]
    if not ills:
        lately = worker["ill_at"] is not None and now - worker["ill_at"] < STEADY
        return {} if lately else {"ills": [], "broken": None}
    broken = {card.uuid: LOST if card.lost else card.uncorrected_errors or 0 for card in cards if card.broken} or None
    known = {"ills": ills, "ill_at": now, "broken": broken}
    if broken and worker["pardoned"] is None:
        known["pardoned"] = workers.pardoned(connection, worker["pool"])
    return known


def is_news(before: Row, after: Row) -> bool:
    """Did it fall ill, or get well, or come to rest?"""
    return bool(before["ills"]) != bool(after["ills"]) or workers.rests(before) != workers.rests(after)
