"""The revisions of the schema that this version knows."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from alembic.script import ScriptDirectory

MIGRATIONS = Path(__file__).parent / "migrations"


@cache
def revisions() -> tuple[str, ...]:
    """All of them, the oldest first."""
    return tuple(script.revision for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions())[::-1]


def after(revision: str | None) -> list[str]:
    """Those to come after a schema's, the oldest first: none after one that is not known, all where there is no schema."""
    known = revisions()
    if revision is None:
        return list(known)
    return list(known[known.index(revision) + 1 :]) if revision in known else []
