"""Rows of API keys. A key is looked up by its id; the rest of it is compared outside, digest with digest."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import Connection, and_, insert, or_, select, update

from batchsched.errors import NotFound
from batchsched.queue.rows import Row, every, first
from batchsched.queue.tables import keys

USE_NOTED_EVERY = timedelta(minutes=1)


def add(
    connection: Connection,
    *,
    id: str,  # noqa: A002 - the column's name
    tenant: str,
    name: str,
    digest: str,
    scopes: Sequence[str],
    created_at: datetime,
    expires_at: datetime | None,
) -> None:
    """Remember a new key by its digest (SHA-256 of the whole key, hexadecimal)."""
    row = {"id": id, "tenant": tenant, "name": name, "digest": digest, "scopes": list(scopes)}
    connection.execute(insert(keys).values(**row, created_at=created_at, expires_at=expires_at))


def find(connection: Connection, key_id: str) -> Row | None:
    """One key, also one that is over."""
    return first(connection, select(keys).where(keys.c.id == key_id))


def get(connection: Connection, key_id: str) -> Row:
    """One key. Raises NotFound."""
    row = find(connection, key_id)
    if row is None:
        raise NotFound(f"There is no key '{key_id}'.", param="key_id")
    return row


def exist(connection: Connection) -> bool:
    """Was there ever a key? From then on everybody needs one."""
    return connection.scalar(select(keys.c.id).limit(1)) is not None


def page(connection: Connection, *, limit: int, after: str | None = None) -> list[Row]:
    """Up to `limit` keys, oldest first, from the one after `after`. Raises NotFound for an unknown `after`."""
    query = select(keys)
    if after:
        mark = get(connection, after)
        same = keys.c.created_at == mark["created_at"]
        query = query.where(or_(keys.c.created_at > mark["created_at"], and_(same, keys.c.id > mark["id"])))
    return every(connection, query.order_by(keys.c.created_at, keys.c.id).limit(limit))


def usable(connection: Connection, now: datetime) -> list[Row]:
    """Keys that are neither revoked nor over. In a write block they stay so until its end."""
    alive = (keys.c.revoked_at.is_(None), or_(keys.c.expires_at.is_(None), keys.c.expires_at > now))
    return every(connection, select(keys).where(*alive).order_by(keys.c.id).with_for_update())


def over(key: Row, now: datetime) -> bool:
    """Was it revoked, or is its time over?"""
    return bool(key["revoked_at"] or (key["expires_at"] and key["expires_at"] <= now))


def used(connection: Connection, key_id: str, now: datetime) -> None:
    """Note that a key is in use, at most once a minute."""
    stale = or_(keys.c.last_used_at.is_(None), keys.c.last_used_at <= now - USE_NOTED_EVERY)
    connection.execute(update(keys).where(keys.c.id == key_id, stale).values(last_used_at=now))


def revoke(connection: Connection, key_id: str, now: datetime) -> None:
    """End a key; one that was revoked before keeps its instant."""
    connection.execute(update(keys).where(keys.c.id == key_id, keys.c.revoked_at.is_(None)).values(revoked_at=now))
