"""`batchsched forecast`: what is known of the grid, and what was known when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchsched.cli.common import Connect, json_option, print_facts, print_json, print_table, say, server_options, when
from batchsched.cli.completing import zone_names
from batchsched.cli.named_files import InFile, NewFile, image_format
from batchsched.cli.printed import Filled
from batchsched.errors import ForecastUnavailable
from batchsched.units import iso

if TYPE_CHECKING:
    from batchsched.client import Client
    from batchsched.client.forecasts import Forecast, ForecastSlot, Skill, Which

MONTH = timedelta(days=31)
"""The longest span that one call asks for."""


@click.group()
def forecast() -> None:
    """Forecasts of carbon intensity."""


@forecast.command()
@click.argument("zone", shell_complete=zone_names)
@click.option("--as-of", metavar="TIME", help="As it was known then, such as 2026-05-01T06:00:00Z [default: now].")
@click.option("--hours", type=click.IntRange(1, 168), default=96, show_default=True, help="How far ahead.")
@click.option("--provider", metavar="NAME", help="Of this provider, from the archive [default: what plans rest on].")
@click.option("--signal", metavar="TEXT", help="Of this signal, from the archive, such as 'marginal direct'.")
@click.option("--plot", type=NewFile(), help="Also write an image (.svg or .png); - is SVG to stdout, all else to stderr.")
@json_option
@server_options
def show(
    zone: str,
    as_of: str | None,
    hours: int,
    provider: str | None,
    signal: str | None,
    plot: Path | None,
    as_json: bool,
    connect: Connect,
) -> None:
    """Show a zone's forecast, and what came true in the day before."""
    at = instant(as_of, "--as-of") if as_of else None
    which: Which = {"as_of": at, "hours": hours, "provider": provider, "signal": signal}
    with connect() as client:
        found = client.forecasts.retrieve(zone, **which)
        if plot:
            plot.write_bytes(client.forecasts.plot(zone, image_format(plot), **which))
    if as_json:
        print_json(found)
    else:
        _show(found)


@forecast.command()
@json_option
@server_options
def zones(as_json: bool, connect: Connect) -> None:
    """List the zones that are known, who says so, and how far the archive reaches. With --json: one object a line."""
    with connect() as client:
        found = client.forecasts.list()
    if as_json:
        for one in found:
            print_json(one)
        return
    rows = [
        (feed.zone, feed.provider, feed.signal, when(feed.newest_issue_at) or "", when(feed.realised_until) or "")
        for feed in found
    ]
    print_table(("zone", "provider", "signal", "newest forecast", "measured until"), rows)


@forecast.command("import")
@click.argument("file", type=InFile("stdin.csv"))
@click.option("--provider", metavar="NAME", help="The name to keep it under [default: the file's own].")
@click.option("--signal", metavar="TEXT", help="Which one to take, where the file has several, such as 'average lifecycle'.")
@json_option
@server_options
def import_(file: Path, provider: str | None, signal: str | None, as_json: bool, connect: Connect) -> None:
    """Put a file's forecasts and measurements into the archive, as known from now on (needs a key with `operate`)."""
    with connect() as client:
        found = client.forecasts.import_file(file, provider=provider, signal=signal)
    if as_json:
        print_json(found)
    else:
        zones = ", ".join(found.zones) or "no zone"
        new = f"{found.forecasts} forecasts, {found.measurements} measurements"
        new += f", {found.generation} slots of generation" if found.generation else ""
        new += f", {found.weather} weather runs" if found.weather else ""
        whose = ", ".join(filter(None, (found.provider, found.signal)))
        say(f"New from {whose}: {new} ({zones}).")


@forecast.command()
@click.argument("zone", shell_complete=zone_names)
@click.option("--from", "since", metavar="TIME", required=True, help="The first hour, such as 2026-01-01T00:00:00Z.")
@click.option("--to", "until", metavar="TIME", help="Where it ends [default: now].")
@json_option
@server_options
def backfill(zone: str, since: str, until: str | None, as_json: bool, connect: Connect) -> None:
    """Let the server ask a zone's sources what came true, and keep it. With --json: one object a source and month."""
    start, end = instant(since, "--from"), instant(until, "--to") if until else datetime.now(UTC)
    if start >= end:
        raise click.UsageError("--to must lie after --from.")
    with connect() as client:
        while start < end:
            to = min(start + MONTH, end)
            for one in client.forecasts.backfill(zone, start, to):
                if as_json:
                    print_json(Filled(iso(start), iso(to), one.source, one.received, one.added, one.problem))
                else:
                    what = one.problem or f"{one.received} values, {one.added} of them news"
                    click.echo(f"{start:%Y-%m-%d} to {to:%Y-%m-%d}, {one.source}: {what}")
            start = to


