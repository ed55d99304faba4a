"""Rows of published plans: kept, so that every decision can be looked at again."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, select

from batchsched.queue.rows import Row, first
from batchsched.queue.tables import plans


def add(connection: Connection, made_at: datetime, body: dict[str, Any]) -> None:
    """Keep a plan with the forecasts that it was made from."""
    connection.execute(insert(plans).values(made_at=made_at, body=body))


def latest(connection: Connection, by: datetime | None = None) -> Row | None:
    """The newest plan, or the one that held at `by`."""
    query = select(plans).order_by(plans.c.id.desc()).limit(1)
    if by is not None:
        query = query.where(plans.c.made_at <= by)
    return first(connection, query)
