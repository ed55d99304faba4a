"""Rows as plain dictionaries: what every query here hands out, and what nobody has to know SQLAlchemy for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Select

Row = dict[str, Any]


def every(connection: Connection, query: Select[Any], parameters: Mapping[str, Any] | None = None) -> list[Row]:
    """All rows of a query."""
    return [dict(row._mapping) for row in connection.execute(query, parameters or {})]


def first(connection: Connection, query: Select[Any]) -> Row | None:
    """The first row of a query, if there is one."""
    row = connection.execute(query).first()
    return dict(row._mapping) if row is not None else None
