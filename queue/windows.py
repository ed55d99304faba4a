"""Windows that operators made, and what they decided on these and on those of the configuration. Every server goes by it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec
from sqlalchemy import Connection, delete, func, select
from sqlalchemy.dialects.postgresql import insert

from batchsched.errors import Conflict
from batchsched.fleet import PoolWindow
from batchsched.queue.hot import Hot
from batchsched.queue.rows import Row
from batchsched.queue.tables import windows
from batchsched.units import from_iso, iso

_DECIDED = ("paused_at", "paused_until", "skipped", "extended")
_FIRST = insert(windows)  # SQLite writes it in the same words
_PUT = _FIRST.on_conflict_do_update(
    index_elements=[windows.c.name], set_={name: getattr(_FIRST.excluded, name) for name in _DECIDED}
)
_LOCK = 0x77696E64
_ALL = Hot(select(windows).order_by(windows.c.name))


class Decided(msgspec.Struct, frozen=True):
    """What operators decided on a window."""

    paused_at: datetime | None = None
    paused_until: datetime | None = None
    """None: until it is resumed, where it is paused."""
    skipped: frozenset[datetime] = frozenset()
    """Starts by its cron line that open nothing."""
    extended: tuple[tuple[datetime, datetime], ...] = ()
    """In which it is open whatever its cron line says."""


class Kept(msgspec.Struct, frozen=True):
    """What the table has of one name. `window`: None where the configuration declares it."""

    name: str
    window: PoolWindow | None
    decided: Decided


def every(connection: Connection) -> list[Kept]:
    """All of them, by name. Asked at every claim and heartbeat, in its transaction."""
    return [_kept(row) for row in _ALL.rows(connection, {})]


def lock(connection: Connection) -> None:
    """Let decisions follow each other, each to the end of its transaction: none is made on what another is about to change."""
    if connection.dialect.name == "postgresql":  # SQLite has one writer anyway
        connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))


def add(connection: Connection, name: str, window: PoolWindow, now: datetime) -> None:
    """A new one. Raises Conflict where the name is taken."""
    connection.execute(delete(windows).where(windows.c.name == name, windows.c.pool.is_(None)))  # its configuration is gone
    declared = {field: getattr(window, field) for field in PoolWindow.__struct_fields__}
    row = {"name": name, "created_at": now, "skipped": [], "extended": [], **declared}
    if not connection.execute(_FIRST.on_conflict_do_nothing().values(row).returning(windows.c.name)).first():
        raise Conflict(f"There is a window '{name}' already.", param="name", hint="Remove it first, or take another name.")


def decide(connection: Connection, name: str, decided: Decided, now: datetime) -> None:
    """What holds of a window from now on; of one that the configuration declares too. What lies behind is dropped."""
    values = {
        "paused_at": decided.paused_at,
        "paused_until": decided.paused_until,
        "skipped": sorted(map(iso, decided.skipped)),
        "extended": [[iso(since), iso(until)] for since, until in decided.extended],
    }
    connection.execute(_PUT, {"name": name, "created_at": now, **values})


def remove(connection: Connection, name: str) -> None:
    """Forget it, with all that was decided on it."""
    connection.execute(delete(windows).where(windows.c.name == name))


def _kept(row: Row) -> Kept:
    window = None if row["pool"] is None else PoolWindow(**{name: row[name] for name in PoolWindow.__struct_fields__})
    return Kept(row["name"], window, Decided(row["paused_at"], row["paused_until"], _instants(row["skipped"]), _spans(row)))


def _instants(texts: Sequence[str]) -> frozenset[datetime]:
    return frozenset(map(from_iso, texts))


def _spans(row: Row) -> tuple[tuple[datetime, datetime], ...]:
    return tuple((from_iso(since), from_iso(until)) for since, until in row["extended"])
