"""Results one by one, and as tables. pandas, polars and pyarrow are imported only where they are asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from batchsched.errors import MissingExtra

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa


class Recorded(Protocol):
    """What a row of a table can be made of."""

    def record(self) -> dict[str, Any]:
        """Values by column; those that have none are None."""
        ...


T = TypeVar("T", bound=Recorded)


class Results(Generic[T]):
    """An iterator over results, to be read once: one by one, or the rest of them as a table."""

    def __init__(self, source: Iterator[T]) -> None:
        self._source = source

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        return next(self._source)

    def to_pandas(self) -> pd.DataFrame:
        """A row for each. Raises MissingExtra where pandas is not installed."""
        return pandas_frame(result.record() for result in self._source)

    def to_polars(self) -> pl.DataFrame:
        """A row for each. Raises MissingExtra where polars is not installed."""
        return polars_frame(result.record() for result in self._source)

    def to_arrow(self) -> pa.Table:
        """A row for each. Raises MissingExtra where pyarrow is not installed."""
        return arrow_table(result.record() for result in self._source)


class AsyncResults(Generic[T]):
    """The same for asyncio."""

    def __init__(self, source: AsyncIterator[T]) -> None:
        self._source = source

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        return await anext(self._source)

    async def to_pandas(self) -> pd.DataFrame:
        """A row for each. Raises MissingExtra where pandas is not installed."""
        needed("pandas")
        return pandas_frame([result.record() async for result in self._source])

    async def to_polars(self) -> pl.DataFrame:
        """A row for each. Raises MissingExtra where polars is not installed."""
        needed("polars")
        return polars_frame([result.record() async for result in self._source])

    async def to_arrow(self) -> pa.Table:
        """A row for each. Raises MissingExtra where pyarrow is not installed."""
        needed("pyarrow")
        return arrow_table([result.record() async for result in self._source])


def pandas_frame(records: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Raises MissingExtra, before a record is read."""
    pandas = needed("pandas")
    columns = _columns(records)
    whole = {name: "Int64" for name in INTEGERS if name in columns}  # integers that may be missing stay integers
    frame: pd.DataFrame = pandas.DataFrame(columns).astype(whole)
    return frame


def polars_frame(records: Iterable[dict[str, Any]]) -> pl.DataFrame:
    """Raises MissingExtra, before a record is read."""
    polars = needed("polars")
    columns = _columns(records)
    kinds = {name: polars.Int64 if name in INTEGERS else polars.String for name in columns if name != "embedding"}
    frame: pl.DataFrame = polars.DataFrame(columns, schema_overrides=kinds)
    return frame


def arrow_table(records: Iterable[dict[str, Any]]) -> pa.Table:
    """Raises MissingExtra, before a record is read."""
    arrow = needed("pyarrow")
    columns = _columns(records)
    kinds = {name: arrow.int64() if name in INTEGERS else arrow.string() for name in columns if name != "embedding"}
    return arrow.table({name: arrow.array(values, type=kinds.get(name)) for name, values in columns.items()})


INTEGERS = ("index", "status_code", "input_tokens", "output_tokens")


def _columns(records: Iterable[dict[str, Any]]) -> dict[str, list[Any]]:
    """Values by column, None where a record has none."""
    columns: dict[str, list[Any]] = {}
    for number, record in enumerate(records):
        for name in record:
            if name not in columns:
                columns[name] = [None] * number
        for name, values in columns.items():
            values.append(record.get(name))
    return columns


def needed(library: str) -> Any:
    """The library. Raises MissingExtra where it is not installed."""
    try:
        return import_module(library)
    except ImportError as problem:
        if problem.name != library:
            raise
        raise MissingExtra(f"{library} is not installed, which makes the table.", hint=f"pip install {library}") from None
