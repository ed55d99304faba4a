"""`batchsched window`: when pools are open, for operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from batchsched.cli import exits
from batchsched.cli.common import (
    Connect,
    Number,
    dry_run_option,
    json_option,
    print_facts,
    print_json,
    print_list,
    print_table,
    say,
    server_options,
    show_many,
    sure,
    watch_option,
    when,
    yes_option,
)
from batchsched.cli.completing import pool_names, window_names
from batchsched.cli.manners import quiet
from batchsched.cli.printed import Removed

if TYPE_CHECKING:
    from batchsched.client.windows import Opening, Window


@click.group()
def window() -> None:
    """Windows: when pools are open for batches. A pool without one is always open; one with several while any of them is. What is
    decided holds on every server and over restarts."""


def _about_one(command: Callable[..., Any]) -> Callable[..., Any]:
    """What every command that changes one takes."""
    return click.argument("name", shell_complete=window_names)(dry_run_option(json_option(server_options(command))))


@window.command()
@click.argument("name")
@click.option("--pool", required=True, shell_complete=pool_names, help="The pool that it opens.")
@click.option("--cron", required=True, metavar="LINE", help='When it opens, such as "0 22 * * mon-fri".')
@click.option("--duration", required=True, help="How long it stays open, such as 8h.")
@click.option("--tz", "timezone", metavar="ZONE", help="Time zone of the cron line, such as Europe/Berlin [default: UTC].")
@click.option("--share", type=Number(min=0, max=1, min_open=True), help="Part of the pool's replicas [default: 1, all].")
@click.option("--max-intensity", type=Number(min=0, min_open=True), metavar="G", help="Shut while the forecast is above G g/kWh.")
@click.option(
    "--only-if-below-forecast-percentile",
    "percentile",
    type=Number(min=0, max=100, min_open=True, max_open=True),
    metavar="P",
    help="Shut while the forecast is above the P-th percentile of its next 24 hours.",
)
@dry_run_option
@json_option
@server_options
def add(
    name: str,
    pool: str,
    cron: str,
    duration: str,
    timezone: str | None,
    share: float | None,
    max_intensity: float | None,
    percentile: float | None,
    dry_run: bool,
    as_json: bool,
    connect: Connect,
) -> None:
    """Make a window of a pool. The first one closes the pool outside of it."""
    with connect() as client:
        made = client.windows.add(
            name,
            pool=pool,
            cron=cron,
            duration=duration,
            timezone=timezone,
            share=share,
            max_intensity_g_per_kwh=max_intensity,
            only_if_below_forecast_percentile=percentile,
            dry_run=dry_run,
        )
    _changed(made, "would be" if dry_run else "is", as_json)


@window.command("list")
@watch_option
@json_option
@server_options
def list_(watch: bool, as_json: bool, connect: Connect) -> None:
    """List the windows and how each stands. With --json: one object a line."""
    with connect() as client:
        show_many(client.windows.list, _listed, as_json=as_json, watch=watch)


def _listed(found: Sequence[Window]) -> None:
    rows = [
        (one.id, one.pool, f"{one.cron} for {one.duration}, {one.timezone}", _limits(one) or "", _state(one), _next(one))
        for one in found
    ]
    print_list(("window", "pool", "opens", "limits", "state", "next opening"), rows)


@window.command()
@click.argument("name", shell_complete=window_names)
@click.option("--openings", type=click.IntRange(1, 100), default=10, show_default=True, help="How many to show.")
@json_option
@server_options
def show(name: str, openings: int, as_json: bool, connect: Connect) -> None:
    """Show a window: its next openings, on its own clock and in UTC, with the grid's forecast under them."""
    with connect() as client:
        _show(client.windows.retrieve(name, openings=openings), as_json)


@window.command()
@click.option("--until", metavar="WHEN", help="A duration such as 3d, or an instant [default: until `window resume`].")
@_about_one
def pause(name: str, until: str | None, dry_run: bool, as_json: bool, connect: Connect) -> None:
    """Let a window open nothing; what runs is given back, which costs it no attempt."""
    with connect() as client:
        _changed(client.windows.pause(name, until=until, dry_run=dry_run), "would be" if dry_run else "is", as_json)


@window.command()
@_about_one
def resume(name: str, dry_run: bool, as_json: bool, connect: Connect) -> None:
    """Let a window open again as it is declared; what was to be skipped is not."""
    with connect() as client:
        _changed(client.windows.resume(name, dry_run=dry_run), "would be" if dry_run else "is", as_json)


@window.command()
@click.option("--count", type=click.IntRange(1, 100), default=1, show_default=True, help="How many openings to leave out.")
@click.option("--current", is_flag=True, help="End the opening that is on instead.")
@_about_one
def skip(name: str, count: int, current: bool, dry_run: bool, as_json: bool, connect: Connect) -> None:
    """Leave out the next opening of a window, or end the one that is on."""
    with connect() as client:
        changed = client.windows.skip(name, count=count, current=current, dry_run=dry_run)
    _changed(changed, "would be" if dry_run else "is", as_json)


