"""`batchsched simulate compare`: what one run did otherwise than another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchsched.cli.common import grams, json_option, need, print_json, print_table, say
from batchsched.units import format_duration

if TYPE_CHECKING:
    from batchsched.simulate.comparing import Comparison

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.argument("one", metavar="A", type=_FOLDER)
@click.argument("other", metavar="B", type=_FOLDER)
@click.option("--most", type=click.IntRange(min=0), default=20, show_default=True, help="So many batches that differ are shown.")
@json_option
def compare(one: Path, other: Path, most: int, as_json: bool) -> None:
    """Compare two runs that `simulate --out` wrote, line by line: A and B are folders of one policy each, such as out/greedy."""
    need("server")
    from batchsched.simulate.comparing import compared

    found = compared(one, other)
    if as_json:
        print_json(found)
        return
    for name, about in zip("AB", found.about, strict=True):
        say(f"{name}: {_run(about)}")
    if found.same:
        say("Every line of one is in the other.")
    print_table(("table", "lines in A", "lines in B", "in both", "first difference after"), _tables(found))
    print_table(("pool", "kWh in A", "kWh in B", "CO2e in A", "CO2e in B"), _pools(found))
    if found.batches:
        count = len(found.batches)
        say(f"{count} batches did not come to the same{f'; {most} of them' if count > most else ''}:")
        print_table(("batch", "CO2e in A", "CO2e in B", "done in A after", "done in B after"), _batches(found, most))


def _run(about: dict[str, Any]) -> str:
    said = f"{about.get('policy')}, risk {about.get('risk', 0.0):g}, {about.get('days')} days from {about.get('start')} on"
    without = ", ".join(about.get("without") or ())
    return f"{said}{f', without {without}' if without else ''}: {grams(about.get('grams'))} CO2e"


def _after(seconds: float | None) -> str:
    """From the start of the run."""
    return "" if seconds is None else format_duration(seconds)


def _tables(found: Comparison) -> list[list[str]]:
    return [[one.table, *map(str, one.lines), str(one.in_both), _after(one.first_s)] for one in found.tables]


def _pools(found: Comparison) -> list[list[str]]:
    return [[one.pool, *(f"{value:.4g}" for value in one.kwh), *map(grams, one.grams)] for one in found.pools]


def _batches(found: Comparison, most: int) -> list[list[str]]:
    return [
        [one.batch, *("" if g is None else grams(g) for g in one.grams), *map(_after, one.finished_s)]
        for one in found.batches[:most]
    ]
