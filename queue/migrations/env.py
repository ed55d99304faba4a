"""Runs migrations on the connection that `database.upgrade` hands over."""

from alembic import context
from sqlalchemy import Connection
from sqlmodel import SQLModel

import batchsched.queue.tables  # noqa: F401 - fills the metadata  # pyright: ignore[reportUnusedImport]

ONE_AT_A_TIME = 0x6261746368  # any number, the same in every server
connection: Connection = context.config.attributes["connection"]
if connection.dialect.name == "postgresql":
    connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
    connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({ONE_AT_A_TIME})")
context.configure(connection=connection, target_metadata=SQLModel.metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
connection.commit()
