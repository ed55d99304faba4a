"""Rows of batches. Every change of state is a compare-and-set update by the transition table."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, bindparam, false, func, literal, or_, select, update

from batchsched import exposed
from batchsched.errors import Conflict, NotFound
from batchsched.queue import books, deliveries, ledger
from batchsched.queue.hot import Hot, enter
from batchsched.queue.rows import Row, beyond, every
from batchsched.queue.states import BATCH_TRANSITIONS, OPEN, TERMINAL, sources
from batchsched.queue.tables import batches, chunks
from batchsched.queue.tenancy import ANY, Everybody, Tenant, owned


def add(connection: Connection, *, tenant: str, **values: Any) -> None:
    """Accept a batch."""
    enter(connection, batches, [{"tenant": tenant, **values}])
    if values["state"] in TERMINAL:
        deliveries.announce(connection, values["id"], values["state"], values["created_at"])


_NAMED = select(batches).where(batches.c.id == bindparam("batch"))
_OWN = _NAMED.where(batches.c.tenant == bindparam("owner"))
_GET = {  # by: whoever's it is, locked; rows that point to a locked one may still be added
    (whoever, lock): Hot(query.with_for_update(key_share=True) if lock else query)
    for whoever, query in ((True, _NAMED), (False, _OWN))
    for lock in (True, False)
}
_WHOSE = Hot(select(batches.c.tenant, batches.c.model).where(batches.c.id == bindparam("batch")))


def get(connection: Connection, batch_id: str, tenant: Tenant, *, lock: bool = False) -> Row:
    """One batch of a tenant; with `lock`, it stays as it is until this transaction ends. Raises NotFound, also for another's."""
    whose = {} if isinstance(tenant, Everybody) else {"owner": tenant}
    row = _GET[not whose, lock].first(connection, {"batch": batch_id, **whose})
    if row is None:
        raise NotFound(f"No batch found with id '{batch_id}'.", param="batch_id")
    return row


def whose(connection: Connection, batch_id: str) -> tuple[str, str]:
    """The tenant of a batch that was cut, and the model that its requests name."""
    [row] = _WHOSE.rows(connection, {"batch": batch_id})
    return row["tenant"], row["model"]


def hold(connection: Connection, batch: Row) -> Row:
    """The batch as it is now, which stays so until this transaction ends. Raises Conflict where it moved on since it was read."""
    row = get(connection, batch["id"], ANY, lock=True)
    if (row["state"], row["round"]) != (batch["state"], batch["round"]):
        raise Conflict(f"Batch {batch['id']} was moved on by somebody else.")
    return row


def page(connection: Connection, tenant: Tenant, *, limit: int, after: str | None = None) -> list[Row]:
    """Up to `limit` batches of a tenant, newest first, from the one after `after`. Raises NotFound for an unknown `after`."""
    query = select(batches).where(owned(batches, tenant))
    if after:
        query = query.where(beyond(batches, get(connection, after, tenant), newest_first=True))
    return every(connection, query.order_by(batches.c.created_at.desc(), batches.c.id.desc()).limit(limit))


def newest(connection: Connection, tenant: Tenant, start: datetime, end: datetime, limit: int) -> list[Row]:
    """`id`, `model`, `options` and `created_at` of up to `limit` batches of a tenant created in [start, end), newest first."""
    query = select(batches.c.id, batches.c.model, batches.c.options, batches.c.created_at)
    query = query.where(owned(batches, tenant), batches.c.created_at >= start, batches.c.created_at < end)
    return every(connection, query.order_by(batches.c.created_at.desc(), batches.c.id.desc()).limit(limit))


def in_state(connection: Connection, states: Sequence[str]) -> list[Row]:
    """Every batch in one of these states, the earliest deadline first."""
    query = select(batches).where(batches.c.state.in_(states)).order_by(batches.c.deadline_at, batches.c.id)
    return every(connection, query)


def came(connection: Connection, start: datetime, end: datetime) -> list[Row]:
    """Every batch of every tenant that was created in [start, end), in the order of their coming."""
    query = select(batches).where(batches.c.created_at >= start, batches.c.created_at < end)
    return every(connection, query.order_by(batches.c.created_at, batches.c.id))


