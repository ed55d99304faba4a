"""What operators decided over the plan's head: shifting is frozen, a pool is cordoned or drained. Every server goes by it."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Literal

import msgspec
from sqlalchemy import Connection, bindparam, delete, or_, select
from sqlalchemy.dialects.postgresql import insert

from batchsched.queue.hot import Hot
from batchsched.queue.tables import overrides

Closed = Literal["cordoned", "drained"]
_PLAN, _POOL = "plan", "pool:"
_SAID = "%d %b %H:%M UTC"
_FIRST = insert(overrides)  # SQLite writes it in the same words
_PUT = _FIRST.on_conflict_do_update(
    index_elements=[overrides.c.what],
    set_={name: getattr(_FIRST.excluded, name) for name in ("how", "since", "until")},
)
_CLOSED = Hot(
    select(overrides.c.how).where(
        overrides.c.what == bindparam("what"),
        overrides.c.since <= bindparam("now"),
        or_(overrides.c.until.is_(None), overrides.c.until > bindparam("now")),
    )
)


class Override(msgspec.Struct, frozen=True):
    """One of them, from `since` on. `until`: None where somebody has to lift it."""

    how: str
    since: datetime
    until: datetime | None = None

    @property
    def span(self) -> str:
        """For people."""
        ends = f" until {self.until:{_SAID}}" if self.until else ""
        return f"{self.since:{_SAID}}{ends}"


class Overrides(msgspec.Struct, frozen=True):
    """All that are in force, and the closings that are to come."""

    frozen: Override | None = None
    pools: dict[str, Override] = {}
    """Closed now."""
    ahead: dict[str, Override] = {}
    """To be closed later."""

    def for_good(self) -> set[str]:
        """Pools that are closed now and do not open by themselves."""
        return {name for name, one in self.pools.items() if one.until is None}

    def remarks(self, pools: Collection[str] | None = None) -> list[str]:
        """Sentences on pools that are closed or will be; `pools`: only these."""
        said = {name: f"is {one.how} since {one.span}: nothing is planned there." for name, one in self.pools.items()}
        said |= {name: f"will be {one.how} from {one.span}: nothing is planned there then." for name, one in self.ahead.items()}
        return [f"Pool {name} {what}" for name, what in said.items() if pools is None or name in pools]

    def open_between(self, pool: str, start: datetime, end: datetime) -> list[tuple[datetime, datetime]]:
        """What these leave of a stretch of time."""
        one = self.pools.get(pool) or self.ahead.get(pool)
        if one is None:
            return [(start, end)]
        parts = [(start, min(end, one.since)), (max(start, one.until), end) if one.until else (end, end)]
        return [(since, until) for since, until in parts if since < until]


def active(connection: Connection, now: datetime) -> Overrides:
    """What is in force now, or will be."""
    rows = connection.execute(select(overrides)).all()
    found = {row.what: Override(row.how, row.since, row.until) for row in rows if row.until is None or row.until > now}
    pools = {what.removeprefix(_POOL): one for what, one in found.items() if what.startswith(_POOL)}
    ahead = {name: one for name, one in pools.items() if one.since > now}
    return Overrides(found.get(_PLAN), {name: one for name, one in pools.items() if name not in ahead}, ahead)


def closed(connection: Connection, pool: str, now: datetime) -> str | None:
    """How a pool that may lease nothing new is closed; None: it may. Asked at every claim and heartbeat, in its transaction."""
    found = _CLOSED.rows(connection, {"what": _POOL + pool, "now": now})
    return str(found[0]["how"]) if found else None


def freeze(connection: Connection, now: datetime, until: datetime | None) -> None:
    """Nothing is shifted any more; done again it changes the end."""
    connection.execute(_PUT, {"what": _PLAN, "how": "frozen", "since": now, "until": until})


def unfreeze(connection: Connection) -> None:
    """Shift again; no harm where it was not frozen."""
    connection.execute(delete(overrides).where(overrides.c.what == _PLAN))


def close(connection: Connection, pool: str, how: Closed, since: datetime, until: datetime | None = None) -> None:
    """Let a pool lease nothing new from then on; drained, it gives back what it has. It takes the place of an earlier closing."""
    connection.execute(_PUT, {"what": _POOL + pool, "how": how, "since": since, "until": until})


def reopen(connection: Connection, pool: str) -> None:
    """Let it lease again; no harm where it might."""
    connection.execute(delete(overrides).where(overrides.c.what == _POOL + pool))
