"""What a tenant takes up at present: what its quotas are held against."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, func, literal_column, select

from batchsched.queue.rows import Row, every
from batchsched.queue.states import OPEN
from batchsched.queue.tables import batches, files

_LOCKS_OF_QUOTAS = 8424


def lock(connection: Connection, tenant: str) -> None:
    """Let a tenant's admissions follow each other, each to the end of its transaction: two cannot both take the last place."""
    if connection.dialect.name == "postgresql":  # differs because SQLite has only one writer anyway
        connection.execute(select(func.pg_advisory_xact_lock(_LOCKS_OF_QUOTAS, func.hashtext(tenant))))


_FACTS = (
    *("id", "tenant", "model", "endpoint", "total", "completed", "failed", "input_bytes", "max_tokens_total"),
    *("input_tokens", "output_tokens", "verdict", "options"),
)


def open_batches(connection: Connection, tenant: str) -> list[Row]:
    """A tenant's batches that are not finished: their sizes, what is done of them, and their verdicts."""
    mine = (batches.c.state.in_(sorted(OPEN)), batches.c.tenant == tenant)
    return every(connection, select(*(batches.c[name] for name in _FACTS)).where(*mine))


def stored_bytes(connection: Connection, tenant: str) -> int:
    """Bytes of a tenant's files, inputs and results alike."""
    return int(connection.scalar(select(func.coalesce(func.sum(files.c.bytes), 0)).where(files.c.tenant == tenant)) or 0)


def database_bytes(connection: Connection) -> int:
    """What the database takes up, all its tables and indexes."""
    of_postgres = "pg_database_size(current_database())"
    of_sqlite = "(SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size())"
    size = of_postgres if connection.dialect.name == "postgresql" else of_sqlite
    return int(connection.scalar(select(literal_column(size))) or 0)


def first_expiry(connection: Connection, tenant: str) -> datetime | None:
    """When the first of a tenant's files will be removed by itself."""
    query = select(files.c.expires_at).where(files.c.tenant == tenant, files.c.expires_at.is_not(None))
    return connection.scalar(query.order_by(files.c.expires_at).limit(1))
