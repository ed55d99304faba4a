"""Rows of the ledger, and the counters that outlive a restart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Float,
    Table,
    and_,
    bindparam,
    case,
    cast,
    extract,
    func,
    insert,
    literal_column,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert as upsert

from batchsched.exposed import Metric
from batchsched.measures import DRAFTED
from batchsched.queue.hot import Hot
from batchsched.queue.rows import Row, every, step_of
from batchsched.queue.tables import batches, counters, forgotten, ledger
from batchsched.queue.tenancy import Everybody, Tenant, owned

TOGETHER = timedelta(seconds=10)
_FIRST = upsert(counters).values(name=bindparam("of_name"), value=bindparam("more"))  # SQLite writes it in the same words
_BUMP = Hot(_FIRST.on_conflict_do_update(index_elements=["name"], set_={"value": counters.c.value + _FIRST.excluded.value}))
_SUMMED = ("busy_s", "energy_j", "host_j", "requests", "input_tokens", "cached_tokens", "output_tokens", *DRAFTED, "beside_s")
_ALIKE = ("model", "energy_source", "host_source", "mark", "beside_pool")
_TOLD = ("batch_id", "chunk_id", "pool", "started_at", "ended_at", "startup_s", "lengths", *_ALIKE, *_SUMMED)
_NOTHING = {"host_j": 0.0, "startup_s": 0.0, "beside_s": 0.0, **dict.fromkeys(DRAFTED, 0.0)}
_USUAL: Row = {"host_source": "unmeasured", "mark": "", "lengths": None, "beside_pool": None, **_NOTHING}
_OF_CHUNK = (ledger.c.chunk_id == bindparam("chunk"), ledger.c.pool == bindparam("on_pool"))
_LAST = Hot(select(ledger).where(*_OF_CHUNK).order_by(ledger.c.id.desc()).limit(1))
_GROW = Hot(
    update(ledger)
    .where(ledger.c.id == bindparam("entry"))
    .values({name: bindparam(f"new_{name}") for name in ("ended_at", "lengths", *_SUMMED)})
)
_BATCHS = {name: select(batches.c[name]).where(batches.c.id == bindparam("new_batch_id")) for name in ("tenant", "endpoint")}
_ENTER = Hot(
    insert(ledger)
    .inline()
    .values({name: query.scalar_subquery() for name, query in _BATCHS.items()} | {n: bindparam(f"new_{n}") for n in _TOLD})
)


def add(connection: Connection, **values: Any) -> bool:
    """One span of work on one chunk, for its batch's tenant; False where it was there already (a message repeated, since its
    answer was lost), which changes nothing.

    Spans of a chunk follow each other, so that short ones are kept as one of up to ten seconds.
    """
    values = {**_USUAL, **values}
    last = _LAST.first(connection, {"chunk": values["chunk_id"], "on_pool": values["pool"]})
    if last and values["started_at"] < last["ended_at"] and values["ended_at"] <= last["ended_at"]:
        return False
    if last and _continues(last, values):
        grown = {f"new_{name}": last[name] + values[name] for name in _SUMMED}
        lengths = dict(Counter(last["lengths"] or {}) + Counter(values["lengths"])) if values["lengths"] else last["lengths"]
        _GROW.changed(connection, [{"entry": last["id"], "new_ended_at": values["ended_at"], "new_lengths": lengths, **grown}])
    else:
        _ENTER.changed(connection, [{f"new_{name}": values[name] for name in _TOLD}])
    return True


def _continues(last: Row, values: dict[str, Any]) -> bool:
    same = all(last[name] == values[name] for name in _ALIKE) and not last["startup_s"] and not values["startup_s"]
    return bool(same and values["started_at"] == last["ended_at"] and values["ended_at"] - last["started_at"] <= TOGETHER)


def of_batch(connection: Connection, batch_id: str) -> list[Row]:
    """A batch's entries in time order."""
    query = select(ledger).where(ledger.c.batch_id == batch_id).order_by(ledger.c.started_at, ledger.c.id)
    return every(connection, query)


STEP_S = 300
DAY_S = 86_400
_EACH = ("batch_id", "model", "pool", "energy_source", "host_source", "mark", "beside_pool")


def sums_of_batches(connection: Connection, tenant: Tenant, start: datetime, end: datetime) -> list[Row]:
    """The work of a tenant's batches that were created in [start, end): sums of five minutes of a batch on a pool by one meter,
    batch by batch and in time order. Engine starts stay apart. Thousands of batches have too many entries to look at each."""
    mine = select(batches.c.id).where(owned(batches, tenant), batches.c.created_at >= start, batches.c.created_at < end)
    step = cast(extract("epoch", ledger.c.started_at), BigInteger) // STEP_S
    each = [*(ledger.c[name] for name in _EACH), step, case((ledger.c.startup_s > 0, ledger.c.id), else_=0)]
    began = func.min(ledger.c.started_at)
    query = select(
        *each[: len(_EACH)],
        began.label("started_at"),
        func.max(ledger.c.ended_at).label("ended_at"),
        func.max(ledger.c.startup_s).label("startup_s"),
        *_sums("busy_s", "energy_j", "host_j", "beside_s"),
        *_counts("requests", "input_tokens", "output_tokens"),
    ).where(ledger.c.batch_id.in_(mine))
    return every(connection, query.group_by(*each).order_by(ledger.c.batch_id, began, func.min(ledger.c.id)))


