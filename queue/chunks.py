"""Chunks and their leases: the only place where a chunk changes state.

A lease is (chunk, token). The token grows with each lease and never goes back, and every write names it; one with any other token
raises StaleLease and changes nothing. Callers hold a `Database.write()` block.

Writers that meet: what is read to be changed is locked; several chunks are locked in the order of their ids, so that two writers
cannot wait for each other; claims and rescues pass over what somebody else holds. SQLite, with one writer, knows no such locks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, Update, and_, bindparam, case, func, literal_column, or_, select, update

from batchsched.errors import Conflict, NotFound, StaleLease
from batchsched.queue.hot import Hot, enter
from batchsched.queue.rows import Row, every
from batchsched.queue.tables import batches, chunks

LEAP = 1_000_000
"""More leases than one chunk is ever given between a backup and the loss of what came after it."""
_IDLE: dict[str, Any] = {"worker_id": None, "lease_until": None}

# Written out, so that the partial indexes serve: a parameter might be any state.
_IS_LEASED = chunks.c.state == literal_column("'leased'")
_IS_PENDING = chunks.c.state == literal_column("'pending'")
_ONE = Hot(select(chunks).where(chunks.c.id == bindparam("chunk")))
_LOCKED = Hot(select(chunks).where(chunks.c.id == bindparam("chunk")).with_for_update())
_CLAIMABLE = (
    select(chunks.c.id)
    .join(batches, batches.c.id == chunks.c.batch_id)
    .where(
        chunks.c.batch_id == bindparam("batch"),
        _IS_PENDING,
        batches.c.state == "in_progress",
        batches.c.paused_at.is_(None),
        or_(chunks.c.not_before.is_(None), chunks.c.not_before <= bindparam("now")),
        chunks.c.plain <= bindparam("plain_too", type_=chunks.c.plain.type),
    )
    .order_by(chunks.c.position)
    .limit(bindparam("limit"))
)
_COUNTED = Hot(_CLAIMABLE)
_READY = Hot(
    select(batches.c.id).where(
        batches.c.state == "in_progress",
        batches.c.paused_at.is_(None),
        select(chunks.c.id)
        .where(
            chunks.c.batch_id == batches.c.id,
            _IS_PENDING,
            or_(chunks.c.not_before.is_(None), chunks.c.not_before <= bindparam("now")),
            chunks.c.plain <= bindparam("plain_too", type_=chunks.c.plain.type),
        )
        .exists(),
    )
)
_LEASED = Hot(
    select(chunks.c.batch_id, chunks.c.pool, func.sum(chunks.c.lines - chunks.c.completed - chunks.c.failed).label("requests"))
    .where(_IS_LEASED)
    .group_by(chunks.c.pool, chunks.c.batch_id)  # in the order of no index, which SQLite would read from end to end
)
_HELD = (chunks.c.id == bindparam("chunk"), chunks.c.token == bindparam("held"), chunks.c.state == "leased")
_EXTEND = Hot(update(chunks).where(*_HELD).values(lease_until=bindparam("until")))
_RELEASE = Hot(update(chunks).where(*_HELD).values(state="pending", **_IDLE))
_PLAIN = Hot(update(chunks).where(*_HELD).values(plain=True))


def _taking(claimable: Select[tuple[str]]) -> Hot:
    """In one round trip, past what another claim holds; a CTE, since PostgreSQL may run a plain subquery more than once."""
    chosen = claimable.with_for_update(of=chunks, skip_locked=True).cte("chosen")
    taken = update(chunks).where(chunks.c.id.in_(select(chosen.c.id)), _IS_PENDING)
    lease: dict[str, Any] = {"worker_id": bindparam("worker"), "pool": bindparam("on_pool"), "model": bindparam("with_model")}
    until: dict[str, Any] = {"lease_until": bindparam("until"), "not_before": None}
    return Hot(taken.values(state="leased", token=chunks.c.token + 1, **lease, **until).returning(*chunks.c))


_TAKE, _TAKE_WHOLE = _taking(_CLAIMABLE), _taking(_CLAIMABLE.where(chunks.c.result_bytes == 0))
_UNFINISHED = (
    update(chunks)
    .where(
        chunks.c.id == bindparam("chunk"),
        chunks.c.token == bindparam("held"),
        chunks.c.state == "leased",
        chunks.c.result_bytes == bindparam("known_bytes"),
    )
    .values(
        completed=bindparam("new_completed"),
        failed=bindparam("new_failed"),
        parts=bindparam("new_parts"),
        result_bytes=bindparam("new_bytes"),
    )
)
_RECORD = Hot(_UNFINISHED)
_FINISH = Hot(_UNFINISHED.values(state="done", lease_until=None, suspects=[], erring=[]))
_BEHIND = (chunks.c.batch_id == bindparam("batch"), chunks.c.position > bindparam("after"))
_ALL = Hot(select(chunks).where(*_BEHIND).order_by(chunks.c.position))
_PAGE = Hot(select(chunks).where(*_BEHIND).order_by(chunks.c.position).limit(bindparam("limit")))
_BY_STATE = Hot(
    select(chunks.c.state, func.count().label("n")).where(chunks.c.batch_id == bindparam("batch")).group_by(chunks.c.state)
)
_REOPEN = (
    update(chunks)
    .where(chunks.c.id == bindparam("chunk"), or_(chunks.c.state == "done", chunks.c.state == "closed"))
    .values(
        state=bindparam("next"),
        token=chunks.c.token + 1,
        round=chunks.c.round + 1,
        completed=bindparam("new_completed"),
        failed=0,
        parts=bindparam("new_parts"),
        result_bytes=bindparam("new_bytes"),
        attempts=0,
        suspects=[],
        erring=[],
        not_before=None,
        **_IDLE,
    )
)


def add(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Store a batch's chunks, all pending."""
    enter(connection, chunks, rows)


