"""`batchsched report`: energy, grams and savings for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchsched.cli.common import (
    Connect,
    energy,
    grams,
    json_option,
    print_facts,
    print_json,
    print_table,
    server_options,
    so_far,
)
from batchsched.cli.completing import batch_ids
from batchsched.cli.forecast import instant
from batchsched.cli.named_files import NewFile, image_format
from batchsched.cli.report_tables import FORMATS, SLICES, band, check_export, clock, measured, rows_of, table_of

if TYPE_CHECKING:
    from batchsched.client import Report
    from batchsched.client.results import Attributed, Row, Saving


@click.command()
@click.argument("batch_id", metavar="[ID]", required=False, shell_complete=batch_ids)
@click.option("--plot", type=NewFile(), help="Also write an image (.svg or .png) of one batch; - is stdout.")
@click.option("--books", is_flag=True, help="The entries of one batch's books instead, with every correction.")
@click.option("--by", type=click.Choice(SLICES), help="What each of these took; `request` of one batch that has ended.")
@click.option("--meters", is_flag=True, help="What the meters of each pool saw, and where it went.")
@click.option(
    "--from", "since", metavar="TIME", help="Only work that began from then on; of the report, batches created from then on."
)
@click.option("--to", "until", metavar="TIME", help="Only work that began before then.")
@click.option("--export", type=NewFile(FORMATS), help="Also write the table (.csv, .json, .parquet); - is CSV to stdout.")
@json_option
@server_options
def report(
    batch_id: str | None,
    plot: Path | None,
    books: bool,
    by: str | None,
    meters: bool,
    since: str | None,
    until: str | None,
    export: Path | None,
    as_json: bool,
    connect: Connect,
) -> None:
    """Energy, grams and savings of one batch, or of all where no ID is given.

    With --by, --books or --meters: another table instead of the report. --export writes whichever table it is, with all columns.
    """
    if plot and not batch_id:
        raise click.UsageError("--plot needs a batch ID.")
    if plot and (by or books or meters):
        raise click.UsageError("--plot draws the report; leave out --by, --books and --meters.")
    if meters and batch_id:
        raise click.UsageError("--meters is about pools: leave the ID out.")
    if (since or until) and batch_id:
        raise click.UsageError("--from and --to are about many batches: leave the ID out.")
    check_export(export)
    start, end = instant(since, "--from") if since else None, instant(until, "--to") if until else None
    with connect() as client:
        if table := table_of(client, batch_id, by, start, end, books=books, meters=meters):
            table.show(as_json)
        else:
            found = client.batches.report(batch_id) if batch_id else client.report(start, end)
            if plot and batch_id:
                plot.write_bytes(client.batches.plot(batch_id, image_format(plot)))
            print_json(found) if as_json else show_report(found)
            table = rows_of(found)
        if export:
            table.write(export)


_WHY_IDLE = """\
So much is its part of what its pools took without work on the days that it ran. The work of a day shares it by busy time: what
ran alone bears the whole day's, however short it was. Windows and stopped workers lessen it; to move this batch only moves it to
others."""


def storage_sources(said: list[str]) -> list[str]:
    """What they have in common is said once, whatever grids they are by."""
    grids: dict[str, dict[str, None]] = {}
    for source in said:
        figures, _, grid = source.partition("; grid ")
        grids.setdefault(figures, {})[grid.rstrip(".")] = None
    return ["; ".join([figures, *(f"grid {grid}" for grid in found if grid)]) for figures, found in grids.items()]


def show_report(report: Report) -> None:
    """Print a report: the sums, where and when the work ran, where each factor comes from, what to bear in mind."""
    print_facts(_sums(report))
    if report.rows:
        click.echo()
        columns = ("pool", "model", "zone", "from", "to", "energy", "how known", "PUE", "g/kWh", "CO2e")
        print_table(columns, [_cells(row) for row in report.rows])
    if beside := [part for part in report.beside if part.part != "idle"]:
        click.echo("\nBeside it, apart from the sums (loading is in them):")
        heads = ("part", "energy", "CO2e", "embodied (low / mid / high)", "how")
        print_table(heads, [(b.part, energy(b.energy_j), grams(b.operational_g), band(b.embodied_g), b.how) for b in beside])
        for line in storage_sources([part.source for part in beside if part.part == "storage" and part.source]):
            click.echo(f"Storage by: {line}.")
    for idle in (part for part in report.beside if part.part == "idle"):
        took = f"{energy(idle.energy_j)}, {grams(idle.operational_g)} CO2e, embodied {band(idle.embodied_g)}"
        click.echo(f"\nIdle pools, in none of the figures above: {took}.\n{_WHY_IDLE}")
    if report.provenance:
        click.echo("\nWhere the figures come from:")
        for factor in report.provenance:
            value = f"{factor.value:.6g}" if isinstance(factor.value, float) else str(factor.value)
            click.echo(f"- {factor.factor}: {value} {factor.unit}".rstrip() + f" ({factor.source})")
    for note in report.notes:
        click.echo(f"Note: {note}")


def _sums(report: Report) -> list[tuple[str, str | None]]:
    sources = ", ".join(f"{name} {energy(joules)}" for name, joules in report.energy_by_source.items())
    saved = grams(report.saved_g)
    if report.saved_fraction is not None:
        saved += f" ({report.saved_fraction:z.0%})"
    embodied = report.embodied_g
    now = f"{grams(report.grams_run_now)} CO2e"
    with_embodied = report.saved_with_embodied_g
    return [
        ("energy", measured(report.energy_j, report.unmeasured_s) + (f" ({sources})" if sources else "")),
        ("operational", so_far(report.operational_g, report.unknown_energy_j, report.unmeasured_s)),
        ("by contract", f"{grams(report.market_g)} CO2e (market-based, apart)" if report.market_g is not None else None),
        ("with a full share", _attributed(report.attributed) if report.attributed else None),
        ("run at once", f"{now}: {report.baseline.description}" if report.baseline and report.baseline.description else now),
        ("saved", saved),
        ("  by", (_choices(report.saving, report.models_accepted) or None) if report.saving and report.saved_g else None),
        ("  with embodied", f"{band(with_embodied)} (by the low / mid / high figures)" if with_embodied else None),
        ("embodied", f"{band(embodied)} CO2e (low / mid / high; {report.policy or 'no policy named'})" if embodied else None),
    ]


def _attributed(whole: Attributed) -> str:
    """What it comes to with a full share of the online servers whose spare capacity it used."""
    made = f", embodied {band(whole.embodied_g)}" if whole.embodied_g else ""
    held = "idle draw of online servers, and what shared machines took to make"
    return f"{grams(whole.operational_g)} CO2e, {energy(whole.energy_j)}{made} ({held})"


def _choices(saving: Saving, models: Sequence[str]) -> str:
    gpu = "GPU and model" if models else "GPU"
    parts = {"time": saving.time_g, "place": saving.place_g, gpu: saving.gpu_g, "spare capacity": saving.spare_g}
    return ", ".join(f"{choice} {grams(value)}" for choice, value in parts.items() if value)


def _cells(row: Row) -> tuple[str, ...]:
    intensity = row.intensity.mean_g_per_kwh
    return (
        row.pool,
        row.model,
        row.zone,
        clock(row.started_at),
        clock(row.ended_at),
        "unknown" if row.energy_source == "unmeasured" else energy(row.energy_j),
        row.energy_source,
        "unknown" if row.pue is None else f"{row.pue:.3g}",
        "unknown" if intensity is None else f"{intensity:.0f}",
        grams(row.operational_g),
    )
