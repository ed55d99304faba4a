"""Statements on hot paths: compiled once for each kind of database, then run on the driver's own cursor.

What SQLAlchemy does anew for every execution costs about as much as the database's own work on one row; over a claim and an
acknowledgement that is a tenth of the time. The text, the types and the transaction stay SQLAlchemy's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Dialect, Executable
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.compiler import SQLCompiler

from batchsched.queue.rows import Row

Processor = Callable[[Any], Any]


class _Compiled(NamedTuple):
    text: str
    fixed: dict[str, Any]
    bind: dict[str, Processor]
    names: list[str]
    read: list[tuple[str, Processor]]

    def bound(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """What the driver is given."""
        bound = {**self.fixed, **parameters}
        for name, processor in self.bind.items():
            bound[name] = processor(bound[name])
        return bound


class Hot:
    """A statement whose every parameter is given by name, for `write()` and `statement()` blocks: it begins no transaction."""

    def __init__(self, statement: Executable) -> None:
        self.statement = statement
        self._compiled: dict[str, _Compiled] = {}

    def rows(self, connection: Connection, parameters: Mapping[str, Any]) -> list[Row]:
        """Run it; what it returns."""
        made = self._for(connection.dialect)
        cursor = self._run(connection, "execute", made.text, made.bound(parameters))
        found = [dict(zip(made.names, row, strict=True)) for row in cursor.fetchall()]
        for name, processor in made.read:
            for row in found:
                row[name] = processor(row[name])
        return found

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


def _compile(statement: Executable, dialect: Dialect) -> _Compiled:
    style = dialect.paramstyle if dialect.paramstyle == "pyformat" else "named"
    make: Any = type(dialect)
    compiled = statement.compile(dialect=make(paramstyle=style))  # type: ignore[attr-defined]
    assert isinstance(compiled, SQLCompiler)
    fixed: dict[str, Any] = {}
    bind: dict[str, Processor] = {}
    for item, name in compiled.bind_names.items():
        processor = item.type.dialect_impl(dialect).bind_processor(dialect)
        if not item.required:
            fixed[name] = processor(item.effective_value) if processor else item.effective_value
        elif processor:
            bind[name] = processor
    columns = [(column.name, column.type.dialect_impl(dialect)) for column in getattr(statement, "exported_columns", [])]
    read = [(name, processor) for name, known in columns if (processor := known.result_processor(dialect, None))]
    return _Compiled(str(compiled), fixed, bind, [name for name, _ in columns], read)
