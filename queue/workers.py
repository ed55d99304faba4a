"""Rows of workers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from datetime import datetime, timedelta
from functools import cache
from statistics import mean
from typing import Any

from sqlalchemy import Connection, and_, bindparam, case, extract, func, insert, literal_column, select, update

from batchsched.errors import NotFound
from batchsched.queue.hot import Hot
from batchsched.queue.rows import Row, every
from batchsched.queue.tables import workers

SILENT = timedelta(minutes=5)
"""Whoever gave no sign of life for so long while others did is not there."""
# Written out, so that the partial index serves.
_IS_ACTIVE = workers.c.state == literal_column("'active'")
_NOTHING: dict[str, Any] = {"preparing": None, "preparing_at": None, "preparing_for": None}
ENGINE_WELL: dict[str, Any] = {"failing_since": None, "failing_times": 0, "failing_why": ""}
"""Of one against whose engine nothing is known."""
_MINE = workers.c.id == bindparam("worker")
_ONE = Hot(select(workers).where(_MINE))
_THERE = (_IS_ACTIVE, workers.c.pool == bindparam("on_pool"), workers.c.seen_at >= bindparam("since"))
_OF_POOL = Hot(select(workers).where(*_THERE).order_by(workers.c.registered_at, workers.c.id))
_FINISHED = Hot(update(workers).where(_MINE).values(finished=workers.c.finished + 1))
_PREPARES = Hot(update(workers).where(_MINE).values({name: bindparam(f"new_{name}") for name in _NOTHING}))


@cache
def _seen(told: tuple[str, ...]) -> Hot:
    """Of a worker that told these."""
    news: dict[str, Any] = {name: bindparam(f"new_{name}") for name in ("seen_at", *told)}
    return Hot(update(workers).where(_MINE).values(state="active", **news))


def add(connection: Connection, *, now: datetime, **values: Any) -> None:
    """A worker comes: `id`, `pool`, `host`, `pid`, `protocol`, `version`, `replica`, `adapters`, `modes`; and what it had as
    it was called before (`replaced`)."""
    values = {"ready_models": [], **values}
    connection.execute(insert(workers).values(state="active", registered_at=now, seen_at=now, **values))


def replaced(connection: Connection, worker_id: str, pool: str, now: datetime) -> Row:
    """A worker of a pool is there under another id from now on: what stays of it. Nothing of one that is not known there."""
    row = _ONE.first(connection, {"worker": worker_id})
    if row is None or row["state"] != "active" or row["pool"] != pool:
        return {}
    bye(connection, worker_id, now)
    return {name: row[name] for name in (*_NOTHING, *ENGINE_WELL, "ready_models", "spent_number")}


def get(connection: Connection, worker_id: str) -> Row:
    """One worker. Raises NotFound."""
    row = _ONE.first(connection, {"worker": worker_id})
    if row is None:
        raise NotFound(f"There is no worker '{worker_id}'; register again.", param="worker_id")
    return row


def seen(connection: Connection, worker_id: str, now: datetime, **values: Any) -> None:
    """A worker gave a sign of life. Raises NotFound."""
    told = {f"new_{name}": value for name, value in {"seen_at": now, **values}.items()}
    if _seen(tuple(sorted(values))).changed(connection, [{"worker": worker_id, **told}]) != 1:
        raise NotFound(f"There is no worker '{worker_id}'; register again.", param="worker_id")


def asked(connection: Connection, worker_id: str, now: datetime, **values: Any) -> None:
    """It asks for work: what it was told to get ready before counts no more. Raises NotFound."""
    seen(connection, worker_id, now, **_NOTHING, **values)


def prepares(connection: Connection, worker: Row, model: str, batch_id: str | None, now: datetime) -> None:
    """It is told to get a model ready. `worker`: as it was before it asked; who was told the same then has been since."""
    since = worker["preparing_at"] if worker["preparing"] == model else None
    values = {"new_preparing": model, "new_preparing_at": since or now, "new_preparing_for": batch_id}
    _PREPARES.changed(connection, [{"worker": worker["id"], **values}])


def models(worker: Row) -> list[str]:
    """What its engine has ready, or will have in the place of that."""
    return [worker["preparing"]] if worker.get("preparing") else list(worker["ready_models"])


def ills(connection: Connection, since: datetime) -> dict[str, list[str]]:
    """What the GPUs of workers that gave a sign of life since then suffer from, by pool."""
    found: dict[str, list[str]] = {}
    for row in active(connection, since):
        said = [f"{ill} (worker {row['id']} on {row['host']})" for ill in row["ills"] or []]
        found.setdefault(row["pool"], []).extend([*said, *([resting(row)] if rests(row) else [])])
    return found


def rests(worker: Row) -> bool:
    """Does it get no work, since a GPU of it is broken, and worse than an operator let pass?"""
    broken, pardoned = worker.get("broken") or {}, worker.get("pardoned") or {}
    return any(errors < 0 or errors > pardoned.get(uuid, 0) for uuid, errors in broken.items())


def resting(worker: Row) -> str:
    """What to tell of one that does."""
    return (
        f"worker {worker['id']} on {worker['host']} gets no work: reset or replace the GPU, "
        f"or let it go on as it is by `batchsched pool open {worker['pool']}`"
    )


def pardon(connection: Connection, pool: str) -> list[str]:
    """Let the workers of a pool go on although GPUs of theirs have memory errors, until there are more or the card was reset.
    Of those that may go on only by this: which, in words."""
    said: list[str] = []
    for row in every(connection, select(workers).where(workers.c.pool == pool, workers.c.state == "active")):
        passed = {uuid: errors for uuid, errors in (row["broken"] or {}).items() if errors > 0}
        if passed:
            known = row["pardoned"] or {}
            connection.execute(update(workers).where(workers.c.id == row["id"]).values(pardoned=known | passed))
            said += [
                f"GPU {uuid} may go on with {errors} memory errors (worker {row['id']} on {row['host']})"
                for uuid, errors in passed.items()
                if errors > known.get(uuid, 0)
            ]
    return said


def unpardon(connection: Connection, pool: str, uuids: Collection[str]) -> None:
    """Forget, of all workers of a pool, that these cards were let pass: they were reset, and what comes is new."""
    for row in every(connection, select(workers).where(workers.c.pool == pool, workers.c.ill_at.is_not(None))):
        known: dict[str, int] = row["pardoned"] or {}
        if left := known.keys() & set(uuids):
            kept = {uuid: errors for uuid, errors in known.items() if uuid not in left}
            connection.execute(update(workers).where(workers.c.id == row["id"]).values(pardoned=kept))


def pardoned(connection: Connection, pool: str) -> dict[str, int]:
    """What was let pass of any worker of a pool: a card stays what it is when its worker starts anew."""
    found: dict[str, int] = {}
    said = select(workers.c.pardoned).where(workers.c.pool == pool, workers.c.ill_at.is_not(None)).order_by(workers.c.ill_at)
    for known in connection.scalars(said):
        found |= known or {}
    return found


def desks(connection: Connection, server: str, since: datetime) -> dict[str, int]:
    """Where workers that gave a sign of life since then keep a budget at a server of online users that they have work for; and
    the most that one of each was last told that it may use."""
    here = workers.c.state == "active", workers.c.seen_at >= since, workers.c.spare_server == server
    told = select(workers.c.spare_desk, func.max(workers.c.spare_part)).where(*here).group_by(workers.c.spare_desk)
    return {desk: part or 0 for desk, part in connection.execute(told)}


def finished(connection: Connection, worker_id: str) -> None:
    """It finished a chunk with an answer in it."""
    _FINISHED.changed(connection, [{"worker": worker_id}])


def failed(connection: Connection, worker_id: str) -> None:
    """Its engine failed under a chunk, and has nothing ready until the worker says so again."""
    connection.execute(update(workers).where(workers.c.id == worker_id).values(failed=workers.c.failed + 1, ready_models=[]))


def stopped(connection: Connection, worker_id: str) -> None:
    """Its engine has nothing ready until it says so again."""
    connection.execute(update(workers).where(workers.c.id == worker_id).values(ready_models=[]))


def bye(connection: Connection, worker_id: str, now: datetime) -> None:
    """A worker stopped."""
    connection.execute(update(workers).where(workers.c.id == worker_id).values(seen_at=now, state="gone", **_NOTHING))


def active(connection: Connection, since: datetime) -> list[Row]:
    """Workers that gave a sign of life since then."""
    return every(connection, select(workers).where(workers.c.state == "active", workers.c.seen_at >= since))


def of_pool(connection: Connection, pool: str, since: datetime) -> list[Row]:
    """The same of one pool, in the order in which they came."""
    return _OF_POOL.rows(connection, {"on_pool": pool, "since": since})


def preparing_for(connection: Connection, batch_ids: Collection[str], since: datetime) -> list[Row]:
    """Those of every pool that were told to get a model ready for a chunk of these batches."""
    named = {f"batch_{n}": batch_id for n, batch_id in enumerate(batch_ids)}
    return _preparing(len(named)).rows(connection, {"since": since, **named}) if named else []


@cache
def _preparing(batches: int) -> Hot:
    named = [bindparam(f"batch_{n}", type_=workers.c.preparing_for.type) for n in range(batches)]
    return Hot(select(workers).where(_IS_ACTIVE, workers.c.seen_at >= bindparam("since"), workers.c.preparing_for.in_(named)))


def idle_power(connection: Connection) -> dict[str, float]:
    """Watts of an idle replica of each pool: the mean of its workers that are there, or were there last. Each says its own: one
    on an engine that somebody else runs costs nothing while it rests."""
    shown = workers.c.pool, workers.c.idle_w, workers.c.state, workers.c.seen_at
    of_pool: defaultdict[str, list[Row]] = defaultdict(list)
    for row in every(connection, select(*shown).where(workers.c.idle_w.is_not(None))):
        of_pool[row["pool"]].append(row)
    return {pool: mean(row["idle_w"] for row in _there_last(rows)) for pool, rows in of_pool.items()}


def _there_last(rows: list[Row]) -> list[Row]:
    """Of a pool's workers, those that are there; a killed one, which cannot say that it goes, until it was silent for a while."""
    some = [row for row in rows if row["state"] == "active"] or rows
    newest = max(row["seen_at"] for row in some)
    return [row for row in some if row["seen_at"] >= newest - SILENT]


