"""Who may work now: whether a pool is open to a worker, by its windows, by operators, and by how much of the pool is open."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from sqlalchemy import Connection

from batchsched.clock import Clock
from batchsched.errors import DatabaseUnavailable
from batchsched.fleet import Fleet
from batchsched.openings import Openings, Standing, Windows, part
from batchsched.published import Published
from batchsched.queue import chunks, overrides
from batchsched.queue.database import Database
from batchsched.windows import WindowTimer

log = logging.getLogger(__name__)
LOOK_AHEAD = timedelta(hours=1)
"""How far the timer sees; it looks again long before that."""


class Doors:
    """Of every pool. `in_force`: the plan in force; `on_change`: is called when a pool opens or closes, or opens further."""

    def __init__(
        self,
        database: Database,
        windows: Windows,
        fleet: Fleet,
        in_force: Callable[[], Published | None],
        on_change: Callable[[], None],
        clock: Clock,
    ) -> None:
        self._database, self._windows, self._fleet, self._in_force = database, windows, fleet, in_force
        self._standing: dict[str, Standing] | None = None
        """The windows that the timer knows of."""
        self._timer = WindowTimer(["pools"], self._look, lambda _name, _shares: on_change(), clock)

    def start(self) -> None:
        """Watch the windows."""
        try:
            self._timer.start()
        except DatabaseUnavailable as problem:  # it was there a moment ago, and each plan has its windows watched
            log.warning("The windows are not looked at yet: %s", problem.message)

    def stop(self) -> None:
        """Watch them no more."""
        self._timer.stop()

    def watch(self, opened: Openings) -> None:
        """Look at once, where windows are others than those that are watched."""
        if self._standing != opened.standing:
            self._standing = dict(opened.standing)
            self._timer.look_again()

    def look_again(self) -> None:
        """Look at once."""
        self._timer.look_again()

    def openings(self, connection: Connection) -> Openings:
        """By the windows as they stand now, and by the forecast as the plan in force had it."""
        published = self._in_force()
        return Openings(self._windows.read(connection), published.shut if published else {})

    def closed(self, connection: Connection, pool: str, now: datetime, worker: str) -> str | None:
        """How a pool is closed to a worker that would begin something: `shut` by its windows, which may leave a part of the pool
        open, or by an operator; None: it is not."""
        return self.entry(connection, pool, now, worker)[0]

    def entry(self, connection: Connection, pool: str, now: datetime, worker: str) -> tuple[str | None, int | None]:
        """The same, and how many workers may be at work, where windows leave a part of the pool open; None: all."""
        share = self.openings(connection).share(pool, now)
        if share <= 0:
            return "shut", 0
        most = self._part(pool, share) if share < 1 else None
        if most is not None and self._over(connection, pool, most, worker):
            return "shut", most
        return overrides.closed(connection, pool, now), most

    def most(self, connection: Connection, pool: str, *moments: datetime) -> int:
        """With how many replicas a pool is open at one of these moments."""
        opened = self.openings(connection)
        share = max((opened.share(pool, at) for at in moments if not overrides.closed(connection, pool, at)), default=0.0)
        some = self._part(pool, share) if share < 1 else None
        return self._fleet.pools[pool].count if some is None else some

    def _part(self, pool: str, share: float) -> int | None:
        """So many replicas are a share of a pool, for those that work as for those that launch: of those that the plan counts on,
        and of all before it counts on any. None: nobody knows, for the pool is declared no more."""
        published, declared = self._in_force(), self._fleet.pools.get(pool)
        planned = {state.name: state.replicas for state in published.problem.pools} if published else {}
        return part(share, planned.get(pool) or declared.count) if declared else None

    def _over(self, connection: Connection, pool: str, most: int, worker: str) -> bool:
        """Is as much of the pool at work as may be, without this worker?"""
        at_work = sorted(chunks.at_work(connection, pool))
        return worker in at_work[most:] if worker in at_work else len(at_work) >= most

    def _look(self, _: str, now: datetime) -> tuple[dict[str, float], datetime | None]:
        """For the timer: which share of each pool is open, and when one changes next."""
        with self._database.read() as connection:
            opened = self.openings(connection)
        changes = [at for pool in self._fleet.pools if (at := opened.change_at(pool, now, LOOK_AHEAD))]
        return {pool: opened.share(pool, now) for pool in self._fleet.pools}, min(changes, default=None)
