"""`batchsched validate`: the server's checks without a server."""

from __future__ import annotations

from pathlib import Path

import click

from batchsched.cli import exits
from batchsched.cli.common import config_option, error_line, json_option, load, plain, print_json
from batchsched.lines import ENDPOINTS


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--endpoint", type=click.Choice(ENDPOINTS), help="Hold every line against this endpoint [default: the first line's url]."
)
@click.option("--model", "models", multiple=True, help="Models that are served (repeatable) [default: any].")
@config_option
@json_option
def validate(file: Path, endpoint: str | None, models: tuple[str, ...], config: Path | None, as_json: bool) -> int:
    """Check every line of FILE as a server with this configuration would. Exits 2 where something is wrong."""
    from batchsched.cli.infile import check

    found = check(file, load(config).settings.server.rules(), endpoint, models or None)
    if as_json:
        facts = {"endpoint": found.endpoint, "model": found.model, "requests": found.requests, "bytes": found.size}
        print_json({"valid": not found.errors, **facts, "error_count": found.error_count, "errors": plain(found.errors)})
    elif found.errors:
        for error in found.errors:
            click.echo(error_line(error))
        if found.error_count > len(found.errors):
            click.echo(f"... and {found.error_count - len(found.errors)} more.")
    else:
        click.echo(f"{file}: {found.requests} requests for {found.endpoint}, model {found.model}: valid.")
    return exits.USAGE if found.errors else exits.OK
