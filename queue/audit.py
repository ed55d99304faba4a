"""Rows of the audit log: who did what. They are only ever added; triggers of the database refuse anything else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, or_, select

from batchsched.queue.hot import enter
from batchsched.queue.rows import Row, every
from batchsched.queue.tables import audit
from batchsched.queue.tenancy import Tenant, owned


@dataclass(frozen=True, slots=True)
class Which:
    """Which entries are asked for; what is left out says nothing. `actions`: acts such as `pool.drain`, or all of a noun, `pool`.
    `since`, `until`: of entries in [since, until)."""

    actions: Sequence[str] = ()
    actor: str | None = None
    object_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None


def add(connection: Connection, **values: Any) -> None:
    """Note an act, in the transaction of the act: `at`, `actor`, `tenant`, `action`, `object_id`, `detail`."""
    enter(connection, audit, [values])


def page(
    connection: Connection, tenant: Tenant, *, limit: int, after: int = 0, which: Which | None = None, newest: bool = False
) -> list[Row]:
    """Up to `limit` entries of a tenant in the order in which they were made, from the one after the entry `after`.

    With `newest` in the other order, from the one before the entry `after`, or from the last one where that is 0.
    """
    query = select(audit).where(owned(audit, tenant))
    if newest:
        query = query.where(audit.c.id < after) if after else query
        query = query.order_by(audit.c.id.desc())
    else:
        query = query.where(audit.c.id > after).order_by(audit.c.id)
    known = which or Which()
    if known.actions:
        nouns = [audit.c.action.startswith(f"{one}.", autoescape=True) for one in known.actions]
        query = query.where(or_(audit.c.action.in_(known.actions), *nouns))
    if known.actor is not None:
        query = query.where(audit.c.actor == known.actor)
    if known.object_id is not None:
        query = query.where(audit.c.object_id == known.object_id)
    if known.since is not None:
        query = query.where(audit.c.at >= known.since)
    if known.until is not None:
        query = query.where(audit.c.at < known.until)
    return every(connection, query.limit(limit))