_ALONE = ("batch_id", "tenant", "chunk_id", "model", "pool", "energy_source", "host_source", "mark", "beside_pool")


def spans(connection: Connection, tenant: Tenant, start: datetime, end: datetime, batch_id: str | None = None) -> list[Row]:
    """Work of a tenant that began in [start, end), or all of one of its batches, in time order: of each chunk on a pool by one
    meter the sums of what lies within the same five minutes, and how many `entries` these are.

    No grid reports finer, so grams of the sums are the sums of grams: engine starts, and entries that reach into the next five
    minutes, stay apart.
    """
    step, until = step_of(ledger.c.started_at, STEP_S), extract("epoch", ledger.c.ended_at)  # whole seconds on SQLite
    within = and_(ledger.c.startup_s <= 0, until < step + STEP_S)
    each = [*(ledger.c[name] for name in _ALONE), step, case((within, 0), else_=ledger.c.id)]
    began = func.min(ledger.c.started_at)
    query = select(
        *each[: len(_ALONE)],
        began.label("started_at"),
        func.max(ledger.c.ended_at).label("ended_at"),
        func.max(ledger.c.startup_s).label("startup_s"),
        func.count().label("entries"),
        *_sums("busy_s", "energy_j", "host_j", "beside_s"),
        *_counts("requests", "input_tokens", "output_tokens"),
    ).where(owned(ledger, tenant))
    if batch_id is None:
        query = query.where(ledger.c.started_at >= start, ledger.c.started_at < end)
    else:
        query = query.where(ledger.c.batch_id == batch_id)
    return every(connection, query.group_by(*each).order_by(began, func.min(ledger.c.id)))


def _sums(*names: str) -> Iterator[ColumnElement[Any]]:
    return (func.sum(ledger.c[name]).label(name) for name in names)


def _counts(*names: str) -> Iterator[ColumnElement[Any]]:
    return (cast(func.sum(ledger.c[name]), BigInteger).label(name) for name in names)  # PostgreSQL's would be a Decimal


def joules_of_pools(connection: Connection, start: datetime, end: datetime) -> dict[str, float]:
    """What chunks were charged for work that began in [start, end), by pool; hosts included."""
    joules = func.sum(ledger.c.energy_j + ledger.c.host_j)
    query = select(ledger.c.pool, joules).where(ledger.c.started_at >= start, ledger.c.started_at < end)
    return {pool: float(sum_j) for pool, sum_j in connection.execute(query.group_by(ledger.c.pool))}


def busy_of_days(connection: Connection, start: datetime, end: datetime, pools: Collection[str]) -> list[Row]:
    """`busy_s` of all work on these pools that began in [start, end), which are whole days, by `day` (seconds since 1970), `pool`
    and `model`. And, as `forgotten`, that of batches which are no longer kept, on any pool."""

    def seconds(table: Table, at: ColumnElement[datetime], *where: ColumnElement[bool]) -> list[Row]:
        each = (table.c.pool, table.c.model, step_of(at, DAY_S).label("day"))
        query = select(*each, func.sum(table.c.busy_s).label("busy_s")).where(at >= start, at < end, *where).group_by(*each)
        return [{**row, "forgotten": table is forgotten} for row in every(connection, query)]

    ours = ledger.c.pool.in_(pools)  # all of them by name: the index is by pool
    return [*seconds(ledger, ledger.c.started_at, ledger.c.ended_at >= start, ours), *seconds(forgotten, forgotten.c.hour)]


def newest(connection: Connection, model: str, pool: str) -> tuple[int, datetime] | None:
    """The newest entry of a model on a pool, its number and end: as long as that is the same, `entries` are."""
    found = _NEWEST.first(connection, {"model": model, "pool": pool})
    return (found["id"], found["ended_at"]) if found else None


def entries(connection: Connection, model: str, pool: str, *, after: int = 0, limit: int = 1000) -> list[Row]:
    """The newest entries of a model on a pool behind that of the number `after`, over all batches, in order: what profiles learn
    from. `energy_j` holds the host's."""
    return _ENTRIES.rows(connection, {"model": model, "pool": pool, "after": after, "limit": limit})[::-1]


def count(connection: Connection, model: str, pool: str, first: int, last: int) -> int:
    """How many entries of a model on a pool have these numbers or one between them: retention takes some."""
    found = _COUNT.first(connection, {"model": model, "pool": pool, "first": first, "last": last})
    return int(found["entries"]) if found else 0