def of_batch(connection: Connection, batch_id: str, *, after: int = -1, limit: int | None = None) -> list[Row]:
    """A batch's chunks in the order of its file, up to `limit` of those behind the position `after`."""
    such = {"batch": batch_id, "after": after}
    return _ALL.rows(connection, such) if limit is None else _PAGE.rows(connection, {**such, "limit": limit})


def with_results(connection: Connection, batch_id: str, first: int) -> list[Row]:
    """A batch's chunks that have results, from position `first` on, in the order of its file."""
    found = (chunks.c.batch_id == batch_id, chunks.c.position >= first, chunks.c.result_bytes > 0)
    return every(connection, select(chunks).where(*found).order_by(chunks.c.position))


def get(connection: Connection, chunk_id: str, *, lock: bool = False) -> Row:
    """One chunk; with `lock`, it stays as it is until this transaction ends. Raises NotFound."""
    row = (_LOCKED if lock else _ONE).first(connection, {"chunk": chunk_id})
    if row is None:
        raise NotFound(f"There is no chunk '{chunk_id}'.")
    return row


def claim(
    connection: Connection,
    batch_id: str,
    *,
    worker_id: str,
    pool: str,
    limit: int,
    now: datetime,
    lease_s: float,
    model: str | None = None,
    plain: bool = True,
    whole_first: bool = False,
) -> list[Row]:
    """Lease up to `limit` of a batch's pending chunks, in file order; to be served with `model` where requests name another.
    Without `plain`, none of those that only the plain way of serving suits. `whole_first`: of those that nothing is done of, as
    long as there are such."""
    values = {"worker": worker_id, "on_pool": pool, "with_model": model, "until": now + timedelta(seconds=lease_s)}
    asked = {"batch": batch_id, "now": now, "limit": limit, "plain_too": plain, **values}
    taken = _TAKE_WHOLE.rows(connection, asked) if whole_first else []
    taken = taken or _TAKE.rows(connection, asked)
    return sorted(taken, key=lambda row: row["position"])


def held(connection: Connection, chunk_id: str, token: int, *, lock: bool = False) -> Row:
    """The chunk, if this token holds it now; with `lock`, until this transaction ends. Raises StaleLease, NotFound."""
    row = get(connection, chunk_id, lock=lock)
    if row["state"] != "leased" or row["token"] != token:
        raise StaleLease(f"The lease {token} of chunk {chunk_id} is over; its results belong to somebody else now.")
    return row


def extend(connection: Connection, leases: Iterable[tuple[str, int]], now: datetime, lease_s: float) -> list[str]:
    """Keep these leases alive; the ids of those that are stale."""
    until, stale = now + timedelta(seconds=lease_s), list[str]()
    for chunk_id, token in sorted(leases):
        if _EXTEND.changed(connection, [{"chunk": chunk_id, "held": token, "until": until}]) != 1:
            stale.append(chunk_id)
    return stale


class Stored(NamedTuple):
    """Results of a chunk that were just stored. `chunk` is the row that they were held against."""

    chunk: Row
    completed: int
    failed: int
    parts: Sequence[Any]
    result_bytes: int

    def counted(self) -> Row:
        """The row as it is once they are counted: the last ones finish the chunk."""
        completed, failed = self.chunk["completed"] + self.completed, self.chunk["failed"] + self.failed
        done = completed + failed == self.chunk["lines"]
        now = {"completed": completed, "failed": failed, "parts": self.parts, "result_bytes": self.result_bytes}
        return {**self.chunk, **now, "state": "done" if done else "leased"}


def record(connection: Connection, chunk: Row, *, completed: int, failed: int, parts: Sequence[Any], result_bytes: int) -> Row:
    """`record_all` of one chunk."""
    return record_all(connection, [Stored(chunk, completed, failed, parts, result_bytes)])[0]


