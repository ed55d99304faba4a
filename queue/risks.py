"""Batches whose promised deadlines have come into doubt: said once when that begins, and once when it is over.

The row's `risk` is what is known of it, NULL for a batch that is not at risk. Each change is a compare-and-set update in one
transaction with its event, so that several servers, or one that was started again, say nothing twice.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, select, update

from batchsched import exposed
from batchsched.queue import audit, deliveries, ledger
from batchsched.queue.rows import Row, every
from batchsched.queue.tables import batches
from batchsched.units import iso

ACTOR = "scheduler"
_RUNNING = batches.c.state == "in_progress"


def promises(connection: Connection) -> dict[str, Row]:
    """Batches in progress, by id: whether they were judged `feasible`, their `risk`, and what they were judged for."""
    columns = (batches.c.id, batches.c.tenant, batches.c.deadline_at, batches.c.risk)
    query = select(*columns, batches.c.verdict["feasible"].as_boolean().label("feasible")).where(_RUNNING)
    return {row["id"]: row for row in every(connection, query)}


def raise_one(connection: Connection, promise: Row, risk: dict[str, Any], now: datetime) -> bool:
    """The promise has come into doubt. False, and nothing is said, where that was said or its deadline was changed meanwhile."""
    since = {**risk, "since": iso(now)}
    if not _changed(connection, promise, batches.c.risk.is_(None), since):
        return False
    _say(connection, promise, "at_risk", since, now)
    ledger.bump(connection, exposed.BATCHES_WORSENED)
    return True


def clear(connection: Connection, promise: Row, found: dict[str, Any], now: datetime) -> bool:
    """It holds again, as far as it was a promise. False where that was said already."""
    if not _changed(connection, promise, batches.c.risk.is_not(None), None):
        return False
    if promise["feasible"]:
        _say(connection, promise, "recovered", found, now)
    return True


def counted(connection: Connection) -> int:
    """Batches at risk now."""
    return int(connection.scalar(select(func.count()).where(_RUNNING, batches.c.risk.is_not(None))) or 0)


def _changed(connection: Connection, promise: Row, before: Any, risk: dict[str, Any] | None) -> bool:
    same = (batches.c.id == promise["id"], _RUNNING, batches.c.deadline_at == promise["deadline_at"], before)
    return connection.execute(update(batches).where(*same).values(risk=risk)).rowcount == 1


def _say(connection: Connection, promise: Row, what: str, detail: dict[str, Any], now: datetime) -> None:
    deliveries.announce(connection, promise["id"], what, now, again=True, data={"batchsched": detail})
    known = {"actor": ACTOR, "tenant": promise["tenant"], "object_id": promise["id"]}
    audit.add(connection, at=now, action=f"batch.{what}", detail=detail, **known)
