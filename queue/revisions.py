"""The revisions of the schema that this version knows, told without loading what migrates: most servers find theirs current."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from sqlalchemy import Connection, inspect, text

MIGRATIONS = Path(__file__).parent / "migrations"
_TABLE = "alembic_version"


@cache
def revisions() -> tuple[str, ...]:
    """All of them, the oldest first: files are named by them."""
    return tuple(sorted(path.name.partition("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*.py")))


def revision_of(connection: Connection) -> str | None:
    """The one that a database's schema is at; None where it has none of ours."""
    if not inspect(connection).has_table(_TABLE):
        return None
    found: str | None = connection.scalar(text(f"SELECT version_num FROM {_TABLE}"))  # noqa: S608 - a constant of ours
    return found


def after(revision: str | None) -> list[str]:
    """Those to come after a schema's, the oldest first: none after one that is not known, all where there is no schema."""
    known = revisions()
    if revision is None:
        return list(known)
    return list(known[known.index(revision) + 1 :]) if revision in known else []