def record_all(connection: Connection, stored: Sequence[Stored]) -> list[Row]:
    """Count results of chunks that were just stored; the rows as they are now.

    Where a chunk has moved on since its row was read, the transaction must be rolled back. Then raises StaleLease, NotFound, or
    Conflict: the lease still holds and only other results came in between, or there are several chunks and it may be any of them.
    """
    rows = [one.counted() for one in stored]
    for statement, state in ((_RECORD, "leased"), (_FINISH, "done")):
        wanted = [
            {
                "chunk": row["id"],
                "held": row["token"],
                "known_bytes": one.chunk["result_bytes"],
                "new_completed": row["completed"],
                "new_failed": row["failed"],
                "new_parts": row["parts"],
                "new_bytes": row["result_bytes"],
            }
            for one, row in zip(stored, rows, strict=True)
            if row["state"] == state
        ]
        if wanted and statement.changed(connection, wanted) != len(wanted):
            if len(stored) == 1:
                held(connection, rows[0]["id"], rows[0]["token"])
            raise Conflict("Other results of this chunk were recorded meanwhile.")
    return rows


def release(connection: Connection, chunk_id: str, token: int, *, plain: bool = False) -> None:
    """Give a chunk back without spending an attempt; `plain`: from now on only the plain way of serving suits it. Raises
    StaleLease."""
    held(connection, chunk_id, token, lock=True)
    if plain:
        _PLAIN.changed(connection, [{"chunk": chunk_id, "held": token}])
    if _RELEASE.changed(connection, [{"chunk": chunk_id, "held": token}]) != 1:
        raise StaleLease


def fail(
    connection: Connection,
    chunk_id: str,
    token: int,
    *,
    suspects: list[int],
    erring: list[int] | None = None,
    not_before: datetime,
    spend: bool = True,
) -> int:
    """Give a chunk back after a failure; the attempts spent so far, this one among them if `spend`. Raises StaleLease."""
    row = held(connection, chunk_id, token, lock=True)
    attempts: int = row["attempts"] + spend
    spent = {"state": "pending", "attempts": attempts, "suspects": suspects, "erring": erring or [], "not_before": not_before}
    statement = update(chunks).where(chunks.c.id == chunk_id, chunks.c.token == token, chunks.c.state == "leased")
    if connection.execute(statement.values(**spent, **_IDLE)).rowcount != 1:
        raise StaleLease
    return attempts


def rescue(connection: Connection, now: datetime) -> list[Row]:
    """Take back every lease whose time is over; the chunks concerned. No attempt is spent: the chunk did nothing wrong."""
    lost = _picked(_IS_LEASED, chunks.c.lease_until <= now, skip_locked=True)
    return every(connection, lost.values(state="pending", **_IDLE).returning(*chunks.c))


def forgive(connection: Connection, now: datetime, lease_s: float) -> None:
    """Give every lease its full time again: where nobody could send a heartbeat, for no server was there or its clock jumped.

    Pauses after a failure end as well: where the clock jumped back, they would last for as long as it jumped.
    """
    connection.execute(_picked(_IS_LEASED).values(lease_until=now + timedelta(seconds=lease_s)))
    connection.execute(_picked(chunks.c.state == "pending", chunks.c.not_before.is_not(None)).values(not_before=None))


def fence(connection: Connection) -> None:
    """Make every lease stale that was handed out before, here or in a later state of this database that was lost.

    What is leased is pending again, without an attempt spent. Those of batches that are over are fenced too: a retry leases them.
    """
    if connection.dialect.name == "postgresql":  # differs because statements have a limit there; this one touches every chunk
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
    connection.execute(_picked(_IS_LEASED).values(state="pending", **_IDLE))
    connection.execute(update(chunks).values(token=chunks.c.token + LEAP))


def of_worker(connection: Connection, worker_id: str) -> list[Row]:
    """What a worker holds, locked to be given back."""
    query = select(chunks).where(_IS_LEASED, chunks.c.worker_id == worker_id).order_by(chunks.c.id)
    return every(connection, query.with_for_update())


def hand_over(connection: Connection, worker_id: str, to: str) -> None:
    """What a worker holds it holds under another id from now on."""
    connection.execute(_picked(_IS_LEASED, chunks.c.worker_id == worker_id).values(worker_id=to))


def close(connection: Connection, batch_id: str, *, leased_too: bool) -> None:
    """End a batch's unfinished chunks; with `leased_too`, also those that a worker holds, whose tokens are stale from now on."""
    states = ["pending", "leased"] if leased_too else ["pending"]
    unfinished = _picked(chunks.c.batch_id == batch_id, chunks.c.state.in_(states))
    connection.execute(unfinished.values(state="closed", **_IDLE))


