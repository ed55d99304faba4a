"""`batchsched completion`: the script that teaches a shell."""

from __future__ import annotations

import click

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", metavar="SHELL", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print the script by which a SHELL completes commands, options, batch ids, pools, windows, schedules and models.

    Try it by: eval "$(batchsched completion bash)". For good, put that line into ~/.bashrc (zsh: ~/.zshrc); for fish:
    batchsched completion fish > ~/.config/fish/completions/batchsched.fish
    """
    from click.shell_completion import get_completion_class

    from batchsched.cli.main import cli

    made = get_completion_class(shell)
    if made is None:
        raise click.UsageError(f"Nothing is known of the shell '{shell}'.")
    click.echo(made(cli, {}, "batchsched", "_BATCHSCHED_COMPLETE").source())