_OF_KIND = (ledger.c.model == bindparam("model"), ledger.c.pool == bindparam("pool"))
_NEWEST = Hot(select(ledger.c.id, ledger.c.ended_at).where(*_OF_KIND).order_by(ledger.c.id.desc()).limit(1))
_BETWEEN = (ledger.c.id >= bindparam("first"), ledger.c.id <= bindparam("last"))
_COUNT = Hot(select(func.count().label("entries")).where(*_OF_KIND, *_BETWEEN))
_SEEN = (
    "id", "chunk_id", "model", "pool", "started_at", "ended_at", "busy_s", "requests", "input_tokens", "output_tokens",
    "energy_source", "startup_s", *DRAFTED,
)  # fmt: skip
_ENTRIES = Hot(
    select(*(ledger.c[name] for name in _SEEN), (ledger.c.energy_j + ledger.c.host_j).label("energy_j"))
    .where(*_OF_KIND, ledger.c.id > bindparam("after"))
    .order_by(ledger.c.id.desc())
    .limit(bindparam("limit"))
)


def answers(connection: Connection, tenant: Tenant, model: str, endpoint: str, limit: int = 1000) -> list[Row]:
    """How long answers of a model at an endpoint and their prompts were, by the newest entries, newest first: `id`, `batch_id`,
    `lengths`, `requests`, `input_tokens`, and `line_bytes` in the mean of the batch."""
    whose = {} if isinstance(tenant, Everybody) else {"owner": tenant}
    return _ANSWERS[bool(whose)].rows(connection, {"model": model, "endpoint": endpoint, "limit": limit, **whose})


def _answers(*such: ColumnElement[bool]) -> Hot:
    kind = (ledger.c.model == bindparam("model"), ledger.c.endpoint == bindparam("endpoint"))
    such = (*kind, ledger.c.requests > literal_column("0"), *such)  # written out, so that the partial indexes serve
    wanted = [ledger.c[name] for name in ("id", "batch_id", "lengths", "requests", "input_tokens")]
    newest = select(*wanted).where(*such).order_by(ledger.c.id.desc()).limit(bindparam("limit")).subquery()
    line_bytes = (cast(batches.c.input_bytes, Float) / batches.c.total).label("line_bytes")
    query = select(*(newest.c[column.name] for column in wanted), line_bytes)
    return Hot(query.join(batches, batches.c.id == newest.c.batch_id).where(batches.c.total > 0).order_by(newest.c.id.desc()))


_ANSWERS = {False: _answers(), True: _answers(ledger.c.tenant == bindparam("owner"))}
"""By: of one tenant alone?"""


def tokens_since(connection: Connection, tenant: str, at: datetime) -> int:
    """Tokens, in and out, of a tenant's work that began since then."""
    both = func.coalesce(func.sum(ledger.c.input_tokens + ledger.c.output_tokens), 0)
    return int(connection.scalar(select(both).where(ledger.c.tenant == tenant, ledger.c.started_at >= at)) or 0)


def energy_since(connection: Connection, tenant: str, at: datetime) -> list[Row]:
    """Of a tenant's work that began since then, by `pool` and by the `hour` that it began in (seconds since 1970): `busy_s`;
    `energy_j` of GPUs; `host_j` beside them."""
    each = (ledger.c.pool, step_of(ledger.c.started_at, 3600).label("hour"))
    query = select(*each, *_sums("busy_s", "energy_j", "host_j"))
    return every(connection, query.where(ledger.c.tenant == tenant, ledger.c.started_at >= at).group_by(*each))


def bump(connection: Connection, counter: Metric, *labels: str, by: int = 1) -> None:
    """Add to a lasting counter. Others that add to it wait for this transaction: let it be among its last steps."""
    _BUMP.changed(connection, [{"of_name": counter.row(*labels), "more": by}])


def bump_each(connection: Connection, more: Mapping[str, int]) -> None:
    """The same of many, by their rows' names; in order, so that two that add to the same ones do not wait for each other."""
    if more:
        _BUMP.changed(connection, [{"of_name": name, "more": by} for name, by in sorted(more.items())])


_ONE = Hot(select(counters.c.value).where(counters.c.name == bindparam("of_name")))


def count_of(connection: Connection, counter: Metric) -> int:
    """What one lasting counter stands at; there may be thousands of others."""
    found = _ONE.first(connection, {"of_name": counter.row()})
    return int(found["value"]) if found else 0


def counted(connection: Connection) -> dict[str, int]:
    """Every lasting counter."""
    return {row["name"]: row["value"] for row in every(connection, select(counters))}


def since(connection: Connection, at: datetime, batch_id: str) -> list[Row]:
    """A batch's entries that ended after `at`: for the speed shown while it runs."""
    query = select(ledger).where(ledger.c.batch_id == batch_id, ledger.c.ended_at >= at)
    return every(connection, query)
