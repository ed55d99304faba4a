"""Jobs that recur: when each is due. APScheduler holds one alarm for each, of the leader's; the table is the truth.

It is read again whenever an alarm rings, once a schedule was changed here, and every minute: another server may have changed one,
clocks jump and machines sleep. A late or a lost alarm costs time, never a run.
"""

from __future__ import annotations

import logging
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from batchsched.errors import BatchschedError, NotFound
from batchsched.fleet import Window
from batchsched.queue import schedules
from batchsched.queue.rows import Row
from batchsched.queue.tenancy import ANY
from batchsched.server.releasing import FARTHEST_BACK, Interrupted, Releases
from batchsched.server.runtime import Runtime
from batchsched.windows import next_start

if TYPE_CHECKING:
    from batchsched.alarms import Alarms

log = logging.getLogger(__name__)
LOOK_AGAIN_S = 60.0
"""What another server changed is known here after so long at the latest."""
REST_S = 60.0
"""A schedule of which something failed is left alone for so long: trying again may mean to read long files again."""
LEAST_S = 1.0
"""Between two looks at one schedule, whatever happens."""
LEAD_S = 5.0
"""So often a server that does not lead looks whether the leader has seen to what is due, or the lead is its own by now."""
THREADS = 4
"""A schedule with long files does not keep the others waiting."""

Key = tuple[str, str]
"""Tenant and name."""


class Recurring:
    """The alarms of all schedules."""

    def __init__(self, runtime: Runtime) -> None:
        self._database, self._clock, self._leading = runtime.database, runtime.clock, runtime.leadership.leading
        folder = runtime.settings.server.inputs_dir
        self._stopping = threading.Event()
        self._releases = Releases(runtime, Path(folder).resolve(), self._stopping.is_set) if folder else None
        self._alarms: Alarms | None = None
        self._lock = threading.Lock()
        self._at_work: set[Key] = set()
        self._known: dict[Key, tuple[tuple[str, str, datetime], datetime | None]] = {}
        """Cron line, zone and what was seen to, and when each is due by these: lines are worked out once a time."""
        self._rests_until_s: dict[Key, float] = {}
        self._warned = False

    def start(self) -> None:
        """Begin; what was missed is due at once."""
        from apscheduler.executors.pool import ThreadPoolExecutor

        from batchsched.alarms import Alarms

        alarms = Alarms({"default": ThreadPoolExecutor(THREADS), "table": ThreadPoolExecutor(1)})
        now = datetime.now(UTC)
        alarms.add_job(
            self.look, "interval", seconds=LOOK_AGAIN_S, next_run_time=now, id="look", executor="table", max_instances=1
        )
        self._alarms = alarms

    def stop(self) -> None:
        """End after the file in hand."""
        self._stopping.set()
        if self._alarms:
            self._alarms.shutdown()
            self._alarms = None

    def poke(self) -> None:
        """A schedule was made or changed: set its alarm, from the alarms' own thread."""
        if self._alarms:
            self._alarms.add_job(self.look, "date", id="changed", executor="table", replace_existing=True)

    def look(self) -> list[Key]:
        """Set all alarms by the table. Those that are due now, whose alarms ring at once."""
        with self._lock:
            try:
                with self._database.read() as connection:
                    found = schedules.every(connection, ANY)
            except BatchschedError as problem:
                log.error("Schedules cannot be read: %s", problem.message)
                return []
            if self._releases is None:
                self._warn(len(found))
                return []
            there = {(one["tenant"], one["name"]) for one in found}
            for key in [key for key in self._known if key not in there]:
                self._forget(key)
            return [(one["tenant"], one["name"]) for one in found if self._set(one) == 0]

    def ring(self, key: Key) -> None:
        """See to a schedule whose time has come; then its alarm is set anew."""
        with self._lock:
            if key in self._at_work:
                return  # who is at it looks at the table once more
            self._at_work.add(key)
        rest_s = REST_S
        try:
            rest_s = self._see_to(key)
        finally:
            with self._lock:
                self._at_work.discard(key)
                self._rests_until_s[key] = self._clock.monotonic() + rest_s
                self._set_anew(key)

    def _see_to(self, key: Key) -> float:
        """For how long it is left alone then."""
        if not self._leading():
            return LEAD_S
        try:
            with self._database.read() as connection:
                one = schedules.get(connection, *key)
            if self._releases is None or one["paused_at"] is not None:
                return LEAST_S
            return max(LEAST_S, self._releases.see_to(one))
        except (Interrupted, NotFound):  # the server ends, or the schedule was removed
            return LEAST_S
        except BatchschedError as problem:
            log.error("Schedule %s: %s It is tried again.", key[1], problem.message)
        except Exception:
            log.exception("Schedule %s failed; it is tried again.", key[1])
        return REST_S

    def _set_anew(self, key: Key) -> None:
        try:
            with self._database.read() as connection:
                one = schedules.get(connection, *key)
        except NotFound:
            self._forget(key)
        except BatchschedError as problem:
            log.error("Schedules cannot be read: %s", problem.message)  # the next look sets it
        else:
            self._set(one)

    def _set(self, one: Row) -> float | None:
        """Set a schedule's alarm; in how many seconds it rings, None: never, as things stand."""
        key, at = (one["tenant"], one["name"]), self._due_at(one)
        if at is None or self._stopping.is_set():
            self._silence(key)
            return None
        rest_s = self._rests_until_s.get(key, 0.0) - self._clock.monotonic()
        wait_s = max(0.0, rest_s, (at - self._clock.now()).total_seconds())
        if self._alarms:
            rings_at = datetime.now(UTC) + timedelta(seconds=wait_s)
            self._alarms.add_job(self.ring, "date", run_date=rings_at, args=[key], id=_alarm(key), replace_existing=True)
        return wait_s

    def _due_at(self, one: Row) -> datetime | None:
        """When it is due next, by what was seen to of it; None while it is paused."""
        key, by = (one["tenant"], one["name"]), (one["cron"], one["timezone"], one["looked_at"])
        if key not in self._known or self._known[key][0] != by:
            since = max(one["looked_at"], self._clock.now() - FARTHEST_BACK)
            self._known[key] = by, next_start(Window(one["cron"], "1s", one["timezone"]), since)
        return None if one["paused_at"] else self._known[key][1]

    def _forget(self, key: Key) -> None:
        self._silence(key)
        if self._releases:
            self._releases.forget(*key)
        self._known.pop(key, None)
        self._rests_until_s.pop(key, None)

    def _silence(self, key: Key) -> None:
        if self._alarms:
            self._alarms.remove_job(_alarm(key))

    def _warn(self, schedules_there: int) -> None:
        """Nobody would see otherwise why nothing comes of them."""
        waiting = schedules_there > 0 and self._leading()
        if waiting and not self._warned:
            log.warning(
                "%d recurring job(s) wait: this server leads and has no folder of inputs. Name the same one, server.inputs_dir, "
                "in the configuration of every server that may lead.",
                schedules_there,
            )
        self._warned = waiting


def _alarm(key: Key) -> str:
    return "\0".join(key)
