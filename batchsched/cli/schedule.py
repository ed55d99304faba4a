"""`batchsched schedule`: jobs that recur."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from batchsched.cli import exits
from batchsched.cli.common import (
    Connect,
    dry_run_option,
    grams,
    json_option,
    on_deadline_option,
    print_facts,
    print_json,
    print_list,
    print_table,
    priority_option,
    say,
    server_options,
    show_many,
    sure,
    watch_option,
    when,
    yes_option,
)
from batchsched.cli.completing import model_names, schedule_names, zone_names
from batchsched.cli.manners import quiet
from batchsched.cli.printed import Removed

if TYPE_CHECKING:
    from batchsched.client.schedules import Release, Schedule


@click.group()
def schedule() -> None:
    """Recurring jobs: at each time that a cron line matches, files in the server's folder of inputs become batches."""


def _about_one(command: Callable[..., Any]) -> Callable[..., Any]:
    """What every command that changes one takes."""
    return click.argument("name", shell_complete=schedule_names)(dry_run_option(json_option(server_options(command))))


@schedule.command()
@click.argument("name")
@click.option("--cron", required=True, metavar="LINE", help='When it is due, such as "0 20 * * mon-fri".')
@click.option("--tz", "timezone", metavar="ZONE", help="Time zone of the cron line, such as Europe/Berlin [default: UTC].")
@click.option(
    "--file",
    required=True,
    metavar="PATH",
    help="Below the server's folder of inputs: a file, {date} and {time} filled in; wildcards, or a folder: what is new there.",
)
@click.option("--deadline", required=True, metavar="DURATION", help="Of each batch, from when it is made, such as 10h.")
@click.option("--endpoint", help="The batches' endpoint [default: /v1/chat/completions].")
@click.option("--missed", type=click.Choice(["once", "all", "skip"]), help="Times that were missed: make up for [default: once].")
@click.option("--overlap", is_flag=True, help="Begin although the batch of an earlier time is not done.")
@click.option("--confidence", type=click.FloatRange(0.5, 1, max_open=True), help="Asked probability of keeping the deadline.")
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME",
    shell_complete=model_names,
    help="A further model that will do (repeatable).",
)
@click.option("--site", "sites", multiple=True, help="A site where the batches may run (repeatable) [default: all].")
@click.option(
    "--zone",
    "zones",
    multiple=True,
    shell_complete=zone_names,
    help="A grid zone where they may run (repeatable) [default: all].",
)
@on_deadline_option
@priority_option
@dry_run_option
@json_option
@server_options
def add(*, name: str, cron: str, file: str, dry_run: bool, as_json: bool, connect: Connect, **options: Any) -> None:
    """Let a job recur."""
    asked: Any = {key: value for key, value in options.items() if value not in (None, (), False)}
    with connect() as client:
        _changed(client.schedules.add(name, cron=cron, file=file, dry_run=dry_run, **asked), as_json, dry_run)


@schedule.command("list")
@watch_option
@json_option
@server_options
def list_(watch: bool, as_json: bool, connect: Connect) -> None:
    """List the recurring jobs. With --json: one object a line."""
    with connect() as client:
        show_many(client.schedules.list, _listed, as_json=as_json, watch=watch)


def _listed(found: Sequence[Schedule]) -> None:
    rows = [(one.id, f"{one.cron}, {one.timezone}", one.file, str(one.batchsched.get("deadline")), _next(one)) for one in found]
    print_list(("schedule", "due", "file", "deadline", "next"), rows)
    for one in found:
        if one.trouble:
            say(f"Schedule {one.id}: {one.trouble}")


@schedule.command()
@click.argument("name", shell_complete=schedule_names)
@json_option
@server_options
def show(name: str, as_json: bool, connect: Connect) -> None:
    """Show a recurring job."""
    with connect() as client:
        _show(client.schedules.retrieve(name), as_json)


@schedule.command()
@_about_one
def pause(name: str, dry_run: bool, as_json: bool, connect: Connect) -> None:
    """Let a job make no batches until it is resumed."""
    with connect() as client:
        _changed(client.schedules.pause(name, dry_run=dry_run), as_json, dry_run)


@schedule.command()
@_about_one
def resume(name: str, dry_run: bool, as_json: bool, connect: Connect) -> None:
    """Let a job go on, by your key from then on; the times of the pause are not made up for."""
    with connect() as client:
        _changed(client.schedules.resume(name, dry_run=dry_run), as_json, dry_run)


@schedule.command()
@yes_option
@_about_one
def remove(name: str, yes: bool, dry_run: bool, as_json: bool, connect: Connect) -> int:
    """Forget a recurring job, with its history; its batches stay."""
    if not dry_run and not sure(f"Forget schedule {name}, with its history?", yes=yes):
        return exits.FAILURE
    with connect() as client:
        client.schedules.remove(name, dry_run=dry_run)
    if as_json:
        print_json(Removed(name, "batchsched.schedule", not dry_run))
    else:
        say(f"Schedule {name} {'would be' if dry_run else 'is'} removed.")
    return exits.OK


@schedule.command()
@click.argument("name", shell_complete=schedule_names)
@click.option("--limit", type=click.IntRange(1, 100), default=20, show_default=True, help="How many, the newest first.")
@json_option
@server_options
def history(name: str, limit: int, as_json: bool, connect: Connect) -> None:
    """What came of each time: the batch, its result, its grams. With --json: one object a line."""
    with connect() as client:
        found = client.schedules.history(name, limit=limit)
    if as_json:
        for one in found:
            print_json(one)
        return
    print_table(("due", "file", "batch", "result", "carbon"), [_row(one) for one in found])


def _row(one: Release) -> tuple[str, str, str, str, str]:
    counts = f", {one.requests_completed} done, {one.requests_failed} failed" if one.batch_status else ""
    result = one.note or (f"{one.batch_status}{counts}" if one.batch_status else one.state)
    if one.state != "submitted":
        result = f"{one.state}: {one.note}" if one.note else one.state
    return when(one.due_at) or "", one.file or "", one.batch_id or "", result, grams(one.grams) if one.batch_id else ""


def _changed(one: Schedule, as_json: bool, dry_run: bool) -> None:
    if quiet() and not as_json:
        click.echo(one.id)
        return
    if not as_json:
        say(f"Schedule {one.id} {'would be' if dry_run else 'is'} as follows.")
    _show(one, as_json)


def _show(one: Schedule, as_json: bool) -> None:
    if as_json:
        print_json(one)
        return
    missed = {"once": "made up for once", "all": "all made up for", "skip": "left out"}
    print_facts(
        [
            ("schedule", one.id),
            ("due", f"{one.cron}, {one.timezone}"),
            ("file", one.file),
            ("endpoint", one.endpoint),
            ("deadline", str(one.batchsched.get("deadline"))),
            ("missed times", missed.get(one.missed, one.missed)),
            ("overlap", "yes" if one.overlap else "no: a time is skipped while an earlier batch is not done"),
            ("next", _next(one)),
            ("by key", one.made_by if one.made_by not in {"local", "static"} else None),
            ("trouble", one.trouble),
        ]
    )


def _next(one: Schedule) -> str:
    return f"{one.next_local[:16].replace('T', ' ')} {one.timezone}" if one.next_local else "paused"
