"""`batchsched`: the group of all commands. Nothing but click is imported until a command is chosen."""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn

import click

from batchsched import __version__
from batchsched.cli import exits
from batchsched.errors import BatchschedError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

# name: (module:attribute, help in one line). The order is the order of `batchsched --help`.
COMMANDS = {
    "run": ("run:run", "Run one file of requests from start to end, here, with no set-up."),
    "demo": ("demo:demo", "Show a batch move to cleaner hours, in minutes, on a tiny model."),
    "init": ("init:init", "Write a commented configuration file."),
    "doctor": ("doctor:doctor", "Check this machine and its set-up."),
    "validate": ("validate:validate", "Check a batch file without a server."),
    "config": ("config:config", "Show the configuration in force."),
    "serve": ("serve:serve", "Run the server."),
    "backup": ("backup:backup", "Copy the server's database and files while it works."),
    "migrate": ("backup:migrate", "Bring the database's schema to this version."),
    "worker": ("worker:worker", "Run a worker beside a GPU."),
    "partner": ("partner:partner", "Run the second engine of a mode of serving that takes two."),
    "top": ("top:top", "Watch pools, windows, batches and the grid."),
    "submit": ("submit:submit", "Submit a batch."),
    "list": ("batches:list_", "List batches, newest first."),
    "show": ("batches:show", "Show one batch."),
    "wait": ("batches:wait", "Wait until a batch is done."),
    "results": ("batches:results", "Fetch a batch's results."),
    "cancel": ("batches:cancel", "Cancel a batch; what is done is kept."),
    "retry": ("operations:retry", "Run again what failed or was left undone."),
    "pause": ("operations:pause", "Pause a batch; its deadline holds."),
    "resume": ("operations:resume", "Let a paused batch go on."),
    "start": ("operations:start", "Start a batch now, whatever the plan says."),
    "update": ("operations:update", "Change a batch's deadline or priority."),
    "explain": ("batches:explain", "Say why a batch runs when and where it does."),
    "report": ("report:report", "Energy, grams and savings of one batch or of all."),
    "plan": ("plan:plan", "The plan in force."),
    "window": ("window:window", "Windows: when pools are open."),
    "schedule": ("schedule:schedule", "Recurring jobs: files become batches by a cron line."),
    "pool": ("pool:pool", "Pools: see them, take them out of service, open them again."),
    "profile": ("profile:profile", "How fast and at what power each pool runs each model."),
    "forecast": ("forecast:forecast", "Forecasts of carbon intensity, and what was known when."),
    "carbon": ("carbon:carbon", "What hardware cost to make, and what running it costs; needs no server."),
    "simulate": ("simulate:simulate", "What policies would have emitted, on a virtual clock; needs no server."),
    "audit": ("audit:audit", "Who did what, when and to what."),
    "key": ("key:key", "API keys of tenants, operators and workers."),
    "completion": ("completion:completion", "Let your shell complete commands, ids and names."),
}


class LazyGroup(click.Group):
    """A group whose help costs no imports: a command's module is loaded when it is run."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        loaded: click.Command = getattr(importlib.import_module(f"batchsched.cli.{module}"), attribute)
        from batchsched.cli.manners import give

        give(cmd_name, loaded)
        return loaded

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        return [CompletionItem(name, help=text) for name, (_, text) in COMMANDS.items() if name.startswith(incomplete)]

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0] if args else ""
        if name and not name.startswith("-") and name not in COMMANDS:
            import difflib

            near = difflib.get_close_matches(name, COMMANDS, 1)
            ctx.fail(f"There is no command '{name}'." + (f" Did you mean '{near[0]}'?" if near else ""))
        return super().resolve_command(ctx, args)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """Offline LLM batches at the cleanest time that the deadline allows."""
    ctx.obj = {"debug": debug}


def main(args: list[str] | None = None) -> NoReturn:
    """Run the command line and exit; every failure is one clear sentence on stderr and a documented exit code."""
    arguments = sys.argv[1:] if args is None else args
    debug = "--debug" in arguments
    try:
        code: Any = cli.main(arguments, prog_name="batchsched", standalone_mode=False)
    except click.exceptions.Exit as stop:
        code = stop.exit_code
    except click.ClickException as problem:
        problem.show()
        code = exits.USAGE if isinstance(problem, click.UsageError) else problem.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("Stopped.", err=True)
        code = exits.INTERRUPTED
    except BrokenPipeError:
        # Whoever read us (`| head`) has seen enough; keep the interpreter from complaining about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = exits.OK
    except Exception as problem:
        if debug:
            raise
        code = complain(problem)
    sys.exit(code if isinstance(code, int) else exits.OK)


def complain(problem: Exception) -> int:
    """Say what went wrong, and what to do about it; the exit code."""
    if isinstance(problem, BatchschedError):
        message, hint, code = problem.message, problem.hint, problem.exit_code
    elif isinstance(problem, OSError):
        message, hint, code = str(problem), None, exits.FAILURE
    elif isinstance(problem, ModuleNotFoundError) and not (problem.name or "batchsched").startswith("batchsched"):
        message, hint, code = (
            f"The Python package '{problem.name}' is not installed.",
            "pip install 'batchsched[all]'",
            exits.USAGE,
        )
    else:
        message = f"This should not have happened: {type(problem).__name__}: {problem}"
        hint, code = "`batchsched --debug ...` shows where; please report it.", exits.FAILURE
    click.echo(f"Error: {message}", err=True)
    if hint := hint or exits.NEXT.get(code):
        click.echo(f"Hint: {hint}", err=True)
    return code
