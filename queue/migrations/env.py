"""Runs migrations on the connection that `database.upgrade` hands over."""

from typing import Any

from alembic import context
from sqlalchemy import Connection
from sqlmodel import SQLModel

import batchsched.queue.tables  # noqa: F401 - fills the metadata  # pyright: ignore[reportUnusedImport]

ONE_AT_A_TIME = 0x6261746368  # any number, the same in every server
connection: Connection = context.config.attributes["connection"]
sqlite = connection.dialect.name == "sqlite"


def _foreign_keys(word: str) -> None:
    """SQLite changes a table by making it anew: references to it must bear that for a moment."""
    driver: Any = connection.connection.driver_connection
    driver.execute(f"PRAGMA foreign_keys={word}")  # which does nothing within a transaction


if sqlite:
    _foreign_keys("OFF")
else:
    connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
    connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({ONE_AT_A_TIME})")
context.configure(connection=connection, target_metadata=SQLModel.metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
if sqlite and (broken := connection.exec_driver_sql("PRAGMA foreign_key_check").first()):
    raise RuntimeError(f"the migration would leave a reference to nothing: {broken}")
connection.commit()
if sqlite:
    _foreign_keys("ON")