@window.command()
@click.option("--by", metavar="DURATION", help="So much longer than it would be, such as 2h.")
@click.option("--until", metavar="WHEN", help="Until then: a duration from now such as 6h, or an instant.")
@_about_one
def extend(name: str, by: str | None, until: str | None, dry_run: bool, as_json: bool, connect: Connect) -> None:
    """Keep a window open from now on, longer than it would be, or open it now. Needs --by or --until."""
    if (by is None) == (until is None):
        raise click.UsageError("Give either --by or --until.")
    with connect() as client:
        changed = client.windows.extend(name, by=by, until=until, dry_run=dry_run)
    _changed(changed, "would be" if dry_run else "is", as_json)


@window.command()
@yes_option
@_about_one
def remove(name: str, yes: bool, dry_run: bool, as_json: bool, connect: Connect) -> int:
    """Remove a window that the configuration does not declare."""
    with connect() as client:
        before = client.windows.retrieve(name, openings=1)
        if not dry_run and not sure(f"Remove window {name} of pool {before.pool}?", yes=yes):
            return exits.FAILURE
        client.windows.remove(name, dry_run=dry_run)
        others = [one.id for one in client.windows.list() if one.pool == before.pool and one.id != name]
    if as_json:
        print_json(Removed(name, "batchsched.window", not dry_run))
        return exits.OK
    after = f"has its other windows: {', '.join(others)}" if others else "has no other window, and is always open"
    say(f"Window {name} {'would be' if dry_run else 'is'} removed. Pool {before.pool} {after}.")
    return exits.OK


def _changed(one: Window, verb: str, as_json: bool) -> None:
    if quiet() and not as_json:
        click.echo(one.id)
        return
    if not as_json:
        say(f"Window {one.id} {verb} as follows.")
    _show(one, as_json)


def _show(one: Window, as_json: bool) -> None:
    if as_json:
        print_json(one)
        return
    print_facts(
        [
            ("window", one.id),
            ("pool", one.pool + (f", grid zone {one.zone}" if one.zone else " (declared no more)")),
            ("opens", f"{one.cron} for {one.duration}, {one.timezone}"),
            ("limits", _limits(one)),
            ("declared in", "the configuration" if one.origin == "configuration" else None),
            ("state", _state(one)),
        ]
    )
    if one.openings:
        print_table((one.timezone, "UTC", "forecast", ""), [_row(each) for each in one.openings])
    known = [each for each in one.openings if each.intensity_g_per_kwh is not None and not each.skipped]
    if known and all(_is_shut_throughout(each) for each in known):
        say(f"As far as the forecast reaches, nothing opens: it is above the limit in all of the next {len(known)} opening(s).")


def _is_shut_throughout(each: Opening) -> bool:
    return any(part.since <= each.opens_at and each.closes_at is not None and part.until >= each.closes_at for part in each.shut)


def _row(each: Opening) -> tuple[str, str, str, str]:
    grid = "" if each.intensity_g_per_kwh is None else f"{each.intensity_g_per_kwh:.0f} g/kWh"
    shut = ", ".join(f"{_utc(part.since)} to {_utc(part.until, part.since)}" for part in each.shut)
    said = "skipped" if each.skipped else f"shut {shut} UTC: above its limit" if shut else ""
    ends = datetime.fromisoformat(each.closes_local) if each.closes_local else None
    local = _span(datetime.fromisoformat(each.opens_local), ends)
    return local, _span(each.opens_at, each.closes_at), grid, said


def _span(since: datetime, until: datetime | None) -> str:
    return f"{since:%a %Y-%m-%d %H:%M} to {_utc(until, since) if until else 'no end'}"


def _utc(at: datetime, after: datetime | None = None) -> str:
    """The time of day, with the date where it is another than that of `after`."""
    return f"{at:%H:%M}" if after and at.date() == after.date() else f"{at:%a %H:%M}"


def _limits(one: Window) -> str | None:
    parts = [f"{one.share:.0%} of the replicas"] if one.share < 1 else []
    if one.max_intensity_g_per_kwh is not None:
        parts.append(f"at most {one.max_intensity_g_per_kwh:g} g/kWh")
    if one.only_if_below_forecast_percentile is not None:
        parts.append(f"below percentile {one.only_if_below_forecast_percentile:g} of the next 24 h")
    return ", ".join(parts) or None


def _state(one: Window) -> str:
    if one.state == "paused":
        return f"paused until {when(one.paused_until)}" if one.paused_until else "paused"
    if one.state == "shut":
        return "shut: the forecast is above its limit"
    return f"open until {when(one.closes_at)}" if one.state == "open" and one.closes_at else one.state


def _next(one: Window) -> str:
    each = next((each for each in one.openings if not each.skipped), None)
    return f"{each.opens_local[:16].replace('T', ' ')} {one.timezone}" if each else "none"
