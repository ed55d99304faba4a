"""Rows of the audit log: who did what. They are only ever added; triggers of the database refuse anything else."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, select

from batchsched.queue.hot import enter
from batchsched.queue.rows import Row, every
from batchsched.queue.tables import audit
from batchsched.queue.tenancy import Tenant, owned


def add(connection: Connection, **values: Any) -> None:
    """Note an act, in the transaction of the act: `at`, `actor`, `tenant`, `action`, `object_id`, `detail`."""
    enter(connection, audit, [values])


def page(connection: Connection, tenant: Tenant, *, limit: int, after: int = 0) -> list[Row]:
    """Up to `limit` entries of a tenant in the order in which they were made, from the one after the entry `after`."""
    query = select(audit).where(owned(audit, tenant), audit.c.id > after)
    return every(connection, query.order_by(audit.c.id).limit(limit))
