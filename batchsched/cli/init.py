"""`batchsched init`: a commented configuration file, made from the descriptions that stand beside the settings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import click

from batchsched.cli.common import say
from batchsched.cli.named_files import STDIO
from batchsched.fleet import Window

# What the file declares: this machine as one site with one pool. The model is for people to name; the rest are defaults.
_EXAMPLES: dict[str, dict[str, Any]] = {
    "sites.home": {"zone": "WORLD"},
    "pools.local": {"site": "home", "gpu": "cpu", "kind": "cpu"},
}
# What commented-out keys without a default show.
_SHOWN = {"cron": "0 22 * * mon-fri", "duration": "8h", "pool": "local"}


@click.command()
@click.argument("path", type=click.Path(allow_dash=True, path_type=Path), required=False, metavar="[PATH]")
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@click.option("--dry-run", is_flag=True, help="Write nothing; print the file, as `init -` does.")
def init(path: Path | None, force: bool, dry_run: bool) -> None:
    """Write a commented configuration file [default: ./batchsched.toml]; with - print it."""
    from batchsched.errors import InvalidConfiguration
    from batchsched.settings import FILE_NAME

    if dry_run or str(path) == STDIO:
        click.echo(template(), nl=False)
        return

    path = path or Path(FILE_NAME)
    if path.is_dir():
        path /= FILE_NAME
    try:
        with path.open("w" if force else "x", encoding="utf-8") as out:
            out.write(template())
    except FileExistsError:
        raise InvalidConfiguration(f"{path} is there already.", hint="--force writes over it.") from None
    say(f"Wrote {path}. Fill in zone, GPU and at least one model; `batchsched doctor --config {path}` checks it.")


def template() -> str:
    """The file: every setting with its description; those that have a default are commented out and show it."""
    from batchsched.settings import Settings

    lines = [
        "# batchsched configuration. A line that is commented out shows the default.",
        "# To fill in: the zone of the site, the GPU of the pool, and at least one model (at the end): without it no batch runs.",
        "# The environment wins over this file (BATCHSCHED_SERVER_PORT for server.port), and flags win over both.",
        "",
    ]
    for section, hint in get_type_hints(Settings, include_extras=True).items():
        kind = _bare(hint)
        if get_origin(kind) is dict:
            lines += _named(section, get_args(kind)[1])
        else:
            lines += _section(section, kind, {})
    return "\n".join(lines).rstrip() + "\n"


def _named(section: str, kind: Any) -> Iterator[str]:
    """A section of things by name: an example of each, set where a file needs one to be of use."""
    for dotted, example in _EXAMPLES.items():
        if dotted.startswith(f"{section}."):
            yield from _section(dotted, kind, example)
            if section == "pools":
                yield from _aside("pools.local.window", Window)
    examples = {"windows": "windows.nights", "models": 'models."organisation/model"', "tenants": "tenants.team"}
    aside = (examples | {"launch": "launch.local"}).get(section)
    if aside:
        yield from _aside(aside, kind)


def _aside(name: str, kind: Any) -> Iterator[str]:
    """A section that is wholly commented out."""
    yield f"# {_purpose(kind)}"
    yield f"# [{name}]"
    yield from _keys(kind, {})
    yield ""


def _section(name: str, kind: Any, given: dict[str, Any]) -> Iterator[str]:
    yield f"# {_purpose(kind)}"
    yield f"[{name}]"
    yield from _keys(kind, given)
    yield ""


def _purpose(kind: Any) -> str:
    return (kind.__doc__ or "").strip().splitlines()[0]


def _keys(kind: Any, given: dict[str, Any]) -> Iterator[str]:
    import msgspec

    from batchsched.cli import toml

    hints = get_type_hints(kind, include_extras=True)
    for field in msgspec.structs.fields(kind):
        if field.name == "window" or field.default_factory is dict:  # tables of their own
            continue
        yield f"# {description(hints[field.name])}."
        if field.name in given:
            yield f"{field.name} = {toml.value(given[field.name])}"
            continue
        factory: Any = field.default_factory
        default = field.default if factory is msgspec.NODEFAULT else factory()
        if default is msgspec.NODEFAULT:
            default = _SHOWN[field.name]
        yield f"# {field.name} =" if default is None else f"# {field.name} = {toml.value(default)}"


def description(hint: Any) -> str:
    """What a setting is for: the text of its Meta, wherever in the annotation it stands."""
    for part in (hint, *get_args(hint)):
        for meta in getattr(part, "__metadata__", ()):
            if getattr(meta, "description", None):
                return str(meta.description)
    return ""


def _bare(hint: Any) -> Any:
    return get_args(hint)[0] if hasattr(hint, "__metadata__") else hint
