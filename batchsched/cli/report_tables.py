"""The tables of `batchsched report`: slices, books, meters; on the screen, and as files for other programs."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast, get_args

import click
import msgspec

from batchsched.cli.common import energy, grams, need, print_json, print_table, say

if TYPE_CHECKING:
    from batchsched.client import Client, Report
    from batchsched.client.calls import SliceBy
    from batchsched.client.results import Band, BookEntry, PoolEnergy, RequestShare, Slice

SLICES = ("batch", "tenant", "pool", "site", "chunk", "request")
FORMATS = (".csv", ".json", ".parquet")


class Table(NamedTuple):
    """Headings, how a row is shown under them, and the rows. `empty` is said where there are none."""

    headings: Sequence[str]
    cells: Callable[[Any], Sequence[str]]
    rows: Sequence[msgspec.Struct]
    empty: str

    def show(self, as_json: bool) -> None:
        """Print it; as JSON, one object a line."""
        if as_json:
            for row in self.rows:
                print_json(row)
        elif self.rows:
            print_table(self.headings, map(self.cells, self.rows))
        else:
            say(self.empty)

    def write(self, path: Path) -> None:
        """Every column of every row into a file; what lies deeper gets a name with an underscore."""
        records = [dict(_flat(type(row), row)) for row in self.rows]
        if path.suffix == ".json":
            path.write_text(json.dumps(records, indent=1) + "\n")
        elif path.suffix == ".parquet":
            import pandas as pd

            pd.DataFrame(records).to_parquet(path, index=False)
        else:
            with path.open("w", newline="") as handle:
                writer = csv.DictWriter(handle, list(records[0]) if records else ())
                writer.writeheader()
                writer.writerows(records)
        say(f"{len(records)} rows are in {path}.")


def check_export(path: Path | None) -> None:
    """Refuse a name of no known kind before anything is asked."""
    if path and path.suffix not in FORMATS:
        raise click.UsageError(f"--export needs a name that ends in {', '.join(FORMATS)}.")
    if path and path.suffix == ".parquet":
        need("server")


def table_of(
    client: Client,
    batch_id: str | None,
    by: str | None,
    start: datetime | None,
    end: datetime | None,
    *,
    books: bool,
    meters: bool,
) -> Table | None:
    """The table that was asked for; None where it is the report itself."""
    if sum([books, meters, by is not None]) > 1:
        raise click.UsageError("--by, --books and --meters exclude each other.")
    if (books or by == "request") and not batch_id:
        raise click.UsageError(f"{'--books' if books else '--by request'} needs a batch ID.")
    heads: Sequence[str]
    if books and batch_id:
        heads = ("entered", "pool", "hour", "kind", "energy", "g/kWh", "CO2e", "why")
        empty = "Nothing is booked yet: the books are written when a batch has ended."
        return Table(heads, _booked, client.batches.books(batch_id).entries, empty)
    if meters:
        heads = ("pool", "metered", "charged", "idle", "waste", "others", "unaccounted", "idle CO2e", "waste CO2e")
        return Table(heads, _metered, client.meters(start, end), "No meter has told anything yet.")
    if by == "request" and batch_id:
        heads = ("request", "in", "out", "energy", "CO2e", "embodied (low / mid / high)")
        return Table(heads, _request, list(client.batches.request_shares(batch_id)), "It has no requests.")
    if by:
        heads = (by, "requests", "tokens", "energy", "CO2e", "embodied (low / mid / high)", "SCI a request", "SCI 1,000 tokens")
        found = client.slices(cast("SliceBy", by), batch_id=batch_id, start=start, end=end)
        return Table(heads, _sliced, found, "Nothing ran yet.")
    return None


def rows_of(report: Report) -> Table:
    """The rows of a report, for a file."""
    return Table((), lambda _: (), report.rows, "")


def _flat(kind: type[msgspec.Struct], row: Any, before: str = "") -> Iterable[tuple[str, Any]]:
    """Names and values of all that a kind of row may have, so that every row has the same columns, the unknown ones empty."""
    for field in msgspec.structs.fields(kind):
        value = None if row is None else getattr(row, field.name)
        deeper = next((one for one in (field.type, *get_args(field.type)) if _is_struct(one)), None)
        if deeper:
            yield from _flat(deeper, value, f"{before}{field.name}_")
        else:
            yield f"{before}{field.name}", msgspec.to_builtins(value)


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def clock(at: datetime) -> str:
    """Day and time of the machine's zone."""
    return at.astimezone().strftime("%m-%d %H:%M:%S")


def band(value: Band | None) -> str:
    """Low, mid and high grams."""
    return " / ".join(grams(part) for part in (value.low, value.mid, value.high)) if value else "unknown"


def _sliced(row: Slice) -> Sequence[str]:
    score = row.sci
    tokens = row.input_tokens + row.output_tokens
    return (
        row.name, f"{row.requests:,}", f"{tokens:,}", energy(row.energy_j), grams(row.operational_g), band(row.embodied_g),
        band(score.g_per_request if score else None), band(score.g_per_1000_tokens if score else None),
    )  # fmt: skip


def _request(row: RequestShare) -> Sequence[str]:
    counts = f"{row.input_tokens:,}", f"{row.output_tokens:,}"
    return row.custom_id, *counts, energy(row.energy_j), grams(row.operational_g), band(row.embodied_g)


def _metered(row: PoolEnergy) -> Sequence[str]:
    joules = (row.metered_j, row.charged_j, row.idle_j, row.waste_j, row.others_j, row.unaccounted_j)
    return row.pool, *map(energy, joules), grams(row.idle_g), grams(row.waste_g)


def _booked(entry: BookEntry) -> Sequence[str]:
    mean = entry.intensity_g_per_kwh
    return (
        clock(entry.posted_at),
        entry.pool,
        f"{entry.hour.astimezone():%m-%d %H:%M}",
        entry.kind,
        energy(entry.energy_j),
        "unknown" if mean is None else f"{mean:.0f}",
        grams(entry.grams),
        entry.why,
    )
