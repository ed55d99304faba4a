"""Write the reference pages of docs/ from the code: api_reference.md, cli.md, configuration.md, engines.md, errors.md,
json.md with json.schema.json, metrics.md, sdk_reference.md, states.md.

`make docs` runs it; a test fails while a page differs from what it would write.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import click
import msgspec

from batchsched import engines, errors, feeds, settings
from batchsched.cli import exits
from batchsched.cli.main import COMMANDS, cli
from batchsched.fleet import GPU_TYPES, Draft, HostCpu, Launch, Pool, PoolWindow, ServedModel, Site, Slo, Window
from batchsched.queue.states import BATCH_TRANSITIONS, CHUNK_TRANSITIONS, TERMINAL
from tools import api_page, json_page, metrics_page, sdk_page

UNIONS = (Union, types.UnionType)
NEWLINE = "\n"  # Python 3.11 takes no backslash inside an f-string's braces
DOCS = Path(__file__).resolve().parent.parent / "docs"
NOTE = "<!-- Written by tools/make_docs.py from the code; change it there and run `make docs`. -->\n"

LINE_CODES = {
    "invalid_json_line": "the line is not a JSON object",
    "missing_required_parameter": "`custom_id`, `method`, `url` or `body` is missing",
    "invalid_type": "one of them has the wrong type",
    "invalid_value": "`method` is not POST, or `custom_id` is empty or too long",
    "invalid_url": "`url` differs from the batch's endpoint",
    "invalid_request": "`body.model` or the endpoint's own field (`messages`, `prompt`, `input`) is missing",
    "streaming_unsupported": "`body.stream` is set",
    "model_not_found": "the model is not served here",
    "model_mismatch": "the model differs from that of earlier lines",
    "duplicate_custom_id": "the `custom_id` was used on an earlier line",
    "line_too_long": "the line is longer than `server.max_line_bytes`",
    "too_many_requests": "the file has more lines than `server.max_lines`",
    "duplicate_key": "an object, at any depth, has the same key twice",
    "invalid_number": "a number is NaN, infinite, or too large to be read",
    "lone_surrogate": "a string has one half of a surrogate pair, which is no character",
    "too_deep": "objects and lists are nested too deep",
    "byte_order_mark": "the file begins with a byte order mark",
    "nul_byte": "the line has a NUL byte",
    "invalid_encoding": "the file is not in UTF-8",
    "compressed_file": "the file is compressed",
    "forbidden_field": "a field that lines may not have unless an operator allows it (see [input files](input_files.md))",
    "forbidden_url": "a URL of an image, a sound or a film from a host that no operator allowed",
    "empty_file": "the file has no requests",
}


def pages() -> dict[str, str]:
    """Each page's text by its name."""
    return {
        "api_reference.md": api_page.page(NOTE),
        "cli.md": cli_page(),
        "configuration.md": configuration_page(),
        "engines.md": engines_page(),
        "errors.md": errors_page(),
        "json.md": json_page.page(NOTE),
        "json.schema.json": json_page.schema_text(),
        "metrics.md": metrics_page.page(NOTE),
        "sdk_reference.md": f"# The SDK: reference\n\n{NOTE}\n{sdk_page.page()}",
        "states.md": states_page(),
    }


