"""The commands that change a batch on its way: pause, resume, update."""

from __future__ import annotations

import click

from batchsched.cli.common import Connect, about_one, new_deadline_option, priority_option, show_batch


@click.command()
@about_one
def pause(batch_id: str, as_json: bool, connect: Connect) -> None:
    """Pause a batch: nothing more of it starts, and what runs is given back.

    Its deadline holds all the same; `batchsched update` moves it.
    """
    with connect() as client:
        show_batch(client.batches.pause(batch_id), as_json)


@click.command()
@about_one
def resume(batch_id: str, as_json: bool, connect: Connect) -> None:
    """Let a paused batch go on."""
    with connect() as client:
        show_batch(client.batches.resume(batch_id), as_json)


@click.command()
@new_deadline_option("as it is")
@priority_option
@about_one
def update(batch_id: str, deadline: str | None, priority: int | None, as_json: bool, connect: Connect) -> None:
    """Change the deadline or the priority of a batch that has not ended. A new deadline brings a new verdict."""
    if deadline is None and priority is None:
        raise click.UsageError("Say what to change: --deadline or --priority.")
    with connect() as client:
        show_batch(client.batches.update(batch_id, deadline=deadline, priority=priority), as_json)
