"""Rows of files. Their bytes are the store's business."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, case, delete, func, insert, literal, null, or_, select, union_all

from batchsched.errors import NotFound
from batchsched.queue.hot import enter
from batchsched.queue.rows import Row, beyond, every, first
from batchsched.queue.tables import batches, files, tombstones
from batchsched.queue.tenancy import Tenant, owned

_NAMES = {"output": "_output.jsonl", "error": "_error.jsonl"}
_IS_RESULT = files.c.purpose == "batch_output"
_shown = [column for column in files.c if column.name != "facts"]  # facts may be long, and lists are


def add(connection: Connection, *, tenant: str, **values: Any) -> None:
    """Record a file whose bytes are safely stored."""
    enter(connection, files, [{"tenant": tenant, **values}])


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


def remove(connection: Connection, file_id: str, now: datetime) -> None:
    """Forget a file. Of a batch's its size and its times stay, for what keeping it took."""
    of_batch = func.replace(func.replace(files.c.filename, _NAMES["output"], ""), _NAMES["error"], "")
    named = select(batches.c.id).where(batches.c.input_file_id == files.c.id).exists()
    gone = select(
        files.c.id,
        files.c.tenant,
        case((_IS_RESULT, of_batch), else_=""),
        files.c.bytes,
        files.c.created_at,
        literal(now, tombstones.c.deleted_at.type),
    ).where(files.c.id == file_id, or_(_IS_RESULT, named))
    connection.execute(insert(tombstones).from_select([column.name for column in tombstones.c], gone))
    connection.execute(delete(files).where(files.c.id == file_id))


def results_of(batch: Mapping[str, Any]) -> ColumnElement[bool]:
    """Every result file that a batch ever had: a retry leaves the earlier ones to their time."""
    names = [batch["id"] + ending for ending in _NAMES.values()]
    return and_(files.c.tenant == batch["tenant"], _IS_RESULT, files.c.filename.in_(names))


def kept_for(connection: Connection, batch_ids: Select[tuple[str]] | Sequence[str]) -> list[Row]:
    """Every file that batches ever had: `batch_id`, `id`, `bytes`, `created_at`, `deleted_at` (None while it is there), among how
    many batches it is `shared`, and the `input_file_id` of an input."""
    mine = batches.c.id.in_(batch_ids)
    there = (files.c.bytes, files.c.created_at, literal(None, tombstones.c.deleted_at.type).label("deleted_at"))
    gone = (tombstones.c.bytes, tombstones.c.created_at, tombstones.c.deleted_at)
    inputs = (
        select(batches.c.id.label("batch_id"), table.c.id, *columns, batches.c.input_file_id, batches.c.tenant).where(
            mine, table.c.id == batches.c.input_file_id, table.c.tenant == batches.c.tenant
        )
        for table, columns in ((files, there), (tombstones, gone))
    )
    none = (null(), null())
    results = (
        select(batches.c.id, files.c.id, *there, *none).where(
            mine, files.c.filename == batches.c.id + ending, files.c.tenant == batches.c.tenant, _IS_RESULT
        )
        for ending in _NAMES.values()
    )
    deleted = select(tombstones.c.batch_id, tombstones.c.id, *gone, *none).where(tombstones.c.batch_id.in_(batch_ids))
    found = every(connection, union_all(*inputs, *results, deleted))
    named = select(batches.c.input_file_id).where(mine)
    whose = (batches.c.input_file_id, batches.c.tenant)
    count = select(*whose, func.count()).where(batches.c.input_file_id.in_(named)).group_by(*whose)
    sharers = {(file_id, tenant): shared for file_id, tenant, shared in connection.execute(count)}
    return [{**row, "shared": sharers.get((row["input_file_id"], row["tenant"]), 1)} for row in found]


def ids(connection: Connection) -> set[str]:
    """Every file's id."""
    return set(connection.scalars(select(files.c.id)))