@forecast.command()
@click.argument("zone", required=False, shell_complete=zone_names)
@json_option
@server_options
def train(zone: str | None, as_json: bool, connect: Connect) -> None:
    """Let the server's own models learn a zone anew, or all, and say how well they did on weeks held out (needs `operate`)."""
    with connect() as client:
        for name in _zones(client, zone) or _nothing():
            try:
                learnt = client.forecasts.train(name)
            except ForecastUnavailable as problem:
                if zone:
                    raise
                say(f"{name}: {problem.message}")
                continue
            if as_json:
                print_json(learnt)
                continue
            click.echo(
                f"{name}: {learnt.model}, {learnt.signal}; {learnt.known_h} hours from {when(learnt.trained_from)} to "
                f"{when(learnt.trained_until)} in {learnt.seconds:.1f} s"
            )
            if learnt.mape is not None and learnt.skill is not None:
                click.echo(
                    f"  held out from {when(learnt.held_out_from)}: error {learnt.mape:.1%}, {learnt.skill:.0%} less than naive's"
                )


@forecast.command()
@click.argument("zone", required=False, shell_complete=zone_names)
@click.option("--from", "since", metavar="TIME", help="The first issue [default: four weeks before the end].")
@click.option("--to", "until", metavar="TIME", help="Issues before this [default: now].")
@click.option("--plot", type=NewFile(), help="Also write an image (.svg or .png); - is SVG to stdout, all else to stderr.")
@json_option
@server_options
def evaluate(zone: str | None, since: str | None, until: str | None, plot: Path | None, as_json: bool, connect: Connect) -> None:
    """Say how good each provider's forecasts were, by days ahead, against naive. With --json: one object a line.

    "As served" is what plans rested on at up to 28 instants, by whom each time; it takes up to 15 s a zone.
    Captured is the share of the saving of perfect foresight that 6 h jobs in windows of so many days would have had.
    """
    start, end = instant(since, "--from") if since else None, instant(until, "--to") if until else None
    if start and start >= (end or datetime.now(UTC)):
        raise click.UsageError("--to must lie after --from.")
    if plot and not zone:
        raise click.UsageError("--plot needs a zone.")
    found: list[Skill] = []
    with connect() as client:
        if plot and zone:
            plot.write_bytes(client.forecasts.plot_evaluation(zone, image_format(plot), start, end))
        for name in _zones(client, zone):
            found += client.forecasts.evaluate(name, start, end)
    if as_json:
        for one in found:
            print_json(one)
        return
    if not found:
        say("The archive has no forecasts from then of which anything has come true.")
        return
    rows = [
        (
            one.zone,
            f"{one.provider} ({one.served_by})" if one.served_by else one.provider,
            one.signal,
            f"{one.from_h}-{one.to_h} h",
            str(one.issues),
            *_shares(one),
            _grams(one.pinball_g),
            _share(one.captured),
        )
        for one in found
    ]
    heads = (
        "zone",
        "provider",
        "signal",
        "ahead",
        "issues",
        "error",
        "naive's",
        "skill",
        "in 90% band",
        "its width",
        "pinball, g",
        "captured",
    )
    print_table(heads, rows)


def _nothing() -> list[str]:
    raise ForecastUnavailable(
        "Nothing has been measured that could be learnt from.", hint="Declare forecast.sources, or import a file."
    )


def _zones(client: Client, zone: str | None) -> list[str]:
    """That one, else all that the archive knows."""
    if zone:
        return [zone]
    return sorted({feed.zone for feed in client.forecasts.list() if feed.newest_issue_at or feed.realised_until})


def _shares(one: Skill) -> list[str]:
    shares = (one.mape, one.naive_mape, one.skill, one.coverage90, one.width90)
    return [_share(share) for share in shares]


def _share(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _grams(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def instant(text: str, option: str) -> datetime:
    """An instant of an option; a date is its first moment, and UTC is meant where no offset is given."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise click.UsageError(f"{option}: '{text}' is not an instant such as 2026-05-01T06:00:00Z.") from None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def _show(found: Forecast) -> None:
    continued = f"{found.continued_by}, from {when(found.continued_from)}" if found.continued_by else None
    print_facts(
        [
            ("zone", found.zone),
            ("signal", f"{found.signal}, gCO2e/kWh"),
            ("as of", when(found.as_of)),
            ("provider", found.provider),
            ("issued", when(found.issued_at)),
            ("received", when(found.received_at)),
            ("note", found.note or None),
            ("continued by", continued),
            ("licence", found.licence or None),
        ]
    )
    click.echo()
    behind = [(when(one.start) or "", f"{one.intensity_g_per_kwh:.0f}", *["" for _ in found.levels]) for one in found.realised]
    ahead = [(when(slot.start) or "", *_values(slot, len(found.levels))) for slot in found.slots]
    kinds = ["estimated" if one.estimated else "came true" for one in found.realised] + ["forecast"] * len(ahead)
    rows = [(start, kind, *rest) for kind, (start, *rest) in zip(kinds, [*behind, *ahead], strict=True)]
    print_table(("from", "what", "g/kWh", *(f"{level:.0%}" for level in found.levels)), rows)


def _values(slot: ForecastSlot, levels: int) -> list[str]:
    values = [slot.mean_g_per_kwh, *(slot.quantiles or [None] * levels)]
    return ["unknown" if slot.mean_g_per_kwh is None else f"{slot.mean_g_per_kwh:.0f}"] + [
        "" if value is None else f"{value:.0f}" for value in values[1:]
    ]
