"""PostgreSQL under the queue, by psycopg 3: any number of servers at once. Writers that meet on a row wait there."""

from __future__ import annotations

import select
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DisconnectionError
from sqlalchemy.pool import NullPool

from batchsched.errors import InvalidConfiguration, MissingExtra

OLDEST = (14,)
"""The first version that ends silent sessions (`idle_session_timeout`), which the election of a leader rests on."""
SESSION = {
    "timezone": "UTC",
    "synchronous_commit": "on",
    "statement_timeout": "30s",
    "lock_timeout": "15s",
    "idle_in_transaction_session_timeout": "60s",
    "random_page_cost": "1.1",
}
"""Of every connection: what is committed is on the disk; a server that hangs does not hold locks for ever; disks do not turn."""
READING = {**SESSION, "default_transaction_read_only": "on", "statement_timeout": "600s"}
"""Of one who looks at months of a database that servers work in: he can change nothing, and may take his time."""
KEEPALIVES = {
    "connect_timeout": 10,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
"""A peer that vanished without a word is noticed within about ten seconds; an unsent byte within fifteen."""


class Postgres:
    """A pool of connections."""

    def __init__(self, url: str, *, reading: bool = False) -> None:
        """Connects to nothing yet; `reading`: with connections on which nothing can be changed.

        Raises InvalidConfiguration for a bad URL, MissingExtra without the driver.
        """
        address = parse_url(url)
        self.name = f"The database {address.render_as_string(hide_password=True)}"
        self._address = address
        session = READING if reading else SESSION
        self.writer = _engine(address, "batchsched", session, pool_size=8, max_overflow=12, pool_timeout=20)
        if reading:  # each time: a connection that comes back from a reader would begin to write whatever the session says
            self.writer = self.writer.execution_options(postgresql_readonly=True)
        self._reader = self.writer.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        self._single = self.writer.execution_options(isolation_level="AUTOCOMMIT")

    @contextmanager
    def write(self) -> Generator[Connection]:
        """A transaction at READ COMMITTED: what is read to be changed must be locked."""
        with self.writer.begin() as connection:
            yield connection

    @contextmanager
    def statement(self) -> Generator[Connection]:
        """For one statement, which is a transaction by itself: two round trips fewer."""
        with self._single.connect() as connection:
            yield connection

    @contextmanager
    def read(self) -> Generator[Connection]:
        """A read-only transaction over one snapshot."""
        with self._reader.connect() as connection:
            connection.begin()
            yield connection

    def aside(self, name: str, *, idle_s: int) -> Engine:
        """An engine whose connections are no part of the pool, in autocommit; the server ends one that is silent for `idle_s`."""
        session = {**SESSION, "statement_timeout": "5s", "idle_session_timeout": f"{idle_s}s"}
        return _engine(self._address, name, session, poolclass=NullPool, isolation_level="AUTOCOMMIT")

    def checkpoint(self) -> None:
        """PostgreSQL does this by itself."""

    def close(self) -> None:
        """Close every connection."""
        self.writer.dispose()


def parse_url(url: str) -> URL:
    """The address, with our driver. Raises InvalidConfiguration."""
    try:
        address = make_url(url)
    except (ArgumentError, ValueError):
        address = None
    if address is None or address.drivername not in {"postgresql", "postgres", "postgresql+psycopg"}:
        raise InvalidConfiguration(
            "key 'server.database_url' is not the address of a PostgreSQL database.",
            hint="Write it as postgresql://user@host:5432/name; the password may stand in PGPASSFILE.",
        )
    return address.set(drivername="postgresql+psycopg")


def _engine(address: URL, name: str, session: dict[str, str], **pool: Any) -> Engine:
    """An engine whose connections give up rather than hang. Raises MissingExtra."""
    options = " ".join(f"-c {key}={value}" for key, value in session.items())
    arguments = {**KEEPALIVES, "application_name": name, "options": f"{options} {address.query.get('options', '')}".strip()}
    try:
        made = create_engine(address, connect_args=arguments, **pool)
    except ImportError:
        raise MissingExtra("PostgreSQL needs the extra 'postgres'.", hint="pip install 'batchsched[postgres]'") from None

    @event.listens_for(made, "checkout")
    def _on_checkout(connection: Any, _record: Any, _proxy: Any) -> None:  # pyright: ignore[reportUnusedFunction]
        # A server that ended the connection has written so: a glance at the socket costs no round trip, as a ping would.
        if connection.closed or _has_word(connection.fileno()):
            raise DisconnectionError("the database closed this connection")

    return made


def _has_word(socket: int) -> bool:
    poll = select.poll()
    poll.register(socket, select.POLLIN)
    return bool(poll.poll(0))
