"""`batchsched report`: energy, grams and savings for people."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchsched.cli.common import Connect, grams, json_option, print_facts, print_json, print_table, server_options

if TYPE_CHECKING:
    from batchsched.client import Report
    from batchsched.client.results import Band, BookEntry, Row, Saving


@click.command()
@click.argument("batch_id", metavar="[ID]", required=False)
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Also write an image (.png or .svg) of one batch.")
@click.option("--books", is_flag=True, help="The entries of one batch's books instead, with every correction.")
@json_option
@server_options
def report(
    batch_id: str | None,
    plot: Path | None,
    books: bool,
    as_json: bool,
    connect: Connect,
) -> None:
    """Energy, grams and savings of one batch, or of all where no ID is given."""
    if plot and (not batch_id or plot.suffix not in {".png", ".svg"}):
        raise click.UsageError("--plot needs a batch ID and a name that ends in .png or .svg.")
    if books:
        _show_books(batch_id, as_json, connect)
        return
    with connect() as client:
        found = client.batches.report(batch_id) if batch_id else client.report()
        if plot and batch_id:
            plot.write_bytes(client.batches.plot(batch_id, "svg" if plot.suffix == ".svg" else "png"))
    if as_json:
        print_json(found)
    else:
        show_report(found)


def _show_books(batch_id: str | None, as_json: bool, connect: Connect) -> None:
    if not batch_id:
        raise click.UsageError("--books needs a batch ID.")
    with connect() as client:
        found = client.batches.books(batch_id)
    if as_json:
        print_json(found)
        return
    if not found.entries:
        click.echo("Nothing is booked yet: the books are written when a batch has ended.")
        return
    cells = [_booked(entry) for entry in found.entries]
    print_table(("entered", "pool", "hour", "kind", "energy", "g/kWh", "CO2e", "why"), cells)
    click.echo(f"Sum: {_energy(found.energy_j)}, {grams(found.grams)} CO2e")


def _booked(entry: BookEntry) -> tuple[str, ...]:
    mean = entry.intensity_g_per_kwh
    return (
        _clock(entry.posted_at),
        entry.pool,
        f"{entry.hour.astimezone():%m-%d %H:%M}",
        entry.kind,
        _energy(entry.energy_j),
        "unknown" if mean is None else f"{mean:.0f}",
        grams(entry.grams),
        entry.why,
    )


def show_report(report: Report) -> None:
    """Print a report: the sums, where and when the work ran, where each factor comes from, what to bear in mind."""
    print_facts(_sums(report))
    if report.rows:
        click.echo()
        print_table(("pool", "zone", "from", "to", "energy", "how known", "g/kWh", "CO2e"), [_cells(row) for row in report.rows])
    if report.provenance:
        click.echo("\nWhere the figures come from:")
        for factor in report.provenance:
            value = f"{factor.value:.6g}" if isinstance(factor.value, float) else str(factor.value)
            click.echo(f"- {factor.factor}: {value} {factor.unit}".rstrip() + f" ({factor.source})")
    for note in report.notes:
        click.echo(f"Note: {note}")


def _sums(report: Report) -> list[tuple[str, str | None]]:
    sources = ", ".join(f"{name} {_energy(joules)}" for name, joules in report.energy_by_source.items())
    saved = grams(report.saved_g)
    if report.saved_fraction is not None:
        saved += f" ({report.saved_fraction:.0%})"
    embodied = report.embodied_g
    now = f"{grams(report.grams_run_now)} CO2e"
    with_embodied = report.saved_with_embodied_g
    return [
        ("energy", _energy(report.energy_j) + (f" ({sources})" if sources else "")),
        ("operational", f"{grams(report.operational_g)} CO2e"),
        ("run at once", f"{now}: {report.baseline.description}" if report.baseline and report.baseline.description else now),
        ("saved", saved),
        ("  by", _choices(report.saving) if report.saving and report.saved_g else None),
        ("  with embodied", f"{_band(with_embodied)} (by the low / mid / high figures)" if with_embodied else None),
        ("embodied", f"{_band(embodied)} CO2e (low / mid / high; {report.policy or 'no policy named'})" if embodied else None),
    ]


def _band(band: Band) -> str:
    return " / ".join(grams(value) for value in (band.low, band.mid, band.high))


def _choices(saving: Saving) -> str:
    parts = {"time": saving.time_g, "place": saving.place_g, "GPU": saving.gpu_g, "spare capacity": saving.spare_g}
    return ", ".join(f"{choice} {grams(value)}" for choice, value in parts.items() if value)


def _energy(joules: float | None) -> str:
    if joules is None:
        return "unknown"
    return f"{joules:.3g} J" if joules < 3600 else f"{joules / 3600:.4g} Wh" if joules < 3.6e6 else f"{joules / 3.6e6:.4g} kWh"


def _cells(row: Row) -> tuple[str, ...]:
    intensity = row.intensity.mean_g_per_kwh
    return (
        row.pool,
        row.zone,
        _clock(row.started_at),
        _clock(row.ended_at),
        _energy(row.energy_j),
        row.energy_source,
        "unknown" if intensity is None else f"{intensity:.0f}",
        grams(row.operational_g),
    )


def _clock(at: datetime) -> str:
    return at.astimezone().strftime("%m-%d %H:%M:%S")
