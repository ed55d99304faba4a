"""`batchsched submit`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from batchsched.cli import exits
from batchsched.cli.common import Connect, deadline_option, json_option, priority_option, say, server_options, show_batch
from batchsched.cli.infile import first_endpoint


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@deadline_option
@click.option("--endpoint", help="The batch's endpoint [default: the first line's url].")
@click.option("--confidence", type=click.FloatRange(0.5, 1, max_open=True), help="Asked probability of keeping the deadline.")
@click.option("--site", "sites", multiple=True, help="A site where it may run (repeatable) [default: all].")
@click.option("--zone", "zones", multiple=True, help="A grid zone where it may run (repeatable) [default: all].")
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME,...",
    callback=lambda _context, _parameter, names: [name for one in names for name in one.split(",") if name],
    help="A further model that will do (repeatable) [default: only the one that the lines name].",
)
@click.option("--uniform", is_flag=True, help="One model and GPU type for all of it, since answers differ in the last digits.")
@click.option("--on-deadline", type=click.Choice(["expire", "finish"]), help="What to do at the deadline [default: expire].")
@click.option("--require-feasible", is_flag=True, help="Refuse the batch if its deadline cannot be kept.")
@priority_option
@click.option("--idempotency-key", help="Submit again with the same key and get the same batch.")
@click.option("--wait", "then_wait", is_flag=True, help="Wait until it is done; exit as `wait` does.")
@json_option
@server_options
def submit(*, file: Path, endpoint: str | None, then_wait: bool, as_json: bool, connect: Connect, **options: Any) -> int:
    """Upload FILE and submit it as a batch."""
    from batchsched.cli.progress import watch

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