def presence(connection: Connection, start: datetime, end: datetime) -> list[Row]:
    """Who was there at some time in [start, end): `pool`, `host`, `registered_at`, `seen_at`, and the `logs_bytes`
    of its host, None where it did not tell."""
    shown = (workers.c[name] for name in ("pool", "host", "registered_at", "seen_at", "logs_bytes"))
    return every(connection, select(*shown).where(workers.c.seen_at >= start, workers.c.registered_at < end))


def lost(connection: Connection, since: datetime, silent_since: datetime) -> dict[str, tuple[int, float]]:
    """Of each pool, how many workers that were there after `since` fell silent without a word before `silent_since`; and for how
    many hours all of its workers served."""
    gone = case((and_(workers.c.state == "active", workers.c.seen_at < silent_since), 1), else_=0)
    served_s = extract("epoch", workers.c.seen_at) - extract("epoch", workers.c.registered_at)
    query = select(workers.c.pool, func.sum(gone), func.sum(served_s)).where(workers.c.seen_at >= since).group_by(workers.c.pool)
    return {pool: (int(count), float(seconds) / 3600) for pool, count, seconds in connection.execute(query)}


def pools(connection: Connection) -> set[str]:
    """Every pool that ever had a worker."""
    return set(connection.scalars(select(workers.c.pool).distinct()))
