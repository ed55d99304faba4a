"""Two runs of a simulation beside each other, line by line: from the tables that `--out` wrote."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from batchsched.errors import InvalidValue
from batchsched.simulate.records import ABOUT, TABLES
from batchsched.units import kwh

if TYPE_CHECKING:
    from pandas import DataFrame

AT = {"decisions": "made_s", "leases": "at_s", "completions": "came_s", "work": "at_s"}
"""The time of a line, in seconds from the start."""
NUMBERS = ("plan", "chunk", "token")
"""Columns that only count: a plan or a lease more shifts them in all later lines."""
Line = dict[str, Any]


class TableDiff(msgspec.Struct, frozen=True):
    """Lines of a table in each run, and those that both have. `first_s`: when the first one comes that only one has."""

    table: str
    lines: tuple[int, int]
    in_both: int
    first_s: float | None
    first: tuple[Line | None, Line | None]


class PoolDiff(msgspec.Struct, frozen=True):
    """What a pool took in each run."""

    pool: str
    kwh: tuple[float, float]
    grams: tuple[float, float]


class BatchDiff(msgspec.Struct, frozen=True):
    """A batch that did not come to the same; None where a run lacks it, or did not finish it. Grams are those of its own work."""

    batch: str
    grams: tuple[float | None, float | None]
    finished_s: tuple[float | None, float | None]


class Comparison(msgspec.Struct, frozen=True):
    """`about`: what each was a run of; `batches`: those that differ, the greatest difference of grams first."""

    about: tuple[Line, Line]
    tables: list[TableDiff]
    pools: list[PoolDiff]
    batches: list[BatchDiff]

    @property
    def same(self) -> bool:
        """Is every line of one in the other?"""
        return all(one.lines == (one.in_both, one.in_both) for one in self.tables)


def compared(one: Path, other: Path) -> Comparison:
    """Of two folders that `--out` wrote, each of one policy. Raises InvalidValue where they are no such, or begin at different
    times."""
    about = _about(one), _about(other)
    if about[0].get("start") != about[1].get("start"):
        raise InvalidValue(
            f"The two runs begin at different times ({about[0].get('start')} and {about[1].get('start')}): their lines cannot be "
            "held against each other."
        )
    frames = {name: (_table(one, name), _table(other, name)) for name in TABLES}
    tables = [_table_diff(name, *both) for name, both in frames.items()]
    return Comparison(about, tables, _pools(*frames["work"]), _batches(*frames["completions"]))


def _about(folder: Path) -> Line:
    path = folder / ABOUT
    if path.is_file():
        found: Line = json.loads(path.read_text())
        return found
    inside = sorted(each.parent.name for each in folder.glob(f"*/{ABOUT}"))
    raise InvalidValue(
        f"{folder} is no folder of one policy's run ({ABOUT} is missing).",
        hint=f"Name one of those in it: {', '.join(inside)}." if inside else "Make one with `batchsched simulate --out FOLDER`.",
    )


def _table(folder: Path, name: str) -> DataFrame:
    import pandas as pd

    path = folder / f"{name}.parquet"
    if not path.is_file():
        raise InvalidValue(f"{path} is missing; simulate again with --out.")
    return pd.read_parquet(path)


def _lines(frame: DataFrame) -> Iterable[Line]:
    """Its rows; what is missing is None."""
    plain = frame.drop(columns=[name for name in NUMBERS if name in frame.columns]).astype(object)
    names = [str(name) for name in plain.columns]
    return (dict(zip(names, row, strict=True)) for row in plain.where(plain.notna(), None).itertuples(index=False, name=None))


def _table_diff(name: str, one: DataFrame, other: DataFrame) -> TableDiff:
    rows = [tuple(line.items()) for line in _lines(one)], [tuple(line.items()) for line in _lines(other)]
    counted = Counter(rows[0]), Counter(rows[1])
    alone = counted[0] - counted[1], counted[1] - counted[0]
    found = tuple(_earliest(name, each) for each in alone)
    times = [line[AT[name]] for line in found if line is not None]
    return TableDiff(
        name,
        (len(rows[0]), len(rows[1])),
        (counted[0] & counted[1]).total(),
        min(times, default=None),
        (found[0], found[1]),
    )


def _earliest(name: str, rows: Iterable[tuple[tuple[str, Any], ...]]) -> Line | None:
    found = [dict(row) for row in rows]
    return min(found, key=lambda line: line[AT[name]], default=None)


def _pools(one: DataFrame, other: DataFrame) -> list[PoolDiff]:
    sums = [frame.groupby("pool")[["energy_j", "grams"]].sum().to_dict("index") for frame in (one, other)]
    nothing = {"energy_j": 0.0, "grams": 0.0}
    found: list[PoolDiff] = []
    for pool in sorted({str(name) for each in sums for name in each}):
        mine, theirs = (each.get(pool, nothing) for each in sums)
        energy = kwh(float(mine["energy_j"])), kwh(float(theirs["energy_j"]))
        found.append(PoolDiff(pool, energy, (float(mine["grams"]), float(theirs["grams"]))))
    return found


def _batches(one: DataFrame, other: DataFrame) -> list[BatchDiff]:
    mine, theirs = ({str(line["batch"]): line for line in _lines(frame)} for frame in (one, other))
    none: Line = {"grams": None, "finished_s": None}
    found: list[BatchDiff] = []
    for name in sorted({*mine, *theirs}):
        a, b = mine.get(name, none), theirs.get(name, none)
        if a != b:
            found.append(BatchDiff(name, (a["grams"], b["grams"]), (a["finished_s"], b["finished_s"])))
    return sorted(found, key=lambda each: -abs((each.grams[0] or 0.0) - (each.grams[1] or 0.0)))
