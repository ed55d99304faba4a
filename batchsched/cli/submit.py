"""`batchsched submit`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from batchsched.cli import exits
from batchsched.cli.common import (
    Connect,
    deadline_option,
    error_line,
    json_option,
    on_deadline_option,
    print_facts,
    print_json,
    priority_option,
    say,
    server_options,
    show_batch,
    when,
)
from batchsched.cli.completing import model_names, zone_names
from batchsched.cli.infile import check, first_endpoint
from batchsched.cli.named_files import InFile
from batchsched.cli.printed import FileError, Submittable
from batchsched.units import iso, parse_deadline


@click.command()
@click.argument("file", type=InFile())
@deadline_option
@click.option("--endpoint", help="The batch's endpoint [default: the first line's url].")
@click.option("--confidence", type=click.FloatRange(0.5, 1, max_open=True), help="Asked probability of keeping the deadline.")
@click.option("--site", "sites", multiple=True, help="A site where it may run (repeatable) [default: all].")
@click.option(
    "--zone", "zones", multiple=True, shell_complete=zone_names, help="A grid zone where it may run (repeatable) [default: all]."
)
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME,...",
    shell_complete=model_names,
    callback=lambda _context, _parameter, names: [name for one in names for name in one.split(",") if name],
    help="A further model that will do (repeatable) [default: only the one that the lines name].",
)
@click.option("--uniform", is_flag=True, help="One model and GPU type for all of it, since answers differ in the last digits.")
@on_deadline_option
@click.option("--require-feasible", is_flag=True, help="Refuse the batch if its deadline cannot be kept.")
@priority_option
@click.option("--idempotency-key", help="Submit again with the same key and get the same batch.")
@click.option("--wait", "then_wait", is_flag=True, help="Wait until it is done; exit as `wait` does.")
@click.option("--dry-run", is_flag=True, help="Upload nothing; check the file, and say what would be submitted.")
@json_option
@server_options
def submit(
    *, file: Path, endpoint: str | None, then_wait: bool, dry_run: bool, as_json: bool, connect: Connect, **options: Any
) -> int:
    """Upload FILE (- is stdin) and submit it as a batch."""
    from batchsched.cli.progress import watch

    if dry_run:
        return _only_checked(file, endpoint, options, as_json, connect)
    asked: Any = {name: value for name, value in options.items() if value not in (None, (), [], False)}
    with connect() as client:
        batch = client.batches.create(file=file, endpoint=endpoint or first_endpoint(file), **asked)
        if then_wait:
            say(f"Submitted as {batch.id}.")
            batch = watch(client, batch.id)
    show_batch(batch, as_json)
    if not then_wait and not as_json:
        say(f"`batchsched wait {batch.id}` waits for it.")
    return exits.for_batch(batch) if then_wait else exits.OK


def _only_checked(file: Path, endpoint: str | None, options: dict[str, Any], as_json: bool, connect: Connect) -> int:
    """What would be submitted, or why it would not be taken. The verdict hangs on other work, and comes with the submission."""
    from batchsched.lines.rules import Rules

    with connect() as client:
        served, server = [one.id for one in client.models.list()], client.server
    found = check(file, Rules(), endpoint, served)
    deadline_at = parse_deadline(options["deadline"], datetime.now(UTC))
    if as_json:
        errors = tuple(FileError(one.code, one.message, one.line, one.param) for one in found.errors)
        known = (found.endpoint, found.model, found.requests, found.size)
        print_json(Submittable(not errors, *known, iso(deadline_at), server, found.error_count, errors))
        return exits.USAGE if found.errors else exits.OK
    for error in found.errors:
        click.echo(error_line(error))
    if found.errors:
        say(f"Nothing is submitted, and nothing would be: {file.name} has {found.error_count} error(s).")
        return exits.USAGE
    say("Nothing is submitted. It would be as follows.")
    besides = {name.replace("_", " "): value for name, value in options.items() if value and name != "deadline"}
    asks = ", ".join(f"{name} {' or '.join(value) if isinstance(value, list) else value}" for name, value in besides.items())
    facts_said = [("server", server), ("model", found.model), ("endpoint", found.endpoint), ("requests", str(found.requests))]
    print_facts([*facts_said, ("deadline", when(deadline_at)), ("asked besides", asks or None)])
    return exits.OK
