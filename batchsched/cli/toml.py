"""Writing TOML: settings as a file that loads back to the same settings, with a comment beside each key where asked."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any


def dumps(tree: Mapping[str, Any]) -> str:
    """A tree of tables and plain values as TOML; None is left out, for TOML has no null."""
    return "\n".join(_table(tree, ())) + "\n"


def value(thing: Any) -> str:
    """One plain value."""
    if isinstance(thing, list | tuple):
        return f"[{', '.join(value(item) for item in thing)}]"
    if isinstance(thing, str):
        # JSON's escapes are TOML's, but for DEL, which JSON leaves as it is.
        return json.dumps(thing, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(thing)


def key(name: str) -> str:
    """A key, quoted where it must be."""
    bare = name.isascii() and name.replace("-", "").replace("_", "").isalnum()
    return name if bare else value(name)


def _table(tree: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    plain = {name: thing for name, thing in tree.items() if thing is not None and not isinstance(thing, Mapping)}
    if path and (plain or not tree):
        yield f"[{'.'.join(map(key, path))}]"
    for name, thing in plain.items():
        yield f"{key(name)} = {value(thing)}"
    if plain:
        yield ""
    for name, thing in tree.items():
        if isinstance(thing, Mapping):
            yield from _table(thing, (*path, name))