def due(connection: Connection, now: datetime) -> list[Row]:
    """Every open batch that has a next step, by itself or since its deadline has come; the earliest deadline first."""
    # With a limit, so that PostgreSQL looks into the index for each batch and does not read all chunks at once.
    unfinished = select(chunks.c.id).where(chunks.c.batch_id == batches.c.id, chunks.c.state.in_(["pending", "leased"])).limit(1)
    ready = or_(batches.c.reopen.is_not(None), batches.c.deadline_at <= now, unfinished.scalar_subquery().is_(None))
    passing = batches.c.state.in_(["validating", "finalizing", "cancelling"])
    query = select(batches).where(or_(passing, and_(batches.c.state == "in_progress", ready)))
    return every(connection, query.order_by(batches.c.deadline_at, batches.c.id))


def move(
    connection: Connection,
    batch_id: str,
    target: str,
    now: datetime,
    *,
    origin: Collection[str] | None = None,
    within: int | None = None,
    **values: Any,
) -> None:
    """Enter `target` from a state that may lead there (one of `origin`, where given), stamping `<target>_at`.

    An end is announced to webhooks. `within`: only in this round, so that who slept through a retry changes nothing. Raises
    NotFound, or Conflict naming the state.
    """
    if target != "validating":
        values.setdefault(f"{target}_at", now)
    allowed = tuple(state for state in sources(BATCH_TRANSITIONS, target) if origin is None or state in origin)
    news = {f"new_{name}": value for name, value in {"state": target, **values}.items()}
    move = _moving(allowed, tuple(sorted(values)), within is None)
    if move.changed(connection, [{"batch": batch_id, "within": within, **news}]) != 1:
        state = get(connection, batch_id, ANY)["state"]
        raise Conflict(f"A batch with status '{state}' cannot become '{target}'.")
    if target in TERMINAL:
        books.open_at(connection, batch_id, now)
        deliveries.announce(connection, batch_id, target, now)
        ledger.bump(connection, exposed.BATCHES_ENDED, target)


@cache
def _moving(allowed: tuple[str, ...], named: tuple[str, ...], in_any_round: bool) -> Hot:
    """A step of a batch from one of these states that sets these columns."""
    known = or_(false(), *(batches.c.state == state for state in allowed))
    found = (batches.c.id == bindparam("batch"), known, *([] if in_any_round else [batches.c.round == bindparam("within")]))
    return Hot(update(batches).where(*found).values({name: bindparam(f"new_{name}") for name in ("state", *named)}))


def models(row: Mapping[str, Any]) -> list[str]:
    """The models that may serve a batch: the one that its requests name, and the others that it accepts."""
    return list(dict.fromkeys([*([row["model"]] if row["model"] else []), *(row["options"].get("models") or [])]))


_PLANNED = (
    batches.c.id, batches.c.tenant, batches.c.endpoint, batches.c.priority, batches.c.model, batches.c.deadline_at,
    batches.c.options, batches.c.total, batches.c.completed, batches.c.failed, batches.c.input_bytes, batches.c.max_tokens_total,
    batches.c.input_tokens, batches.c.output_tokens, batches.c.started,
)  # fmt: skip


def runnable(connection: Connection) -> list[Row]:
    """Every batch of which something may be leased: in progress, not paused, its earlier results (if any) in their places.

    Only the columns that plans are made from: there may be thousands.
    """
    return _planned(connection, batches.c.paused_at.is_(None))


def paused(connection: Connection) -> list[Row]:
    """Every batch that would be runnable, were it not paused; the same columns."""
    return _planned(connection, batches.c.paused_at.is_not(None))


def _planned(connection: Connection, such: ColumnElement[bool]) -> list[Row]:
    ready = (batches.c.state == "in_progress", batches.c.reopen.is_(None), such)
    return every(connection, select(*_PLANNED).where(*ready).order_by(batches.c.deadline_at, batches.c.id))


_LIVE = ("validating", "in_progress")