def _picked(*conditions: ColumnElement[bool], skip_locked: bool = False) -> Update:
    """An update of the chunks that these conditions hold for, locked in the order of their ids."""
    in_order = chunks.c.id.concat("")  # no column, so that SQLite does not read all chunks only because their ids are in order
    mine = select(chunks.c.id).where(*conditions).order_by(in_order).with_for_update(skip_locked=skip_locked).cte("mine")
    return update(chunks).where(chunks.c.id.in_(select(mine.c.id)))


def reopen(connection: Connection, taken: Sequence[Row]) -> None:
    """Begin a retry: each chunk with the answers that it has (`completed`, `parts`, `result_bytes`), `pending` or `done`."""
    names = {"id": "chunk", "state": "next", "completed": "new_completed", "parts": "new_parts", "result_bytes": "new_bytes"}
    connection.execute(_REOPEN, [{name: chunk[key] for key, name in names.items()} for chunk in taken])


def by_state(connection: Connection, batch_id: str) -> dict[str, int]:
    """How many of a batch's chunks are in each state; states without any are left out."""
    return {row["state"]: row["n"] for row in _BY_STATE.rows(connection, {"batch": batch_id})}


def ready(connection: Connection, now: datetime, *, plain: bool = True) -> set[str]:
    """Batches of which a chunk could be leased at once. Without `plain`, one that not only the plain way of serving suits."""
    return {row["id"] for row in _READY.rows(connection, {"now": now, "plain_too": plain})}


def claimable(connection: Connection, batch_id: str, now: datetime, limit: int) -> int:
    """How many of a batch's chunks could be leased at once, counted up to `limit`."""
    return len(_COUNTED.rows(connection, {"batch": batch_id, "now": now, "limit": limit, "plain_too": True}))


def in_flight(connection: Connection) -> dict[tuple[str, str], int]:
    """Requests leased and not yet recorded, by (batch, pool)."""
    return {(row["batch_id"], row["pool"]): int(row["requests"]) for row in _LEASED.rows(connection, {})}


def leases(connection: Connection) -> dict[str, int]:
    """How many chunks each worker holds; workers that hold none are left out."""
    query = select(chunks.c.worker_id, func.count()).where(_IS_LEASED).group_by(chunks.c.worker_id)
    return {worker_id: int(count) for worker_id, count in connection.execute(query)}


def at_work(connection: Connection, pool: str) -> set[str]:
    """The workers of a pool that hold chunks."""
    return set(connection.scalars(select(chunks.c.worker_id).where(_IS_LEASED, chunks.c.pool == pool).distinct()))


def holders(connection: Connection, worker_ids: Collection[str]) -> set[str]:
    """Those of these workers that hold a lease."""
    named = {f"worker_{n}": worker_id for n, worker_id in enumerate(worker_ids)}
    return {row["worker_id"] for row in _holding(len(named)).rows(connection, named)} if named else set()


@cache
def _holding(workers: int) -> Hot:
    named = [bindparam(f"worker_{n}", type_=chunks.c.worker_id.type) for n in range(workers)]
    return Hot(select(chunks.c.worker_id).where(_IS_LEASED, chunks.c.worker_id.in_(named)))


def summary(connection: Connection) -> list[Row]:
    """Of each batch in progress: pending and leased requests, and the pools that hold leases, for the planner's eyes.

    Columns: batch_id, pool (None for pending), state, chunks, requests (not yet recorded), plain (those of them which drafts do
    not suit), most (of one chunk).
    """
    left = chunks.c.lines - chunks.c.completed - chunks.c.failed
    query = (
        select(
            chunks.c.batch_id,
            chunks.c.state,
            chunks.c.pool,
            func.count().label("chunks"),
            func.sum(left).label("requests"),
            func.sum(case((chunks.c.plain, left), else_=0)).label("plain"),
            func.max(left).label("most"),
        )
        .join(batches, batches.c.id == chunks.c.batch_id)
        .where(and_(batches.c.state == "in_progress", chunks.c.state.in_(["pending", "leased"])))
        .group_by(chunks.c.batch_id, chunks.c.state, chunks.c.pool)
    )
    return every(connection, query)


def served_by(connection: Connection, batch_id: str) -> set[tuple[str, str | None]]:
    """Pools on which some chunk of a batch has run or runs, each with the model; None: the one that its requests name."""
    query = select(chunks.c.pool, chunks.c.model).distinct().where(chunks.c.batch_id == batch_id, chunks.c.pool.is_not(None))
    return {(pool, model) for pool, model in connection.execute(query)}


def leased_pools(connection: Connection, batch_id: str) -> list[str]:
    """Pools that hold a lease of a batch now."""
    query = select(chunks.c.pool).distinct().where(chunks.c.batch_id == batch_id, chunks.c.state == "leased")
    return sorted(name for name in connection.scalars(query) if name)
