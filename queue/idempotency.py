"""Rows of idempotency keys: which batch a sender's key stands for. The primary key decides between two who come at once."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, delete, select
from sqlalchemy.dialects.postgresql import insert

from batchsched.errors import IdempotencyMismatch, NotFound
from batchsched.queue import files
from batchsched.queue.rows import first
from batchsched.queue.tables import idempotency


def digest(connection: Connection, tenant: str, body: Any) -> str:
    """What a create request asks for: its fields, and its file by id and by content, so a second upload of it is no other."""
    fields = {key: value for key, value in body.items() if key != "input_file_id"} if isinstance(body, dict) else body
    file_id = str(body.get("input_file_id")) if isinstance(body, dict) else ""
    try:
        content = files.get(connection, file_id, tenant)["sha256"]
    except NotFound:
        content = ""
    asked = hashlib.sha256(msgspec.json.encode(fields, order="deterministic")).hexdigest()
    return f"{asked} {hashlib.sha256(file_id.encode()).hexdigest()} {content}"


def recall(connection: Connection, tenant: str, key: str, asked: str) -> str | None:
    """The batch that a key stands for, if it was used before. Raises IdempotencyMismatch where it was for something else."""
    mine = (idempotency.c.tenant == tenant, idempotency.c.key == key)
    row = first(connection, select(idempotency).where(*mine))
    if row is None:
        return None
    if not _same(row["digest"], asked):
        raise IdempotencyMismatch
    return str(row["batch_id"])


def keep(connection: Connection, tenant: str, key: str, asked: str, batch_id: str, now: datetime) -> str:
    """Let a key stand for a batch; the id that it stands for, another's where that was first. Raises IdempotencyMismatch."""
    row = {"tenant": tenant, "key": key, "digest": asked, "batch_id": batch_id, "created_at": now}
    connection.execute(insert(idempotency).values(**row).on_conflict_do_nothing())
    return recall(connection, tenant, key, asked) or batch_id


def forget(connection: Connection, before: datetime) -> None:
    """Remove keys that were first used before an instant."""
    connection.execute(delete(idempotency).where(idempotency.c.created_at < before))


def _same(kept: str, asked: str) -> bool:
    old, new = kept.split(" "), asked.split(" ")
    return old[0] == new[0] and (old[1] == new[1] or (old[2] == new[2] != ""))
