"""`batchsched config`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchsched.cli.common import config_option, json_option, load_checked, print_json, say

if TYPE_CHECKING:
    from batchsched.settings import Loaded

MASK = "********"


@click.group()
def config() -> None:
    """The configuration in force."""


@config.command()
@click.option("--origin", is_flag=True, help="Say of each key who set it.")
@config_option
@json_option
def show(origin: bool, config: Path | None, as_json: bool) -> None:
    """Show every setting: file, environment and defaults taken together. Keys are masked."""
    from batchsched.cli import toml

    loaded = load_checked(config)
    tree = masked(loaded)
    if as_json and origin:
        print_json({key: {"value": value, "origin": origin_of(loaded, key)} for key, value in leaves(tree)})
    elif as_json:
        print_json(tree)
    elif origin:
        for key, value in leaves(tree):
            click.echo(f"{key} = {toml.value(value)}  # {origin_of(loaded, key)}")
    else:
        say(f"# from {loaded.path or 'defaults and the environment; there is no configuration file'}")
        click.echo(toml.dumps(tree), nl=False)


def masked(loaded: Loaded) -> dict[str, Any]:
    """The settings as plain data, without secrets."""
    import msgspec

    from batchsched.settings import SECRET_KEYS

    def mask(tree: dict[str, Any]) -> dict[str, Any]:
        for key, value in tree.items():
            if isinstance(value, dict):
                mask(value)
            elif key in SECRET_KEYS and value:
                tree[key] = MASK
        return tree

    return mask(msgspec.to_builtins(loaded.settings))


def leaves(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted keys and values; what is not set is left out."""
    found: list[tuple[str, Any]] = []
    for key, value in tree.items():
        if isinstance(value, dict):
            found += leaves(value, f"{prefix}{key}.")
        elif value is not None:
            found.append((prefix + key, value))
    return found


def origin_of(loaded: Loaded, key: str) -> str:
    """Who set a dotted key."""
    return loaded.origins.get(key, "default")
