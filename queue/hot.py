"""Statements on hot paths: compiled once for each kind of database, then run on the driver's own cursor.

What SQLAlchemy does anew for every execution costs about as much as the database's own work on one row; over a claim and an
acknowledgement that is a tenth of the time. The text, the types and the transaction stay SQLAlchemy's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import ColumnDefault, Connection, Dialect, Executable, Table, bindparam, insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.types import TypeEngine

from batchsched.queue.rows import Row

Processor = Callable[[Any], Any]


class _Compiled(NamedTuple):
    text: str
    fixed: dict[str, Any]
    bind: dict[str, Processor]
    columns: list[tuple[str, TypeEngine[Any]]]
    names: list[str]
    """Of the columns."""

    def bound(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """What the driver is given."""
        bound = {**self.fixed, **parameters}
        for name, processor in self.bind.items():
            bound[name] = processor(bound[name])
        return bound


class Hot:
    """A statement whose every parameter is given by name. It begins no transaction: a Database's blocks have begun theirs."""

    def __init__(self, statement: Executable) -> None:
        self.statement = statement
        self._compiled: dict[str, _Compiled] = {}
        self._reads: dict[str, list[tuple[str, Processor]]] = {}

    def rows(self, connection: Connection, parameters: Mapping[str, Any]) -> list[Row]:
        """Run it; what it returns."""
        made = self._for(connection.dialect)
        cursor = self._run(connection, "execute", made.text, made.bound(parameters))
        found = [dict(zip(made.names, row, strict=True)) for row in cursor.fetchall()]
        if (reads := self._reads.get(connection.dialect.name)) is None:  # PostgreSQL's processors hang on the types that come
            reads = self._reads[connection.dialect.name] = _reading(made, connection.dialect, cursor.description)
        for name, processor in reads:
            for row in found:
                row[name] = processor(row[name])
        return found

    def first(self, connection: Connection, parameters: Mapping[str, Any]) -> Row | None:
        """The first row that it returns, if it returns any."""
        found = self.rows(connection, parameters)
        return found[0] if found else None

    def changed(self, connection: Connection, several: Sequence[Mapping[str, Any]]) -> int:
        """Run it once for each; how many rows it changed."""
        made = self._for(connection.dialect)
        bound = [made.bound(parameters) for parameters in several]
        one = len(bound) == 1
        cursor = self._run(connection, "execute" if one else "executemany", made.text, bound[0] if one else bound)
        return int(cursor.rowcount)

    def _run(self, connection: Connection, how: str, text: str, bound: Any) -> Any:
        """Raises what SQLAlchemy would raise."""
        cursor: Any = connection.connection.cursor()
        try:
            getattr(cursor, how)(text, bound)
        except connection.dialect.loaded_dbapi.Error as problem:
            raise DBAPIError.instance(text, None, problem, connection.dialect.loaded_dbapi.Error) from problem
        return cursor

    def _for(self, dialect: Dialect) -> _Compiled:
        if dialect.name not in self._compiled:
            self._compiled[dialect.name] = _compile(self.statement, dialect)
        return self._compiled[dialect.name]


def enter(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows that all name the same columns; the others have their defaults."""
    if rows:
        names = tuple(rows[0])
        _entering(table, names).changed(connection, [{f"new_{name}": row[name] for name in names} for row in rows])


@cache
def _entering(table: Table, names: tuple[str, ...]) -> Hot:
    return Hot(insert(table).inline().values({name: bindparam(f"new_{name}") for name in names}))


def _compile(statement: Executable, dialect: Dialect) -> _Compiled:
    style = dialect.paramstyle if dialect.paramstyle == "pyformat" else "named"
    make: Any = type(dialect)
    compiled = statement.compile(dialect=make(paramstyle=style))  # type: ignore[attr-defined]
    assert isinstance(compiled, SQLCompiler)
    defaults = {
        column.name: column.default.arg for column in compiled.insert_prefetch if isinstance(column.default, ColumnDefault)
    }
    fixed: dict[str, Any] = {}
    bind: dict[str, Processor] = {}
    for item, name in compiled.bind_names.items():
        processor = item.type.dialect_impl(dialect).bind_processor(dialect)
        if not item.required:
            value = defaults.get(name, item.effective_value)
            value = value(None) if callable(value) else value  # an empty list or mapping
            fixed[name] = processor(value) if processor else value
        elif processor:
            bind[name] = processor
    columns = [(column.name, column.type.dialect_impl(dialect)) for column in getattr(statement, "exported_columns", [])]
    return _Compiled(str(compiled), fixed, bind, columns, [name for name, _ in columns])


def _reading(made: _Compiled, dialect: Dialect, description: Sequence[Any]) -> list[tuple[str, Processor]]:
    """What the driver's values of each column must go through; `description`: of its cursor."""
    typed = zip(made.columns, description, strict=True)
    return [(name, step) for (name, known), (_, code, *_) in typed if (step := known.result_processor(dialect, code))]