def table(headings: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def top() -> click.Context:
    """The context in which every help is made; click keeps what it once made of it, so that none may be made in another."""
    return click.Context(cli, info_name="batchsched", terminal_width=100, max_content_width=100, **cli.context_settings)


def commands(group: click.Group, parent: click.Context) -> Iterator[tuple[str, click.Command, click.Context]]:
    """Every command under a group, with its whole name, in the order of the help."""
    for name in group.list_commands(parent):
        command = group.get_command(parent, name)
        if command is None:
            raise LookupError(name)
        context = click.Context(command, info_name=name, parent=parent, terminal_width=100, max_content_width=100)
        if not isinstance(command, click.Group) or command.invoke_without_command:
            yield context.command_path, command, context
        if isinstance(command, click.Group):
            yield from commands(command, context)


def cli_page() -> str:
    """Every command with its help."""
    helps = [f"## {path}\n\n```\n{command.get_help(context)}\n```\n" for path, command, context in commands(cli, top())]
    codes = table(["exit code", "meaning"], [[str(code), meaning] for code, meaning in exits.MEANING.items()])
    words = table(["command", "what it does"], [[f"`{name}`", text] for name, (_, text) in COMMANDS.items()])
    return f"""# Commands

{NOTE}
{words}
- Every command that reads has `--json`: one object, or one a line, and nothing else on stdout ([which fields](json.md)).
- `--quiet` (`-q`) says nothing but results and errors: no progress, no remarks. Of what has a name it leaves the name: `submit
  -q` prints the id, `list -q` one a line, for `xargs`.
- `--watch` of `list`, `show`, `pool list`, `window list` and `schedule list` looks again every 2 seconds: drawn anew on a
  terminal, elsewhere a JSON object a line whenever one is new or changed. `show` ends with its batch, the others by Ctrl-C.
  `top` shows it all.
- What cannot be undone (`cancel`, `window remove`, `schedule remove`, `key revoke`) asks first on a terminal, unless `--yes`
  (`-y`) is given; in scripts nothing is asked.
- Tables are drawn and coloured on a terminal only; elsewhere they are lines with tabs. `NO_COLOR=1` takes the colours away.
- `-` is standard input where a file is taken, and standard output where one is given; all else then goes to stderr.
- `--dry-run` on what changes something: all is checked, and what would be is shown. `key create`, `forecast import`, `backfill`
  and `train` have none, for they only add; `serve`, `worker`, `partner`, `demo` and `profile run` run until they are done or
  stopped.
- `eval "$(batchsched completion bash)"` (or zsh; fish: `batchsched completion fish | source`) lets the shell complete commands,
  batch ids, pools, windows, schedules, zones and models.
- Errors say what is wrong and what to do; `batchsched --debug COMMAND` adds the traceback.

{codes}
{NEWLINE.join(helps)}"""


def configuration_page() -> str:
    """Every key of the TOML file."""
    whole = settings.Settings()
    sections = ("server", "worker", "forecast", "planner", "carbon", "retention", "logs", "traces")
    named: dict[str, type[msgspec.Struct]] = {
        "sites.NAME": Site,
        "pools.NAME": Pool,
        "pools.NAME.window": Window,
        "windows.NAME": PoolWindow,
        "pools.NAME.slo": Slo,
        "pools.NAME.cpu": HostCpu,
        "models.NAME": ServedModel,
        "models.NAME.draft": Draft,
        "launch.POOL": Launch,
        "tenants.NAME": settings.Tenant,
        "webhooks.NAME": settings.Webhook,
        "forecast.sources.NAME": feeds.FeedSource,
        "forecast.zones.ZONE": feeds.ZoneFeed,
    }
    tables = [
        *(struct_table(section, type(getattr(whole, section)), env=True) for section in sections),
        *(struct_table(heading, struct, env=False) for heading, struct in named.items()),
    ]
    return f"""# Configuration

{NOTE}
One TOML file: the one that `--config` or `BATCHSCHED_CONFIG` names, else `./batchsched.toml`, else
`~/.config/batchsched/batchsched.toml`. A flag beats the environment, the environment beats the file, the file beats the
default. `batchsched init` writes a commented file; `batchsched config show --origin` says who set what.

Unknown keys are refused. Relative paths count from the folder that a command is started in; `forecast.path` and
`carbon.catalogue` count from the file's own folder.

{NEWLINE.join(tables)}
GPU types: {", ".join(f"`{name}`" for name in GPU_TYPES)}, or `cpu`.
"""


def struct_table(heading: str, struct: type[msgspec.Struct], *, env: bool) -> str:
    """One section of the file as a table."""
    hints = get_type_hints(struct, include_extras=True)
    rows: list[list[str]] = []
    for field in msgspec.structs.fields(struct):
        kind, meaning = describe(hints[field.name])
        variable = "" if kind == "table" else f"`{settings.ENV_PREFIX}{heading}_{field.name}`".upper()
        rows.append([f"`{field.name}`", kind, default_of(field), meaning, *([variable] if env else [])])
    headings = ["key", "type", "default", "meaning", *(["environment"] if env else [])]
    first = (struct.__doc__ or "").strip().partition("\n")[0]
    return f"## [{heading}]\n\n{first}\n\n{table(headings, rows)}"


def describe(hint: Any) -> tuple[str, str]:
    """The type and the meaning of a field, from its annotation."""
    if get_origin(hint) in UNIONS:
        hint = next(part for part in get_args(hint) if part is not type(None))
    inner, *notes = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    metas = [note for note in notes if isinstance(note, msgspec.Meta)]
    meaning = " ".join(note.description for note in metas if note.description)
    limits = [
        f"{sign} {value}"
        for note in metas
        for sign, value in (("≥", note.ge), (">", note.gt), ("≤", note.le), ("<", note.lt))
        if value is not None
    ]
    return type_name(inner) + (f", {', '.join(limits)}" if limits else ""), meaning


def type_name(hint: Any) -> str:
    """A type as a TOML writer calls it."""
    if get_origin(hint) is Literal:
        return " or ".join(f"`{choice}`" for choice in get_args(hint))
    if get_origin(hint) in UNIONS:
        return type_name(next(part for part in get_args(hint) if part is not type(None)))
    if get_origin(hint) in {list, tuple}:
        return f"list of {type_name(get_args(hint)[0])}"
    if get_origin(hint) is dict:
        return "table"
    names = {date: "date", str: "text", int: "integer", float: "number", bool: "true or false"}
    return names.get(hint) or f"table `[pools.NAME.{hint.__name__.lower()}]`"


def default_of(field: Any) -> str:
    """A field's default as TOML."""
    if field.required:
        return "required"
    if field.default_factory is not msgspec.NODEFAULT:
        return f"`{field.default_factory()}`"
    return "none" if field.default is None else f"`{msgspec.json.encode(field.default).decode()}`"


def engines_page() -> str:
    """engines.md: the table of engines."""
    parts = [
        NOTE,
        "# Engines by version\n",
        "What a worker must know of them; [reused_gpus.md](reused_gpus.md) says what it does.\n",
    ]
    for engine in engines.ENGINE_NAMES:
        known = [fact for fact in engines.table() if fact.engine == engine]
        rows = [[fact.kind, f"`{fact.name}`", _versions(fact), fact.value, fact.source] for fact in known]
        parts += [f"## {engine}\n", table(["kind", "name", "versions", "value", "by whom, or why"], rows)]
    return NEWLINE.join(parts).rstrip() + NEWLINE


def _versions(fact: engines.Fact) -> str:
    edges = [f"from {fact.since}" if fact.since else "", f"before {fact.before}" if fact.before else ""]
    return ", ".join(edge for edge in edges if edge) or "all"


def errors_page() -> str:
    """Every error code."""
    rows = [
        [f"`{kind.code}`", str(kind.http_status), str(kind.exit_code), (kind.__doc__ or "").strip()] for kind in errors.walk()
    ]
    return f"""# Errors

{NOTE}
The server answers `{{"error": {{"message", "type", "param", "code", "hint"}}}}`. A command prints `Error: ...` and `Hint: ...` on
stderr and ends with the exit code. In Python the classes are in `batchsched.errors`.

{table(["code", "HTTP status", "exit code", "meaning"], rows)}
## Errors of an input file

One bad line fails the whole batch before anything runs. `batch.errors.data` lists each error with its 1-based line;
`batchsched validate FILE` shows the same without a server.

{table(["code", "meaning"], [[f"`{code}`", meaning] for code, meaning in LINE_CODES.items()])}
## Errors of single requests

They stand in the error file. A request that the engine refused has its answer in `response` (status and body) and no `error`.
One that never had an answer has `error.code`: `batch_expired`, `batch_cancelled`, `engine_crash` where the request ended the
engine each time it ran, `engine_error` where no whole answer came in two attempts, `engine_failed` where the engine failed in
every attempt, or `worker_error` where the worker could not handle it.
"""


def states_page() -> str:
    """The two state machines as diagrams."""
    return f"""# States

{NOTE}
One table in `queue/states.py` holds every step. The schema's CHECK constraints are made from it, and each step is an update that
compares the old state first, so that two processes cannot both take it.

## A batch

The names are OpenAI's. A batch waits for clean hours in `in_progress`; `batchsched show` says what it waits for.
A batch that ended goes back to `in_progress` only by `batchsched retry`.

{diagram(BATCH_TRANSITIONS, "validating", TERMINAL)}
## A chunk

A chunk is a run of consecutive requests. `pending` waits for a worker. `leased` is held by one worker with a fencing token that
only grows; a lost worker, a closed window or a shutdown brings it back to `pending`. `done`: every line has its result. `closed`:
the batch ended before that. A retry opens what has failed or unfinished lines again.

{diagram(CHUNK_TRANSITIONS, "pending", frozenset({"done", "closed"}))}"""


def diagram(transitions: dict[str, frozenset[str]], first: str, ends: frozenset[str]) -> str:
    """A Mermaid state diagram of a transition table; `ends`: states that may be the last."""
    lines = [f"    [*] --> {first}"]
    for state, after in transitions.items():
        lines += [f"    {state} --> {target}" for target in sorted(after)]
        lines += [f"    {state} --> [*]"] if state in ends else []
    return "\n".join(["```mermaid", "stateDiagram-v2", *lines, "```"]) + "\n"


if __name__ == "__main__":
    for name, text in pages().items():
        (DOCS / name).write_text(text, encoding="utf-8")
        print(f"docs/{name}")
