"""The commands that change a batch on its way: retry, pause, resume, start, update."""

from __future__ import annotations

import click

from batchsched.cli.common import Connect, changes_one, new_deadline_option, priority_option, show_batch


@click.command()
@new_deadline_option("as long as at first")
@changes_one
def retry(batch_id: str, deadline: str | None, dry_run: bool, as_json: bool, connect: Connect) -> None:
    """Run again what failed or was left undone of a batch that completed, expired or was cancelled.

    What was answered is kept and never runs again. At the end, new result files hold the old answers and the new.
    """
    with connect() as client:
        show_batch(client.batches.retry(batch_id, deadline=deadline, dry_run=dry_run), as_json, dry_run=dry_run)


@click.command()
@changes_one
def pause(batch_id: str, dry_run: bool, as_json: bool, connect: Connect) -> None:
    """Pause a batch: nothing more of it starts, and what runs is given back.

    Its deadline holds all the same; `batchsched update` moves it.
    """
    with connect() as client:
        show_batch(client.batches.pause(batch_id, dry_run=dry_run), as_json, dry_run=dry_run)


@click.command()
@changes_one
def resume(batch_id: str, dry_run: bool, as_json: bool, connect: Connect) -> None:
    """Let a paused batch go on."""
    with connect() as client:
        show_batch(client.batches.resume(batch_id, dry_run=dry_run), as_json, dry_run=dry_run)


@click.command()
@changes_one
def start(batch_id: str, dry_run: bool, as_json: bool, connect: Connect) -> None:
    """Start a batch now: it waits no longer for a better hour or place, only for room.

    Deadlines of other batches hold all the same. A paused batch is to be resumed first.
    """
    with connect() as client:
        show_batch(client.batches.start(batch_id, dry_run=dry_run), as_json, dry_run=dry_run)


@click.command()
@new_deadline_option("as it is")
@priority_option
@changes_one
def update(batch_id: str, deadline: str | None, priority: int | None, dry_run: bool, as_json: bool, connect: Connect) -> None:
    """Change the deadline or the priority of a batch that has not ended. A new deadline brings a new verdict."""
    if deadline is None and priority is None:
        raise click.UsageError("Say what to change: --deadline or --priority.")
    with connect() as client:
        changed = client.batches.update(batch_id, deadline=deadline, priority=priority, dry_run=dry_run)
    show_batch(changed, as_json, dry_run=dry_run)
