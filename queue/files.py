"""Rows of files. Their bytes are the store's business."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, delete, insert, select

from batchsched.errors import NotFound
from batchsched.queue.rows import Row, beyond, every, first
from batchsched.queue.tables import files
from batchsched.queue.tenancy import Tenant, owned

_shown = [column for column in files.c if column.name != "facts"]  # facts may be long, and lists are


def add(connection: Connection, *, tenant: str, **values: Any) -> None:
    """Record a file whose bytes are safely stored."""
    connection.execute(insert(files).values(tenant=tenant, **values))


def get(connection: Connection, file_id: str, tenant: Tenant, *, lock: bool = False) -> Row:
    """One file of a tenant, without its facts; with `lock`, nobody removes it until this transaction ends.

    Who is about to need it and who is about to remove it lock it, so that one of them sees what the other did. Raises NotFound,
    also for a file of another tenant.
    """
    query = select(*_shown).where(files.c.id == file_id, owned(files, tenant))
    row = first(connection, query.with_for_update() if lock else query)
    if row is None:
        raise NotFound(f"No such File object: {file_id}", param="file_id")
    return row


def facts(connection: Connection, file_id: str, tenant: Tenant) -> Any:
    """What the check of a file's lines found out, as it was added; None where there is nothing."""
    return connection.scalar(select(files.c.facts).where(files.c.id == file_id, owned(files, tenant)))


def page(
    connection: Connection,
    tenant: Tenant,
    *,
    limit: int,
    newest_first: bool = True,
    after: str | None = None,
    purpose: str | None = None,
) -> list[Row]:
    """Up to `limit` files of a tenant by age, from the one after the file `after`. Raises NotFound for an unknown `after`."""
    query = select(*_shown).where(owned(files, tenant))
    if purpose:
        query = query.where(files.c.purpose == purpose)
    if after:
        query = query.where(beyond(files, get(connection, after, tenant), newest_first=newest_first))
    order = (files.c.created_at.desc(), files.c.id.desc()) if newest_first else (files.c.created_at, files.c.id)
    return every(connection, query.order_by(*order).limit(limit))


def remove(connection: Connection, file_id: str) -> None:
    """Forget a file."""
    connection.execute(delete(files).where(files.c.id == file_id))


def ids(connection: Connection) -> set[str]:
    """Every file's id."""
    return set(connection.scalars(select(files.c.id)))
