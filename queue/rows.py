"""Rows as plain dictionaries: what every query here hands out, and what nobody has to know SQLAlchemy for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, cast

from sqlalchemy import BigInteger, ColumnElement, Connection, Executable, Table, extract, literal, literal_column, tuple_
from sqlalchemy import cast as cast_to

Row = dict[str, Any]


def every(connection: Connection, query: Executable, parameters: Mapping[str, Any] | None = None) -> list[Row]:
    """All rows of a query."""
    found = connection.execute(query, parameters or {})
    names = list(found.keys())
    return [dict(zip(names, row, strict=True)) for row in found]  # five times as fast as a mapping made for each row


def first(connection: Connection, query: Executable, parameters: Mapping[str, Any] | None = None) -> Row | None:
    """The first row of a query, if there is one."""
    row = connection.execute(query, parameters or {}).mappings().first()
    return cast("Row", dict(row)) if row is not None else None


def beyond(table: Table, mark: Row, *, newest_first: bool) -> ColumnElement[bool]:
    """What comes after `mark` in the order of age: one comparison, which an index over (created_at, id) can begin at."""
    age, place = (table.c.created_at, table.c.id), (mark["created_at"], mark["id"])
    there = tuple_(*(literal(value, column.type) for value, column in zip(place, age, strict=True)))
    return tuple_(*age) < there if newest_first else tuple_(*age) > there


def by_batch(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows by their `batch_id`, in their order."""
    found: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[row["batch_id"]].append(row)
    return dict(found)


def step_of(at: ColumnElement[datetime], step_s: int) -> ColumnElement[int]:
    """When the step began that an instant lies in, in seconds since 1970; steps follow each other from there."""
    seconds = extract("epoch", at)
    step: ColumnElement[int] = literal_column(str(step_s))  # PostgreSQL would take two parameters for two things to group by
    return cast_to(seconds - seconds % step, BigInteger)
