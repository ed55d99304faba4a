"""Rows of jobs that recur, and of what came of each time. The table is the truth: who looks at it late misses nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, delete, insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from batchsched.errors import Conflict, NotFound
from batchsched.queue.rows import Row, first
from batchsched.queue.rows import every as rows
from batchsched.queue.states import TERMINAL
from batchsched.queue.tables import batches, releases, schedules
from batchsched.queue.tenancy import Tenant, owned

AT_ONCE = 1000
"""Files that one statement asks for: databases bound its parameters."""


def add(connection: Connection, *, tenant: str, name: str, **values: Any) -> None:
    """A new one. Raises Conflict where the name is taken."""
    row = {"tenant": tenant, "name": name, **values}
    if not connection.execute(upsert(schedules).on_conflict_do_nothing().values(row).returning(schedules.c.name)).first():
        raise Conflict(f"There is a schedule '{name}' already.", param="name", hint="Remove it first, or take another name.")


def every(connection: Connection, tenant: Tenant) -> list[Row]:
    """All of a tenant's, by name."""
    return rows(connection, select(schedules).where(owned(schedules, tenant)).order_by(schedules.c.tenant, schedules.c.name))


def get(connection: Connection, tenant: str, name: str, *, lock: bool = False) -> Row:
    """One of them; with `lock`, it stays as it is until this transaction ends. Raises NotFound."""
    query = select(schedules).where(schedules.c.tenant == tenant, schedules.c.name == name)
    row = first(connection, query.with_for_update() if lock else query)
    if row is None:
        raise NotFound(f"There is no schedule '{name[:64]}'.", param="schedule")
    return row


def change(connection: Connection, tenant: str, name: str, **values: Any) -> None:
    """`paused_at`, `looked_at`, `made_by`."""
    connection.execute(update(schedules).where(schedules.c.tenant == tenant, schedules.c.name == name).values(**values))


def remove(connection: Connection, tenant: str, name: str) -> None:
    """Forget it, with its history. Its batches stay."""
    connection.execute(delete(releases).where(releases.c.tenant == tenant, releases.c.schedule == name))
    connection.execute(delete(schedules).where(schedules.c.tenant == tenant, schedules.c.name == name))


def released(connection: Connection, schedule: Row, **values: Any) -> None:
    """Note what came of a time, or of a file of it: `due_at`, `at`, `state`, `file`, `mark`, `batch_id`, `note`."""
    blank = {"file": "", "mark": "", "batch_id": None, "note": ""}
    row = {**blank, "tenant": schedule["tenant"], "schedule": schedule["name"], **values}
    connection.execute(insert(releases).values(row))


def unchanged(connection: Connection, schedule: Row, *, due_at: datetime, at: datetime, note: str) -> None:
    """Note that nothing came of a time, and why; where the last entry says the same, in its place: a folder that is watched by
    the minute would bury what matters."""
    mine = releases.c.tenant == schedule["tenant"], releases.c.schedule == schedule["name"]
    last = first(connection, select(releases).where(*mine).order_by(releases.c.id.desc()).limit(1))
    if last and (last["state"], last["note"]) == ("skipped", note):
        connection.execute(update(releases).where(releases.c.id == last["id"]).values(due_at=due_at, at=at))
    else:
        released(connection, schedule, due_at=due_at, at=at, state="skipped", note=note)


def waits(connection: Connection, schedule: Row, *, due_at: datetime, at: datetime, files: Mapping[str, str]) -> None:
    """Note the files of a time that are not taken yet, each with the reason; notes of this kind on others are over."""
    noted = {row["file"]: row for row in rows(connection, select(releases).where(*_waiting(schedule)))}
    gone = [row["id"] for file, row in noted.items() if file not in files]
    for n in range(0, len(gone), AT_ONCE):
        connection.execute(delete(releases).where(releases.c.id.in_(gone[n : n + AT_ONCE])))
    for file, why in files.items():
        if (row := noted.get(file)) is None:
            released(connection, schedule, due_at=due_at, at=at, state="skipped", file=file, note=why)
        elif (row["due_at"], row["note"]) != (due_at, why):
            since = row["at"] if row["due_at"] == due_at else at
            connection.execute(update(releases).where(releases.c.id == row["id"]).values(due_at=due_at, at=since, note=why))


def waits_since(connection: Connection, schedule: Row, due_at: datetime) -> datetime | None:
    """Since when a time waits for files of its own; None: it does not."""
    found: datetime | None = connection.scalar(
        select(releases.c.at).where(*_waiting(schedule), releases.c.due_at == due_at).order_by(releases.c.at).limit(1)
    )
    return found


def _waiting(schedule: Row) -> list[ColumnElement[bool]]:
    """A file that waits has no mark: of what is still written there is none that lasts."""
    mine = releases.c.tenant == schedule["tenant"], releases.c.schedule == schedule["name"]
    return [*mine, releases.c.state == "skipped", releases.c.file != "", releases.c.mark == ""]


def failed_again(connection: Connection, schedule: Row, *, file: str, mark: str, note: str) -> None:
    """A file that nobody changed is about to fail as before: the new entry is in place of the old one."""
    mine = releases.c.tenant == schedule["tenant"], releases.c.schedule == schedule["name"], releases.c.state == "failed"
    same = releases.c.file == file, releases.c.mark == mark, releases.c.note == note
    connection.execute(delete(releases).where(*mine, *same))


def forget(connection: Connection, before: datetime, limit: int) -> None:
    """Remove the oldest of what is older and became no batch. By what did, new files are told from those that were taken."""
    old = select(releases.c.id).where(releases.c.state.in_(["failed", "skipped"]), releases.c.at < before)
    some = old.order_by(releases.c.at).limit(limit).scalar_subquery()
    connection.execute(delete(releases).where(releases.c.id.in_(some)))


def history(connection: Connection, tenant: str, name: str, limit: int) -> list[Row]:
    """What came of it, newest first."""
    mine = releases.c.tenant == tenant, releases.c.schedule == name
    return rows(connection, select(releases).where(*mine).order_by(releases.c.id.desc()).limit(limit))


def taken(connection: Connection, schedule: Row, marks: Sequence[str]) -> set[str]:
    """Of these files, by their marks, those that became batches already."""
    mine = releases.c.tenant == schedule["tenant"], releases.c.schedule == schedule["name"], releases.c.state == "submitted"
    query = select(releases.c.mark).where(*mine)
    return {
        mark
        for n in range(0, len(marks), AT_ONCE)
        for mark in connection.scalars(query.where(releases.c.mark.in_(marks[n : n + AT_ONCE])))
    }


def seen_to(connection: Connection, schedule: Row, due_at: datetime) -> set[str]:
    """Files of this time of which something came already; one that waits is none."""
    mine = releases.c.tenant == schedule["tenant"], releases.c.schedule == schedule["name"], releases.c.due_at == due_at
    return set(connection.scalars(select(releases.c.file).where(*mine, ~and_(*_waiting(schedule)))))


def at_work(connection: Connection, schedule: Row, other_than: datetime) -> str | None:
    """A batch of an earlier time that has not ended."""
    query = (
        select(batches.c.id)
        .join(releases, releases.c.batch_id == batches.c.id)
        .where(releases.c.tenant == schedule["tenant"], releases.c.schedule == schedule["name"])
        .where(releases.c.due_at != other_than, batches.c.state.not_in(list(TERMINAL)))
    )
    found: str | None = connection.scalar(query.limit(1))
    return found
