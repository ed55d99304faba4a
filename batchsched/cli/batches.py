"""The commands about one batch or all: list, show, wait, results, cancel, explain."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchsched.cli import exits
from batchsched.cli.common import (
    Connect,
    about_one,
    changes_one,
    json_option,
    plain,
    print_json,
    print_list,
    say,
    server_options,
    show_batch,
    show_many,
    sure,
    watch_option,
    when,
    yes_option,
)

if TYPE_CHECKING:
    from batchsched.client import Batch, Client


@click.command("list")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="Show at most this many.")
@watch_option
@json_option
@server_options
def list_(limit: int, watch: bool, as_json: bool, connect: Connect) -> None:
    """List batches, newest first. With --json: one object a line."""
    with connect() as client:
        show_many(lambda: list(itertools.islice(client.batches.list(), limit)), _listed, as_json=as_json, watch=watch)


def _listed(batches: Sequence[Batch]) -> None:
    rows = [
        (
            batch.id,
            f"{batch.status} ({mark})" if (mark := _mark(batch)) else batch.status,
            batch.model or "",
            f"{batch.progress.requests_done}/{batch.request_counts.total}",
            str(batch.request_counts.failed),
            when(batch.deadline_at) or "",
            when(batch.created) or "",
        )
        for batch in batches
    ]
    print_list(("id", "status", "model", "done", "failed", "deadline", "submitted"), rows)


def _mark(batch: Batch) -> str:
    """What is to be known beside its status."""
    if batch.paused:
        return "paused"
    told = batch.batchsched.started and not batch.done
    if batch.batchsched.risk:
        return "at risk"
    return "stalled" if batch.progress.stalled else "told to start now" if told else ""


@click.command()
@watch_option
@about_one
def show(batch_id: str, watch: bool, as_json: bool, connect: Connect) -> None:
    """Show one batch: status, progress, verdict, carbon. With --watch: until it is done."""
    with connect() as client:
        show_many(
            lambda: [client.batches.retrieve(batch_id)],
            lambda found: show_batch(found[0], as_json),
            as_json=as_json,
            watch=watch,
            until=lambda found: found[0].done,
        )


@click.command()
@about_one
def wait(batch_id: str, as_json: bool, connect: Connect) -> int:
    """Wait until a batch is done.

    Exits 0 when it completed, 5 where lines failed, 6 where it expired or was cancelled, 1 where its input was not valid.
    """
    from batchsched.cli.progress import watch

    with connect() as client:
        batch = watch(client, batch_id)
    show_batch(batch, as_json)
    return exits.for_batch(batch)


@click.command()
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="Write output.jsonl and errors.jsonl into this folder."
)
@click.option("--follow", is_flag=True, help="Go on until the batch is done; exit as `wait` does.")
@about_one
def results(batch_id: str, out: Path | None, follow: bool, as_json: bool, connect: Connect) -> int:
    """Fetch a batch's results, also while it runs: into a folder, else as JSON lines on stdout.

    With --follow each line is printed once, as it appears, also when the server is started again meanwhile.
    """
    with connect() as client:
        batch = client.batches.wait(batch_id) if out and follow else client.batches.retrieve(batch_id)
        if out is None:
            told = _print(client, batch_id, follow)
            batch = client.batches.wait(batch_id) if follow else batch
        else:
            paths = _write(client, batch, out)
            told = bool(paths)
            if as_json:
                from batchsched.cli.printed import Fetched

                print_json(Fetched(batch.id, batch.status, tuple(paths)))
            else:
                click.echo("".join(f"{path}\n" for path in paths), nl=False)
    if not told:
        say(f"There are no results yet: the batch is {batch.status}.")
    return exits.for_batch(batch) if follow else exits.OK


def _print(client: Client, batch_id: str, follow: bool) -> bool:
    told = False
    for line in client.batches.results(batch_id, follow=follow):
        click.echo(json.dumps(plain(line), ensure_ascii=False))
        told = True
    return told


def _write(client: Client, batch: Batch, out: Path) -> list[str]:
    """The two files of a batch that is done, or what is there of one that runs; the paths of those that are not empty."""
    out.mkdir(parents=True, exist_ok=True)
    files = {out / "output.jsonl": batch.output_file_id, out / "errors.jsonl": batch.error_file_id}
    if batch.done:
        return [str(client.files.download(file_id, path)) for path, file_id in files.items() if file_id]
    parts = [path.with_name(f"{path.name}.part") for path in files]
    with parts[0].open("w", encoding="utf-8") as answers, parts[1].open("w", encoding="utf-8") as errors:
        for line in client.batches.results(batch.id):
            (answers if line.ok else errors).write(json.dumps(plain(line), ensure_ascii=False) + "\n")
    written = [str(part.replace(path)) for part, path in zip(parts, files, strict=True) if part.stat().st_size]
    for part in parts:
        part.unlink(missing_ok=True)
    return written


@click.command()
@yes_option
@changes_one
def cancel(batch_id: str, yes: bool, dry_run: bool, as_json: bool, connect: Connect) -> int:
    """Cancel a batch. Requests in flight may finish; what is done is kept."""
    if not dry_run and not sure(f"Cancel batch {batch_id}?", yes=yes):
        return exits.FAILURE
    with connect() as client:
        batch = client.batches.cancel(batch_id, dry_run=dry_run)
    show_batch(batch, as_json, dry_run=dry_run)
    return exits.OK


@click.command()
@about_one
def explain(batch_id: str, as_json: bool, connect: Connect) -> None:
    """Say in words why a batch runs when and where it does."""
    with connect() as client:
        explanation = client.batches.explain(batch_id)
    if as_json:
        print_json(explanation)
        return
    for sentence in explanation.sentences:
        click.echo(sentence)
