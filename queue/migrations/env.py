"""Runs migrations on the connection that `database.upgrade` hands over."""

from alembic import context
from sqlalchemy import Connection
from sqlmodel import SQLModel

import batchsched.queue.tables  # noqa: F401 - fills the metadata  # pyright: ignore[reportUnusedImport]

connection: Connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=SQLModel.metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
connection.commit()
