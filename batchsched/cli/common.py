"""What the commands share: options, the client, missing extras, and how things are printed."""

from __future__ import annotations

import functools
import gc
import json
import math
import os
import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from batchsched.cli.completing import batch_ids
from batchsched.cli.manners import quiet
from batchsched.errors import MissingExtra

if TYPE_CHECKING:
    from batchsched.cli.watching import Named
    from batchsched.client import Batch, Client
    from batchsched.settings import Loaded

Connect = Callable[[], "Client"]
T = TypeVar("T", bound="Named")

# One package of each extra that nothing else brings.
EXTRAS = {
    "server": ("fastapi", "uvicorn", "sqlmodel", "alembic", "ortools", "apscheduler", "pandas"),
    "worker": ("aiohttp", "psutil"),
}

config_option = click.option(
    "--config", type=click.Path(path_type=Path, dir_okay=False), help="Configuration file [default: ./batchsched.toml, if any]."
)
json_option = click.option("--json", "as_json", is_flag=True, help="JSON on stdout, and nothing else.")

dry_run_option = click.option("--dry-run", is_flag=True, help="Change nothing; show what would be.")
yes_option = click.option("-y", "--yes", is_flag=True, help="Do not ask first; elsewhere than on a terminal nothing is asked.")
watch_option = click.option(
    "--watch", is_flag=True, help="Look again every 2 s: drawn anew on a terminal, elsewhere an object a line when it changes."
)


@contextmanager
def loading() -> Generator[None]:
    """For imports of what runs for long: they stay to the end, and nobody looks through them for garbage, now or ever after."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


class Number(click.FloatRange):
    """A finite number in a range; click's own lets NaN through, and infinity where there is no upper end."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = super().convert(value, param, ctx)
        return found if math.isfinite(found) else self.fail(f"{value} is not a finite number.", param, ctx)


