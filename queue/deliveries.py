"""Rows of deliveries: what webhooks are to be told of batches that ended, or whose promises changed.

The transaction that ends a batch writes one row without a receiver; `address` makes of it a row for each webhook that wants to
hear. So no end is lost, whatever crashes, and what the configuration says about webhooks is asked in one place.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, String, bindparam, cast, delete, func, insert, literal, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from batchsched.clock import IdSource
from batchsched.queue.hot import Hot
from batchsched.queue.rows import Row, every
from batchsched.queue.tables import batches, deliveries
from batchsched.settings import Webhook

NOBODY = ""
_PENDING = deliveries.c.state == "pending"


def announce(
    connection: Connection, batch_id: str, what: str, now: datetime, *, again: bool = False, data: dict[str, Any] | None = None
) -> None:
    """A batch entered its last state, or what else is to be told of it, in the same transaction. `again`: more often than once in
    a round; `data`: told beside its id."""
    name = f"{batch_id}_{what}_{now.isoformat() if again else ''}_"
    _ANNOUNCE.changed(connection, [{"batch": batch_id, "named": name, "kind": f"batch.{what}", "now": now, "told": data}])


def _announcing() -> Hot:
    now = bindparam("now", type_=deliveries.c.created_at.type)
    values: dict[str, Any] = {
        "id": bindparam("named", type_=String()) + cast(batches.c.round, String),
        "tenant": batches.c.tenant,
        "hook": literal(NOBODY),
        "batch_id": batches.c.id,
        "type": bindparam("kind", type_=String()),
        "state": literal("pending"),
        "attempts": literal(0),
        "created_at": now,
        "due_at": now,
        "data": bindparam("told", type_=deliveries.c.data.type),
    }
    source = select(*(value.label(name) for name, value in values.items())).where(batches.c.id == bindparam("batch"))
    return Hot(upsert(deliveries).from_select(list(values), source).on_conflict_do_nothing())


_ANNOUNCE = _announcing()


def unaddressed(connection: Connection, limit: int = 100) -> list[Row]:
    """Ends of batches that nobody was told yet."""
    query = select(deliveries).where(_PENDING, deliveries.c.hook == NOBODY).order_by(deliveries.c.due_at).limit(limit)
    return every(connection, query.with_for_update(skip_locked=True))


def address(connection: Connection, hooks: Mapping[str, Webhook], ids: IdSource) -> None:
    """Make a delivery for each webhook that wants to hear of an end."""
    for row in unaddressed(connection):
        for name, hook in hooks.items():
            if hook.tenant == row["tenant"] and row["type"] in hook.events:
                connection.execute(insert(deliveries).values(**{**row, "id": ids.new("evt"), "hook": name}))
        connection.execute(delete(deliveries).where(deliveries.c.id == row["id"]))


def due(connection: Connection, hook: str, now: datetime, limit: int) -> list[Row]:
    """What a webhook should be told now, the longest due first."""
    query = select(deliveries).where(_PENDING, deliveries.c.hook == hook, deliveries.c.due_at <= now)
    return every(connection, query.order_by(deliveries.c.due_at).limit(limit))


def hurry(connection: Connection, now: datetime) -> None:
    """Everything is due now: where the clock jumped back, what was due would wait for as long as it jumped."""
    connection.execute(update(deliveries).where(_PENDING, deliveries.c.due_at > now).values(due_at=now))


def attempted(connection: Connection, row: Row, **values: Any) -> None:
    """Note what came of a try; nothing where another server noted one meanwhile."""
    same = (deliveries.c.id == row["id"], _PENDING, deliveries.c.attempts == row["attempts"])
    connection.execute(update(deliveries).where(*same).values(attempts=row["attempts"] + 1, **values))


def waiting(connection: Connection) -> dict[str, int]:
    """How many deliveries each webhook still has to come; what is not addressed yet stands under NOBODY."""
    query = select(deliveries.c.hook, func.count().label("n")).where(_PENDING).group_by(deliveries.c.hook)
    return {row["hook"]: row["n"] for row in every(connection, query)}


def of_batch(connection: Connection, batch_id: str) -> list[Row]:
    """What became of a batch's events."""
    return every(connection, select(deliveries).where(deliveries.c.batch_id == batch_id).order_by(deliveries.c.created_at))


def forget(connection: Connection, before: datetime) -> None:
    """Remove what was settled, and due for the last time before an instant."""
    settled = deliveries.c.state.in_(["delivered", "given_up"])
    connection.execute(delete(deliveries).where(settled, deliveries.c.due_at < before))
