"""What operators decided over the plan's head: shifting is frozen, a pool is cordoned or drained. Every server goes by it."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec
from sqlalchemy import Connection, bindparam, delete, select
from sqlalchemy.dialects.postgresql import insert

from batchsched.queue.hot import Hot
from batchsched.queue.tables import overrides

Closed = Literal["cordoned", "drained"]
_PLAN, _POOL = "plan", "pool:"
_FIRST = insert(overrides)  # SQLite writes it in the same words
_PUT = _FIRST.on_conflict_do_update(
    index_elements=[overrides.c.what],
    set_={name: getattr(_FIRST.excluded, name) for name in ("how", "since", "until")},
)
_CLOSED = Hot(select(overrides.c.how).where(overrides.c.what == bindparam("what")))


class Override(msgspec.Struct, frozen=True):
    """One of them. `until`: None where somebody has to lift it."""

    how: str
    since: datetime
    until: datetime | None = None


class Overrides(msgspec.Struct, frozen=True):
    """All that are in force."""

    frozen: Override | None = None
    pools: dict[str, Override] = {}


def active(connection: Connection, now: datetime) -> Overrides:
    """What is in force now."""
    rows = connection.execute(select(overrides)).all()
    found = {row.what: Override(row.how, row.since, row.until) for row in rows if row.until is None or row.until > now}
    pools = {what.removeprefix(_POOL): one for what, one in found.items() if what.startswith(_POOL)}
    return Overrides(found.get(_PLAN), pools)


def closed(connection: Connection, pool: str) -> str | None:
    """How a pool that may lease nothing new was closed; None: it may. Asked at every claim and heartbeat, in its transaction."""
    found = _CLOSED.rows(connection, {"what": _POOL + pool})
    return str(found[0]["how"]) if found else None


def freeze(connection: Connection, now: datetime, until: datetime | None) -> None:
    """Nothing is shifted any more; done again it changes the end."""
    connection.execute(_PUT, {"what": _PLAN, "how": "frozen", "since": now, "until": until})


def unfreeze(connection: Connection) -> None:
    """Shift again; no harm where it was not frozen."""
    connection.execute(delete(overrides).where(overrides.c.what == _PLAN))


def close(connection: Connection, pool: str, how: Closed, now: datetime) -> None:
    """Let a pool lease nothing new; drained, it gives back what it has."""
    connection.execute(_PUT, {"what": _POOL + pool, "how": how, "since": now, "until": None})


def reopen(connection: Connection, pool: str) -> None:
    """Let it lease again; no harm where it might."""
    connection.execute(delete(overrides).where(overrides.c.what == _POOL + pool))