def _checked_deadline(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    from datetime import UTC

    from batchsched.errors import InvalidValue
    from batchsched.units import parse_deadline

    try:
        if value is not None:
            parse_deadline(value, datetime.now(UTC))
    except InvalidValue as problem:
        raise click.BadParameter(problem.message) from None
    return value


_DEADLINE = "A duration from now such as 6h, or an instant such as 2026-05-01T06:00:00Z"
deadline_option = click.option("--deadline", required=True, callback=_checked_deadline, help=f"{_DEADLINE}.")
on_deadline_option = click.option(
    "--on-deadline", type=click.Choice(["expire", "finish"]), help="What to do at the deadline [default: expire]."
)
priority_option = click.option("--priority", type=click.IntRange(-100, 100), help="Higher goes first among your own batches.")


def new_deadline_option(default: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`--deadline` of a batch that has one; `default`: what holds without it."""
    return click.option("--deadline", callback=_checked_deadline, help=f"{_DEADLINE} [default: {default}].")


def about_one(command: Callable[..., Any]) -> Callable[..., Any]:
    """What every command about one batch takes: its id, `--json` and the server."""
    return click.argument("batch_id", metavar="ID", shell_complete=batch_ids)(json_option(server_options(command)))


def changes_one(command: Callable[..., Any]) -> Callable[..., Any]:
    """What every command takes that changes one batch."""
    return dry_run_option(about_one(command))


def show_batch(batch: Batch, as_json: bool, *, dry_run: bool = False) -> None:
    """A batch, for people or as JSON; with `dry_run` as it would be."""
    if dry_run and not as_json:
        say(f"Nothing is changed. Batch {batch.id} would be as follows.")
    if as_json:
        print_json(batch)
    elif quiet():
        click.echo(batch.id)
    else:
        print_facts(summary(batch))


def show_many(
    look: Callable[[], Sequence[T]],
    draw: Callable[[Sequence[T]], None],
    *,
    as_json: bool,
    watch: bool,
    until: Callable[[Sequence[T]], bool] | None = None,
) -> None:
    """What is there: as JSON one object a line, for people as `draw` prints it; with `watch` again and again (watching.py)."""
    if watch:
        from batchsched.cli.watching import watch as watched

        watched(look, draw, as_json=as_json, until=until)
        return
    found = look()
    if as_json:
        for one in found:
            print_json(one)
    else:
        draw(found)


def server_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--server`, `--api-key` and `--config`: the command gets them as `connect`, which opens a client when it is called."""

    @functools.wraps(command)
    def connected(*args: Any, config: Path | None, server: str | None, api_key: str | None, **rest: Any) -> Any:
        return command(*args, connect=lambda: open_client(config, server, api_key), **rest)

    for option in (
        config_option,
        click.option("--api-key", help="Key of the server [default: from the configuration]."),
        click.option("--server", metavar="URL", help="The server [default: from the configuration]."),
    ):
        connected = option(connected)
    return connected


def lacking(extra: str) -> list[str]:
    """Those packages of an extra that are not installed."""
    return [name for name in EXTRAS[extra] if find_spec(name) is None]


def need(*extras: str) -> None:
    """Say which extra to install, where a part is missing."""
    missing = [extra for extra in extras if lacking(extra)]
    if missing:
        raise MissingExtra(
            f"This command needs batchsched's {' and '.join(missing)} part, which is not installed.",
            hint=f"pip install 'batchsched[{','.join(missing)}]'",
        )


def load(config: Path | None = None, **flags: Any) -> Loaded:
    """The configuration; flags by dotted key with `__` for the dot."""
    from batchsched import settings

    return settings.load(config, flags={key.replace("__", ".", 1): value for key, value in flags.items()})


def load_checked(config: Path | None = None, **flags: Any) -> Loaded:
    """The configuration, checked further than its form: cron lines, and that the forecast file is there.

    Raises InvalidConfiguration, naming file and key.
    """
    from batchsched.errors import InvalidConfiguration
    from batchsched.fleet import windows_by_key
    from batchsched.windows import check

    loaded = load(config, **flags)
    where = loaded.path or "the configuration"
    for name, window in windows_by_key(loaded.settings.pools, loaded.settings.windows).items():
        try:
            check(window)
        except InvalidConfiguration as problem:
            raise InvalidConfiguration(f"{where}: key '{name}.cron': {problem.message}") from None
    forecast = loaded.settings.forecast
    base = loaded.base_dir
    if forecast.source == "file" and not (base / forecast.path).is_file():
        raise InvalidConfiguration(f"{where}: key 'forecast.path': there is no file {base / forecast.path}.")
    return loaded


def open_client(config: Path | None, server: str | None, api_key: str | None) -> Client:
    """A client for the server that the flags or the configuration name."""
    from batchsched.client import Client

    known = load(config, worker__server_url=server, server__api_key=api_key).settings
    return Client(known.worker.server_url, known.server.api_key)


def plain(thing: Any) -> Any:
    """JSON-able builtins of one of our structures; the server's own answer where it was kept."""
    import msgspec

    return getattr(thing, "everything", None) or msgspec.to_builtins(thing)


def print_json(thing: Any) -> None:
    """One JSON object on one line."""
    click.echo(json.dumps(plain(thing), ensure_ascii=False))


def say(text: str) -> None:
    """A word for people, on stderr, out of the way of what is piped."""
    if not quiet():
        click.echo(text, err=True)


def sure(question: str, *, yes: bool) -> bool:
    """Is what cannot be undone to be done? People at a terminal are asked, unless they said so; a script has thought before."""
    if yes or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return True
    agreed = click.confirm(question, err=True)
    if not agreed:
        say("Nothing is changed.")
    return agreed


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table: drawn on a terminal, tab-separated otherwise."""
    if not sys.stdout.isatty():
        for row in (headings, *rows):
            click.echo("\t".join(row))
        return
    from rich.console import Console
    from rich.table import Column, Table

    # The name stays whole, so that it can be copied; what is beside it wraps.
    columns = [Column(text, no_wrap=not place) for place, text in enumerate(headings)]
    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*row)
    console = Console() if coloured() else Console(color_system=None)
    console.print(table, markup=False)


def coloured() -> bool:
    """May stdout have colours? On a terminal, unless NO_COLOR is set."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def print_list(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table of things that have a name, which is the first column: with `--quiet` the names alone."""
    if not quiet():
        print_table(headings, rows)
        return
    for name, *_ in rows:
        click.echo(name)


def print_facts(facts: Iterable[tuple[str, str | None]]) -> None:
    """Names and values in two columns; what is None is left out."""
    known = [(name, value) for name, value in facts if value is not None]
    width = max((len(name) for name, _ in known), default=0)
    for name, value in known:
        click.echo(f"{name:<{width}}  {value}")


def when(at: datetime | None) -> str | None:
    """An instant for people: in the machine's time zone, which is named."""
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z") if at else None


def grams(value: float | None) -> str:
    """A mass for people; `unknown` where it is not known."""
    from batchsched.units import format_grams

    return "unknown" if value is None else format_grams(value)


def energy(joules: float | None) -> str:
    """Joules in the unit that suits them."""
    if joules is None:
        return "unknown"
    size = abs(joules)
    return f"{joules:.3g} J" if size < 3600 else f"{joules / 3600:.4g} Wh" if size < 3.6e6 else f"{joules / 3.6e6:.4g} kWh"


def so_far(value: float | None, unknown_energy_j: float, unmeasured_s: float) -> str:
    """Grams of what is known, and of how much work none are known: never as if that were nothing."""
    from batchsched.units import format_duration

    missing = [f"{energy(unknown_energy_j)} whose grid is not yet known"] if unknown_energy_j else []
    missing += [f"{format_duration(unmeasured_s)} of work that nothing measured"] if unmeasured_s else []
    if value is None:
        return ": ".join(["unknown", *([" and ".join(missing)] if missing else [])])
    return f"{grams(value)} CO2e" + (f", without {' and '.join(missing)}" if missing else "")


def _models(batch: Batch) -> str | None:
    """Which may serve it. Before its validation ends nobody knows which one the lines name."""
    named = [] if batch.model else ["the one that its lines name"]
    return " or ".join([*named, *(batch.batchsched.models or ())]) if batch.batchsched.models else batch.model


def summary(batch: Batch) -> list[tuple[str, str | None]]:
    """A batch for people."""
    counts, progress, carbon, verdict = batch.request_counts, batch.progress, batch.carbon, batch.verdict
    risk, started = batch.batchsched.risk, batch.batchsched.started
    failed = f", {counts.failed} failed" if counts.failed else ""
    return [
        ("batch", batch.id),
        ("status", batch.status),
        ("model", _models(batch)),
        ("endpoint", batch.endpoint),
        # Before the validation ends nobody knows how many there are.
        (
            "requests",
            f"{progress.requests_done or counts.completed + counts.failed} of {counts.total} done{failed}"
            if counts.total
            else None,
        ),
        ("deadline", when(batch.deadline_at)),
        ("paused since", when(batch.batchsched.paused_at) if batch.paused else None),
        ("told to start", f"now, at {when(started.since)}" if started and not batch.done else None),
        ("waiting for", waiting(batch)),
        ("running on", ", ".join(progress.running_on) or None),
        (
            "verdict",
            verdict.reason or ("feasible" if verdict.feasible else "not feasible") if verdict and not batch.done else None,
        ),
        ("at risk", f"since {when(risk.since)}. {risk.reason}" if risk else None),
        ("expected finish", when(progress.expected_finish_at)),
        (
            "carbon",
            f"{so_far(carbon.grams, carbon.unknown_energy_j, carbon.unmeasured_s)} (run at once: {grams(carbon.grams_run_now)})"
            if carbon
            else None,
        ),
        *(("error", error_line(error)) for error in (batch.errors.data[:20] if batch.errors else ())),
    ]


def waiting(batch: Batch) -> str | None:
    """What a batch waits for and until when, in words; None where it does not wait."""
    progress = batch.progress
    if batch.done or not progress.waiting_for:
        return None
    until = f", until {when(progress.waiting_until)}" if progress.waiting_until else ""
    return f"{progress.waiting_for}{until}"


def error_line(error: Any) -> str:
    """One validation error for people."""
    where = f"line {error.line}: " if error.line else ""
    return f"{where}{error.message} [{error.code}]"
