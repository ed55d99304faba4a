"""Rows of a CSV or Parquet file as plain values, with the number of each and what the file says of itself."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from batchsched.errors import InvalidConfiguration, MissingExtra


class Table(msgspec.Struct, frozen=True):
    """`options`: the comment lines `# key: value` before a CSV's header, or pandas' `attrs` in Parquet."""

    where: str
    """Which file, and which line of it the header is, for error messages."""
    header: list[str]
    rows: Iterator[tuple[int, Mapping[str, Any]]]
    options: dict[str, str]


def read_table(path: Path) -> Table:
    """The file's rows, read as they are asked for. Raises InvalidConfiguration, MissingExtra; OSError where there is no file."""
    return _parquet(path) if path.suffix == ".parquet" else _csv(path)


def _csv(path: Path) -> Table:
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise InvalidConfiguration(f"{path} is not UTF-8 text.") from None
    options: dict[str, str] = {}
    body = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    while body and body[0][1].startswith("#"):
        key, _, value = body.pop(0)[1].lstrip("# ").partition(":")
        options[key.strip().lower()] = value.strip()
    body = [(number, line) for number, line in body if not line.startswith("#")]
    header = [name.strip() for name in next(_split([body[0][1]], path))] if body else []
    return Table(f"{path}, line {body[0][0] if body else 1}", header, _cells(body[1:], header, path), options)


def _cells(body: list[tuple[int, str]], header: list[str], path: Path) -> Iterator[tuple[int, Mapping[str, str]]]:
    for (number, _), values in zip(body, _split((line for _, line in body), path), strict=False):
        if len(values) != len(header):
            raise InvalidConfiguration(f"{path}, line {number}: {len(values)} values under {len(header)} columns.")
        yield number, dict(zip(header, values, strict=True))


def _split(lines: Iterable[str], path: Path) -> Iterator[list[str]]:
    try:
        yield from csv.reader(lines)
    except csv.Error as problem:
        raise InvalidConfiguration(f"{path} cannot be read: {problem}.") from None


def _parquet(path: Path) -> Table:
    try:
        import pandas as pd
    except ImportError:
        raise MissingExtra(f"Reading {path} needs pandas.", hint="pip install 'batchsched[server]', or write CSV.") from None
    try:
        frame = pd.read_parquet(path)
    except (ValueError, OSError) as problem:
        raise InvalidConfiguration(f"{path} is not a Parquet file: {problem}.") from None
    header = [str(name) for name in frame.columns]
    columns = (  # plain datetimes: pandas' own are slow one at a time, and nobody else can encode them
        pd.DatetimeIndex(column).to_pydatetime() if pd.api.types.is_datetime64_any_dtype(column) else column.tolist()
        for _, column in frame.items()
    )
    rows = (dict(zip(header, values, strict=True)) for values in zip(*columns, strict=True))
    return Table(str(path), header, enumerate(rows, 1), {str(key): str(value) for key, value in frame.attrs.items()})
