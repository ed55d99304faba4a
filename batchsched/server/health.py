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
    passed, reset = _let_pass(connection, worker, cards)
    if not ills:
        lately = worker["ill_at"] is not None and now - worker["ill_at"] < STEADY
        before = worker["broken"] or {}
        broken = {uuid: errors for uuid, errors in before.items() if uuid not in reset} or None if lately else None
        return {"pardoned": passed, "broken": broken} | ({} if lately else {"ills": []})
    broken = {card.uuid: LOST if card.lost else card.uncorrected_errors or 0 for card in cards if card.broken} or None
    return {"ills": ills, "ill_at": now, "broken": broken, "pardoned": passed}


def _let_pass(connection: Connection, worker: Row, cards: Sequence[Card]) -> tuple[dict[str, int], set[str]]:
    """With how many errors each card was let pass; and those that were reset since, which are let pass no more: a card that has
    fewer errors than it had. A worker that is new has what others of its pool were told of the same cards."""
    known: dict[str, int] | None = worker["pardoned"]
    told = workers.pardoned(connection, worker["pool"]) if known is None else known
    counts = {card.uuid: card.uncorrected_errors for card in cards}
    reset = {uuid for uuid, errors in told.items() if (count := counts.get(uuid)) is not None and count < errors}
    if reset:
        workers.unpardon(connection, worker["pool"], reset)
    return {uuid: errors for uuid, errors in told.items() if uuid in counts and uuid not in reset}, reset


def is_news(before: Row, after: Row) -> bool:
    """Did it fall ill, or get well, or come to rest?"""
    return bool(before["ills"]) != bool(after["ills"]) or workers.rests(before) != workers.rests(after)
