"""`batchsched plan`."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchsched.cli.common import (
    Connect,
    coloured,
    dry_run_option,
    grams,
    json_option,
    print_facts,
    print_json,
    print_table,
    server_options,
    when,
)
from batchsched.cli.named_files import NewFile, image_format
from batchsched.cli.plan_questions import replay, what_if
from batchsched.units import from_iso

if TYPE_CHECKING:
    from batchsched.client.plans import Frozen, Plan

MOST_ROWS = 40
"""Rows of the table that are shown without --all."""
WIDTH = 100
"""Of the picture, where it is not on a terminal."""


@click.group()
def plan() -> None:
    """The plan in force: what each pool is to run, and when."""


plan.add_command(what_if)
plan.add_command(replay)


@plan.command()
@click.option("--all", "everything", is_flag=True, help="Every allotment of every slot, and every engine start.")
@click.option("--plot", type=NewFile(), help="Also write an image (.svg or .png); - is SVG to stdout, all else to stderr.")
@json_option
@server_options
def show(everything: bool, plot: Path | None, as_json: bool, connect: Connect) -> None:
    """Show what each pool is to run, and when: a picture, and a table of the stretches in which a batch stays on a pool."""
    with connect() as client:
        found = client.plan()
        if plot:
            plot.write_bytes(client.plans.plot(image_format(plot)))
    if as_json:
        print_json(found)
    else:
        _show(found, everything)


def _show(found: Plan, everything: bool) -> None:
    from batchsched.cli.plan_picture import picture

    print_facts(_facts(found))
    terminal = sys.stdout.isatty()
    lines = picture(found.everything, shutil.get_terminal_size().columns if terminal else WIDTH, colour=coloured())
    click.echo("\n".join(["", *lines]))
    if found.pools:
        click.echo("\nPools:")
        columns = ("name", "site", "zone", "gpu", "connected", "open", "g/kWh now")
        print_table(columns, [_pool(pool) for pool in found.pools])
    if everything:
        _table("Allotments", found.allotments)
        _table("Engine starts", found.loads)
        _table("Engines kept ready", found.holds)
    else:
        _stretches(found)
    _late_nowhere(found)
    for note in found.notes:
        click.echo(f"Note: {note}")


def _facts(found: Plan) -> list[tuple[str, str | None]]:
    known = [value for value in found.grams_expected.values() if value is not None]
    unknown, spread = len(found.grams_expected) - len(known), found.grams_interval
    expected = grams(sum(known)) + (f", {unknown} of {len(known) + unknown} batches unknown" if unknown else "")
    return [
        ("plan", str(found.id) if found.id else None),
        ("made", when(found.made_at) or "not yet"),
        ("frozen", _frozen(found.frozen) if found.frozen else None),
        ("solver", " ".join(word for word in (found.solver, found.status) if word)),
        ("batches", f"{len({a['batch_id'] for a in found.allotments})} placed, {len(found.late)} expected to be late"),
        ("expected", expected if found.grams_expected else None),
        ("8 cases of 10", f"{grams(spread.p10)} to {grams(spread.p90)}" if spread else None),
    ]


def _frozen(frozen: Frozen) -> str:
    ends = f", until {when(frozen.until)}" if frozen.until else ""
    return f"since {when(frozen.since)}{ends}: work starts at once where there is room"


def _pool(pool: Mapping[str, Any]) -> tuple[str, ...]:
    now = next(iter(pool["intensity_g_per_kwh"]), None)
    simulated = " (simulated)" if pool["simulated"] else ""
    states = ("yes" if pool["connected"] else "no", "yes" if pool["open"] else "no")
    return (
        pool["name"],
        pool["site"] + simulated,
        pool["zone"],
        pool["gpu"],
        *states,
        "unknown" if now is None else f"{now:.0f}",
    )


def _stretches(found: Plan) -> None:
    rows = stretches(found.allotments)
    if not rows:
        return
    click.echo("\nWho runs where:")
    columns = ("batch", "pool", "from", "to", "requests", "replica hours", "late")
    late = found.late
    cells = [
        (
            row["batch_id"],
            row["pool"],
            when(row["start_at"]) or "",
            when(row["end_at"]) or "",
            f"{row['requests']:.0f}",
            f"{row['seconds'] / 3600:.3g}",
            f"{late[row['batch_id']]:.0f}" if row["batch_id"] in late else "",
        )
        for row in rows[:MOST_ROWS]
    ]
    print_table(columns, cells)
    if len(rows) > MOST_ROWS:
        click.echo(f"... and {len(rows) - MOST_ROWS} stretches more: --all shows every allotment, --json everything.")


def _late_nowhere(found: Plan) -> None:
    """Those that are late and run nowhere: no row of the others names them."""
    placed = {a["batch_id"] for a in found.allotments}
    lost = sorted(name for name in found.late if name not in placed)
    if lost:
        more = f" and {len(lost) - MOST_ROWS} more" if len(lost) > MOST_ROWS else ""
        click.echo(f"\nLate, and without a place: {', '.join(lost[:MOST_ROWS])}{more}.")


def stretches(allotments: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Allotments of a batch on a pool in adjoining slots taken together, in order of time."""
    open_now: dict[tuple[str, str], dict[str, Any]] = {}
    out: list[dict[str, Any]] = []
    for a in sorted(allotments, key=lambda a: a["start_at"]):
        start, end, key = from_iso(a["start_at"]), from_iso(a["end_at"]), (a["batch_id"], a["pool"])
        last = open_now.get(key)
        if last is None or (start - last["end_at"]).total_seconds() > 1.0:
            last = {"batch_id": key[0], "pool": key[1], "start_at": start, "end_at": end, "requests": 0.0, "seconds": 0.0}
            open_now[key] = last
            out.append(last)
        last["end_at"] = max(end, last["end_at"])
        last["requests"] += a["requests"]
        last["seconds"] += a["seconds"]
    return out


def _table(heading: str, items: tuple[dict[str, Any], ...]) -> None:
    if items:
        click.echo(f"\n{heading}:")
        columns = tuple(items[0])
        print_table(columns, [tuple(_cell(name, item.get(name)) for name in columns) for item in items])


def _cell(name: str, value: object) -> str:
    if name.endswith("_at") and isinstance(value, str):
        return when(from_iso(value)) or ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@plan.command()
@click.option("--until", metavar="WHEN", help="A duration such as 6h, or an instant [default: until `plan unfreeze`].")
@dry_run_option
@json_option
@server_options
def freeze(until: str | None, dry_run: bool, as_json: bool, connect: Connect) -> None:
    """Shift nothing more: work starts at once where there is room, the earliest deadline first."""
    with connect() as client:
        found = client.plans.freeze(until, dry_run=dry_run)
    if as_json:
        print_json(found)
    else:
        ends = when(found.frozen.until) if found.frozen else None
        stands = f"{'would be' if dry_run else 'is'} frozen{f' until {ends}' if ends else ''}"
        click.echo(f"Shifting {stands}: work starts at once where there is room.")


@plan.command()
@dry_run_option
@json_option
@server_options
def unfreeze(dry_run: bool, as_json: bool, connect: Connect) -> None:
    """Let the plan shift work again."""
    with connect() as client:
        found = client.plans.unfreeze(dry_run=dry_run)
    if as_json:
        print_json(found)
    else:
        click.echo(f"Work {'would wait' if dry_run else 'waits'} again for cleaner hours.")
