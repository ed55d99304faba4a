"""`batchsched plan`."""

from __future__ import annotations

import click

from batchsched.cli.common import Connect, json_option, print_facts, print_json, print_table, server_options, when
from batchsched.units import from_iso


@click.group()
def plan() -> None:
    """The plan in force."""


@plan.command()
@json_option
@server_options
def show(as_json: bool, connect: Connect) -> None:
    """Show what each pool is to run, and when."""
    with connect() as client:
        found = client.plan()
    if as_json:
        print_json(found)
        return
    print_facts([("made", when(found.made_at) or "not yet"), ("solver", found.solver), ("status", found.status)])
    for heading, items in (("Pools", found.pools), ("Allotments", found.allotments)):
        if items:
            click.echo(f"\n{heading}:")
            columns = tuple(items[0])
            print_table(columns, [tuple(_cell(name, item.get(name)) for name in columns) for item in items])
    for note in found.notes:
        click.echo(f"Note: {note}")


def _cell(name: str, value: object) -> str:
    if name.endswith("_at") and isinstance(value, str):
        return when(from_iso(value)) or ""
    if isinstance(value, list):
        return _cell(name, value[0]) if value else ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)
