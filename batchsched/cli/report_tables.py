"""The tables of `batchsched report`: slices, books, meters; on the screen, and as files for other programs."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast, get_args, get_origin

import click
import msgspec

from batchsched.cli.common import energy, grams, need, print_json, print_table, say

if TYPE_CHECKING:
    from batchsched.client import Client, Report
    from batchsched.client.calls import SliceBy
    from batchsched.client.results import Band, BookEntry, Cost, Part, PoolEnergy, RequestShare, Slice

SLICES = ("batch", "tenant", "pool", "site", "chunk", "request")
PARTS = ("loading", "idle", "network", "storage", "waste")
FORMATS = (".csv", ".json", ".parquet")


class Columns(NamedTuple):
    """Headings, and how a row is shown under them."""

    headings: Sequence[str]
    cells: Callable[[Any], Sequence[str]]


class Table(NamedTuple):
    """Rows, and one or several sets of columns that they are shown in. `empty` is said where there are no rows."""

    columns: Sequence[Columns]
    rows: Sequence[msgspec.Struct]
    empty: str
    notes: Sequence[str] = ()

    def show(self, as_json: bool) -> None:
        """Print it; as JSON, one object a line."""
        if as_json:
            for row in self.rows:
                print_json(row)
        elif self.rows:
            for number, (headings, cells) in enumerate(self.columns):
                if number:
                    click.echo()
                print_table(headings, map(cells, self.rows))
        else:
            say(self.empty)
        for note in self.notes:
            say(f"Note: {note}")

    def write(self, path: Path) -> None:
        """Every column of every row into a file; what lies deeper gets a name with an underscore."""
        records = [dict(_flat(type(row), row)) for row in self.rows]
        cells = [{name: _text(value) for name, value in record.items()} for record in records]
        if path.suffix == ".json":
            path.write_text(json.dumps(records, indent=1) + "\n")
        elif path.suffix == ".parquet":
            import pandas as pd

            pd.DataFrame(cells).to_parquet(path, index=False)
        else:
            with path.open("w", newline="") as handle:
                writer = csv.DictWriter(handle, list(cells[0]) if cells else ())
                writer.writeheader()
                writer.writerows({name: _rounded(value) for name, value in row.items()} for row in cells)
        say(f"{len(records)} rows are in {path}.")


def check_export(path: Path | None) -> None:
    """Say what is missing for the file's form before anything is asked."""
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
        return Table([Columns(heads, _booked)], client.batches.books(batch_id).entries, empty)
    if meters:
        heads = ("pool", "metered", "modelled", "charged", "idle", "waste", "others", "forgotten", "unaccounted", *_GRAMS)
        return Table([Columns(heads, _metered)], client.meters(start, end), "No meter has told anything yet.")
    if by == "request" and batch_id:
        shares = list(client.batches.request_shares(batch_id))
        return Table([Columns(("request", "in", "out", *_COST), _request)], shares, "It has no requests.")
    if by:
        found = client.slices(cast("SliceBy", by), batch_id=batch_id, start=start, end=end)
        took = Columns((by, "requests", "tokens", "model", *_COST), _sliced)
        scores = Columns((by, *PARTS, "SCI a request", "SCI 1,000 tokens"), _beside)
        return Table([took, scores], found, "Nothing ran yet.", found.notes)
    return None


def rows_of(report: Report) -> Table:
    """The rows of a report, for a file."""
    return Table((), report.rows, "")


def _flat(kind: type[msgspec.Struct], row: Any, before: str = "") -> Iterable[tuple[str, Any]]:
    """Names and values of all that a kind of row may have, so that every row has the same columns, the unknown ones empty."""
    fields = msgspec.structs.fields(kind)
    for field in sorted(fields, key=lambda field: field.name not in kind.__annotations__):  # whose it is, then what it cost
        value = None if row is None else getattr(row, field.name)
        kinds = () if get_origin(field.type) is tuple else (field.type, *get_args(field.type))
        deeper = next((one for one in kinds if _is_struct(one)), None)
        if deeper:
            yield from _flat(deeper, value, f"{before}{field.name}_")
        else:
            yield f"{before}{field.name}", msgspec.to_builtins(value)


def _text(value: Any) -> Any:
    """A cell: what has parts of its own as JSON."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | tuple | dict) else value


def _rounded(value: Any) -> Any:
    """A number without the noise of its last binary digits."""
    return float(f"{value:.12g}") if isinstance(value, float) else value


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def clock(at: datetime) -> str:
    """Day and time of the machine's zone."""
    return at.astimezone().strftime("%m-%d %H:%M:%S")


def measured(energy_j: float | None, unmeasured_s: float) -> str:
    """Joules; with a mark where there are more that nothing measured."""
    if not unmeasured_s:
        return energy(energy_j)
    return f"{energy(energy_j)} +" if energy_j else "unknown"


def band(value: Band | None) -> str:
    """Low, mid and high grams."""
    return " / ".join(grams(part) for part in (value.low, value.mid, value.high)) if value else "unknown"


def _sliced(row: Slice) -> Sequence[str]:
    tokens = row.input_tokens + row.output_tokens
    return row.name, f"{row.requests:,}", f"{tokens:,}", ", ".join(row.models), *_cost(row)


def _beside(row: Slice) -> Sequence[str]:
    score = row.sci
    return (
        row.name, *(_part(getattr(row, part)) for part in PARTS),
        band(score.g_per_request if score else None), band(score.g_per_1000_tokens if score else None),
    )  # fmt: skip


def _part(part: Part | None) -> str:
    """Its grams; with a mark where there are more that nobody knows."""
    if part is None or part.g is None:
        return "unknown"
    return grams(part.g) + ("" if part.complete else " +")


_COST = ("energy", "how known", "PUE", "g/kWh", "CO2e", "embodied (low / mid / high)")


def _cost(row: Cost) -> Sequence[str]:
    pue = "unknown" if row.pue is None else f"{row.pue:.3g}"
    grid = "unknown" if row.intensity_g_per_kwh is None else f"{row.intensity_g_per_kwh:.0f}"
    more = " +" if row.operational_g is not None and (row.unknown_energy_j or row.unmeasured_s) else ""
    joules = measured(row.energy_j, row.unmeasured_s)
    return joules, _known(row), pue, grid, grams(row.operational_g) + more, band(row.embodied_g)


def _known(row: Cost) -> str:
    """The meters and models, several with their shares of the energy."""
    sources = sorted(row.energy_by_source.items(), key=lambda item: -item[1])
    if len(sources) == 1:
        return sources[0][0]
    return ", ".join(f"{joules / row.energy_j:.0%} {name}" for name, joules in sources if row.energy_j) or "unknown"


def _request(row: RequestShare) -> Sequence[str]:
    return row.custom_id, f"{row.input_tokens:,}", f"{row.output_tokens:,}", *_cost(row)


def _metered(row: PoolEnergy) -> Sequence[str]:
    joules = (row.metered_j, row.modelled_j, row.charged_j, row.idle_j, row.waste_j, row.others_j, row.forgotten_j)
    cost = (row.idle_g, row.waste_g, row.forgotten_g)
    return row.pool, *map(energy, joules), energy(row.unaccounted_j), *map(grams, cost)


_GRAMS = ("idle CO2e", "waste CO2e", "forgotten CO2e")


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
