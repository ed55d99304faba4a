"""A change that may only be looked at: with `dry_run` all of it is rolled back, its entry in the audit log included."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

from sqlalchemy import Connection

from batchsched.queue.database import Database


class _Undone(Exception):
    """What was done is to be undone: somebody only wanted to see it."""


@contextmanager
def changing(database: Database, *, dry_run: bool, then: Callable[[], None] = lambda: None) -> Generator[Connection]:
    """A transaction that is rolled back at its end where it was only to be seen; `then` is called after one that was not."""
    try:
        with database.write() as connection:
            yield connection
            if dry_run:
                raise _Undone
    except _Undone:
        return
    then()