def edit(connection: Connection, batch_id: str, what: str, **values: Any) -> None:
    """Set fields of a batch that may still run. Raises NotFound, or Conflict saying that it cannot be `what` any more."""
    live = batches.c.state.in_(_LIVE)
    if connection.execute(update(batches).where(batches.c.id == batch_id, live).values(**values)).rowcount != 1:
        state = get(connection, batch_id, ANY)["state"]
        raise Conflict(f"A batch with status '{state}' cannot be {what}.")


def pause(connection: Connection, batch_id: str, now: datetime) -> None:
    """Let nothing more of it be leased; one that is paused stays so since when it was. Raises NotFound, Conflict."""
    since = func.coalesce(batches.c.paused_at, literal(now, batches.c.paused_at.type))
    edit(connection, batch_id, "paused", paused_at=since)


def start(connection: Connection, batch_id: str, told: Mapping[str, Any]) -> None:
    """Let it wait no longer; one that was told so before stays as it was told then. Raises NotFound, Conflict."""
    ready = (batches.c.id == batch_id, batches.c.state.in_(_LIVE), batches.c.paused_at.is_(None), batches.c.started.is_(None))
    if connection.execute(update(batches).where(*ready).values(started=dict(told))).rowcount == 1:
        return
    row = get(connection, batch_id, ANY)
    if row["state"] not in _LIVE:
        raise Conflict(f"A batch with status '{row['state']}' cannot be started.")
    if row["paused_at"]:
        raise Conflict("This batch is paused, so it cannot be started.", hint=f"Resume it first: batchsched resume {batch_id}")


def note(connection: Connection, batch_id: str, **values: Any) -> None:
    """Set fields that are no state, such as the verdict."""
    connection.execute(update(batches).where(batches.c.id == batch_id).values(**values))


_SUMS = ("completed", "failed", "input_tokens", "cached_tokens", "output_tokens")
_COUNT = Hot(
    update(batches)
    .where(batches.c.id == bindparam("batch"))
    .values({name: batches.c[name] + bindparam(f"more_{name}") for name in _SUMS})
)


def count(connection: Connection, batch_id: str, **sums: int) -> None:
    """`count_all` of one batch."""
    count_all(connection, {batch_id: sums})


def count_all(connection: Connection, sums: Mapping[str, Mapping[str, int]]) -> None:
    """Add newly recorded requests and their tokens to batches' counts: by batch, `completed`, `failed`, `input_tokens`,
    `cached_tokens` and `output_tokens`."""
    rows = [{"batch": batch_id, **{f"more_{name}": more[name] for name in _SUMS}} for batch_id, more in sorted(sums.items())]
    _COUNT.changed(connection, rows)


def reopened(connection: Connection, batch: Row, *, completed: int, verdict: dict[str, Any] | None) -> None:
    """The chunks of a retried batch have their answers back: take its mark away. Raises Conflict where that was done already.

    The verdict counts if its deadline still does: a change of that brought another.
    """
    marked = (batches.c.id == batch["id"], batches.c.round == batch["round"], batches.c.reopen.is_not(None))
    values = {"reopen": None, "completed": completed, "failed": 0}
    if connection.execute(update(batches).where(*marked).values(**values)).rowcount != 1:
        raise Conflict(f"Batch {batch['id']} was reopened by another server.")
    same = (batches.c.id == batch["id"], batches.c.deadline_at == batch["deadline_at"])
    connection.execute(update(batches).where(*same).values(verdict=verdict))


def uses_file(connection: Connection, file_id: str) -> bool:
    """Does an open batch still need this file, as its input or for the answers that it had before a retry?"""
    needed = or_(batches.c.input_file_id == file_id, batches.c.reopen["output_file_id"].as_string() == file_id)
    query = select(func.count()).where(needed, batches.c.state.in_(sorted(OPEN)))
    return bool(connection.scalar(query))


def counted(connection: Connection) -> dict[str, int]:
    """How many batches are in each state."""
    query = select(batches.c.state, func.count().label("n")).group_by(batches.c.state)
    return {row["state"]: row["n"] for row in every(connection, query)}
