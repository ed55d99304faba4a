"""Rows as plain dictionaries: what every query here hands out, and what nobody has to know SQLAlchemy for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from sqlalchemy import Connection, Executable

Row = dict[str, Any]


def every(connection: Connection, query: Executable, parameters: Mapping[str, Any] | None = None) -> list[Row]:
    """All rows of a query."""
    return [cast("Row", dict(row)) for row in connection.execute(query, parameters or {}).mappings()]


def first(connection: Connection, query: Executable, parameters: Mapping[str, Any] | None = None) -> Row | None:
    """The first row of a query, if there is one."""
    row = connection.execute(query, parameters or {}).mappings().first()
    return cast("Row", dict(row)) if row is not None else None
