"""`batchsched validate`: the server's checks without a server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchsched.cli import exits
from batchsched.cli.common import config_option, error_line, json_option, load, print_json
from batchsched.cli.named_files import InFile
from batchsched.cli.printed import FileError, Validated
from batchsched.lines import ENDPOINTS

if TYPE_CHECKING:
    from batchsched.settings import Loaded


@click.command()
@click.argument("file", type=InFile())
@click.option(
    "--endpoint", type=click.Choice(ENDPOINTS), help="Hold every line against this endpoint [default: the first line's url]."
)
@click.option("--model", "models", multiple=True, help="Models that are served (repeatable) [default: any].")
@config_option
@json_option
def validate(file: Path, endpoint: str | None, models: tuple[str, ...], config: Path | None, as_json: bool) -> int:
    """Check every line of FILE (- is stdin) as a server with this configuration would. Exits 2 where something is wrong, or where
    no declared pool can run what it asks for."""
    from batchsched.cli.infile import check
    from batchsched.cli.room import Tight, tight

    loaded = load(config)
    declared = loaded.settings.models
    contexts = {name: model.max_model_len for name, model in declared.items()}
    found = check(file, loaded.settings.server.rules(), endpoint, models or None, contexts)
    unable, nowhere = _unable(loaded, found.model or "", found.endpoint or "")
    context = contexts.get(found.model or "") if not found.errors else None
    cut = tight(file, found.endpoint or "", context) if context else Tight()
    if as_json:
        errors = tuple(FileError(one.code, one.message, one.line, one.param) for one in found.errors)
        known = (found.endpoint, found.model, found.requests, found.size, found.error_count, errors)
        print_json(Validated(not errors and not nowhere, *known, unable, cut.lines))
    elif found.errors:
        for error in found.errors:
            click.echo(error_line(error))
        if found.error_count > len(found.errors):
            click.echo(f"... and {found.error_count - len(found.errors)} more.")
    else:
        verdict = "no pool can run it." if nowhere else "valid."
        click.echo(f"{file}: {found.requests} requests for {found.endpoint}, model {found.model}: {verdict}")
        for why in (*unable.values(), *([cut.said(found.model or "", context)] if context and cut.lines else [])):
            click.echo(why)
    return exits.USAGE if found.errors or nowhere else exits.OK


def _unable(loaded: Loaded, model: str, endpoint: str) -> tuple[dict[str, str], bool]:
    """Why declared pools cannot run what the file asks for, by pool; and whether that is all the pools that serve its model."""
    from batchsched.generations import cannot_answer, cannot_run

    fleet = loaded.settings.fleet(loaded.catalogue)
    if model not in fleet.models:
        return {}, False
    serving = {name: fleet.pools[name] for name in fleet.pools_for(model)}
    said = {
        name: cannot_run(name, pool, model, fleet.models[model], fleet.gpus) or cannot_answer(name, pool, endpoint)
        for name, pool in serving.items()
    }
    unable = {name: why for name, why in said.items() if why}
    return unable, bool(serving) and len(unable) == len(serving)
