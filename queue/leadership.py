"""Which of several servers plans and keeps house: the one that holds an advisory lock of the database.

The lock belongs to a database session of its own and ends with it: at once where the process dies, after IDLE_S where it hangs or
its network does. The leader says a word every BEAT_S, and trusts the last one for SURE_S: less than IDLE_S, so that it stops
to lead before another can begin. What it writes must bear repetition all the same: a step in hand may outlast its lead.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable

from sqlalchemy import Connection, Engine, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError

from batchsched.clock import Clock
from batchsched.errors import BatchschedError
from batchsched.queue.database import Database
from batchsched.queue.tables import leadership

log = logging.getLogger(__name__)
BEAT_S = 2.0
SURE_S = 7.0
IDLE_S = 10
_LOCK = text("SELECT pg_try_advisory_lock(0x6c656164)")
_BEAT = text("SELECT 1")
_FIRST = insert(leadership)
_WIN = _FIRST.on_conflict_do_update(
    index_elements=[leadership.c.id],
    set_={
        "epoch": leadership.c.epoch + 1,
        "server_id": _FIRST.excluded.server_id,
        "inputs": _FIRST.excluded.inputs,
        "since": _FIRST.excluded.since,
    },
).returning(leadership.c.epoch)


def has_inputs(connection: Connection) -> bool | None:
    """Has the server that leads, or led last, a folder of recurring jobs' files? None: that is not known."""
    found: bool | None = connection.scalar(select(leadership.c.inputs))
    return found


class Leadership:
    """This server's part in the election. On SQLite there is one server, and it leads from its start."""

    def __init__(
        self, database: Database, server_id: str, clock: Clock, won: Callable[[], None], *, inputs: bool = False
    ) -> None:
        """`won` is called each time this server is about to lead; where it raises, the server does not, and tries again.
        `inputs`: has it a folder of recurring jobs' files?"""
        self._database = database
        self._server_id, self._inputs = server_id, inputs
        self._clock = clock
        self._won = won
        self._epoch = 0
        self._sure_until = -math.inf
        self._session: Connection | None = None
        self._engine: Engine | None = database.aside("batchsched leader", idle_s=IDLE_S)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="leadership", daemon=True)

    def leading(self) -> bool:
        """May this server act as the leader now?"""
        return time.monotonic() < self._sure_until

    @property
    def epoch(self) -> int:
        """Grows each time the lead is won, by whomever; 0 before this server led."""
        return self._epoch

    @property
    def alive(self) -> bool:
        """Does it go on trying, once it was started? On SQLite there is nothing to try for."""
        return self._thread.ident is None or self._thread.is_alive()

    def start(self) -> None:
        """Begin to try; the first try is over when this returns. Raises whatever `won` raises on SQLite."""
        if self._engine is None:
            with self._database.write() as connection:
                self._enter(connection)
            self._won()
            self._sure_until = math.inf
            return
        self._beat(self._engine)
        self._thread.start()

    def stop(self) -> None:
        """Give the lead to whoever wants it."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=30)
        self._let_go()

    def _run(self) -> None:
        assert self._engine is not None
        while not self._stopping.wait(BEAT_S):
            self._beat(self._engine)

    def _beat(self, engine: Engine) -> None:
        began = time.monotonic()
        try:
            if self._session is None:
                self._session = engine.connect()
            if began < self._sure_until:
                self._session.execute(_BEAT)
            elif self._session.scalar(_LOCK):
                self._enter(self._session)
                self._won()
                log.info("This server leads now (epoch %d).", self._epoch)
            else:
                return
            self._sure_until = began + SURE_S
        except (SQLAlchemyError, BatchschedError) as problem:
            log.warning("This server cannot lead for the moment: %s", str(problem).partition("\n")[0])
            self._let_go()
        except Exception:
            log.exception("This server cannot lead for the moment.")
            self._let_go()

    def _enter(self, connection: Connection) -> None:
        row = {"id": 1, "epoch": 1, "server_id": self._server_id, "since": self._clock.now(), "inputs": self._inputs}
        self._epoch = int(connection.execute(_WIN, row).scalar_one())

    def _let_go(self) -> None:
        self._sure_until = -math.inf
        session, self._session = self._session, None
        if session is not None:
            session.invalidate()  # ends the database session, and with it the lock
            session.close()
