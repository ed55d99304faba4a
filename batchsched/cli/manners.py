"""What all commands have in common, given to each as it is loaded: an example, `--quiet`, and the order of its options."""

from __future__ import annotations

import click

from batchsched.cli.examples import EXAMPLES

QUIET = "batchsched.quiet"
"""The name in click's `meta` under which it is kept that nothing is to be said."""
SHARED = ("watch", "dry_run", "yes", "as_json", "quiet", "server", "api_key", "config")
"""Options of many commands, in the order in which helps show them, behind a command's own."""


def give(name: str, command: click.Command) -> None:
    """To a command, and to each that it holds. Once is enough, and twice does no harm."""
    if name in EXAMPLES:
        command.epilog = f"Example: batchsched {EXAMPLES[name]}"
        if not any(one.name == "quiet" for one in command.params):
            command.params.append(_quiet_option())
        command.params.sort(key=_rank)
    if isinstance(command, click.Group):
        for below, one in command.commands.items():
            give(f"{name} {below}", one)


def _quiet_option() -> click.Option:
    said = "Say nothing but results and errors: no progress, no remarks; of what has a name, the name alone."
    return click.Option(["-q", "--quiet"], is_flag=True, expose_value=False, callback=_silence, help=said)


def _silence(context: click.Context, _option: click.Parameter, value: bool) -> None:
    if value:
        context.meta[QUIET] = True


def _rank(one: click.Parameter) -> int:
    name = one.name or ""
    return SHARED.index(name) + 1 if name in SHARED else 0


def quiet() -> bool:
    """Does the command that runs say nothing but results and errors?"""
    context = click.get_current_context(silent=True)
    return context is not None and QUIET in context.meta
