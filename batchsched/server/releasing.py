"""What a recurring job does when it is due: its files become batches, and what came of it is noted.

A crash between two steps repeats the second: a file's batch has an idempotency key of the schedule, the time and the file, so the
same time never makes two.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection

from batchsched.errors import BatchschedError, DatabaseUnavailable
from batchsched.fleet import Window
from batchsched.queue import files as kept
from batchsched.queue import keys, schedules
from batchsched.queue.rows import Row
from batchsched.server.auth import Caller
from batchsched.server.batches import accept
from batchsched.server.files import keep
from batchsched.server.inputs import blocks_of, filled, found_below
from batchsched.server.options import parse_new_batch
from batchsched.server.runtime import Runtime
from batchsched.server.settling import LOOKS_APART_S, NOT_AT_REST, Rest, Seen, Settling, seen
from batchsched.units import iso
from batchsched.windows import starts

GRACE = timedelta(minutes=5)
"""One that is so late was missed."""
FARTHEST_BACK = timedelta(days=366)
MOST_MISSED = 100
"""Of more that were missed, the newest."""
NO_FILE = "There is no file {} below the server's folder of inputs."
NOTHING_NEW = "There is no new file."
NEVER_AT_REST = "It was still being written when the next time was due."
TURN_S = 15.0
"""So often one looks whether the batch is done that a time waits for, or the file is at rest."""


class Interrupted(Exception):
    """The server stops; the rest of the files come when it is there again."""


class Changed(Exception):
    """A file was written while it was read."""


class Found(NamedTuple):
    """A file of a time, by its path below its tenant's folder."""

    path: Path
    name: str
    seen: Seen
    watched: bool
    """It was not named, but found as new."""

    @property
    def mark(self) -> str:
        """The file as it is, by which new ones are told from those that were taken."""
        return f"{self.name} {self.seen.mark}"


class Releases:
    """What comes of schedules. `root`: the folder of inputs; `stopping`: is the server about to end?"""

    def __init__(self, runtime: Runtime, root: Path, stopping: Callable[[], bool]) -> None:
        self._runtime, self._root, self._stopping = runtime, root, stopping
        self._database, self._clock = runtime.database, runtime.clock
        self._settle_s = runtime.settings.server.inputs_settle_s
        self._settling: dict[tuple[str, str], Settling] = {}

    def see_to(self, one: Row) -> float:
        """Do all that is due of a schedule. For how many seconds it is left alone then, where a time of it waits: until the batch
        of an earlier one is done, or for a file that is still written; else 0."""
        now = self._clock.now()
        if not (due := due_since(one, now)):
            return 0.0
        if self._stopped(one, due[-1], now):
            return 0.0
        with self._database.read() as connection:  # what was begun in time is not missed
            begun = 1 if schedules.waits_since(connection, one, due[0]) else 0
        if begun and (wait_s := self._turn(one, due[0], last=len(due) == 1)):
            return wait_s
        missed, left_out = by_rule(one["missed"], due[begun:], now)
        if left_out:
            said = f"Missed times that were left out: {len(left_out)}."
            with self._database.write() as connection:
                schedules.released(connection, one, due_at=left_out[0], at=now, state="skipped", note=said)
                schedules.change(connection, one["tenant"], one["name"], looked_at=left_out[-1])
        for at in missed:
            if wait_s := self._turn(one, at, last=at == missed[-1]):
                return wait_s
        return 0.0

    def forget(self, tenant: str, name: str) -> None:
        """A schedule is no more."""
        self._settling.pop((tenant, name), None)

    def _turn(self, one: Row, at: datetime, *, last: bool) -> float:
        """See to one time; for how many seconds it waits, 0: it is seen to. `last`: no other is due yet."""
        with self._database.read() as connection:
            busy = None if one["overlap"] else schedules.at_work(connection, one, at)
        if busy and one["missed"] == "all":
            return TURN_S  # its turn comes
        if busy:
            self._note(one, at, state="skipped", note=f"Batch {busy} of an earlier time is not done.")
        elif wait_s := self._release(one, at, last=last):
            return wait_s
        with self._database.write() as connection:
            schedules.change(connection, one["tenant"], one["name"], looked_at=at)
        return 0.0

    def _stopped(self, one: Row, due_at: datetime, now: datetime) -> bool:
        """Is the key over that lets it recur? Then it is paused, until somebody with a key that holds resumes it."""
        with self._database.read() as connection:
            if over_with_key(connection, one, now) is None:
                return False
        with self._database.write() as connection:
            one = schedules.get(connection, one["tenant"], one["name"], lock=True)
            if (over := over_with_key(connection, one, now)) is None:
                return False  # somebody else took it over just now
            schedules.waits(connection, one, due_at=due_at, at=now, files={})
            schedules.released(connection, one, due_at=due_at, at=now, state="failed", note=over)
            schedules.change(connection, one["tenant"], one["name"], looked_at=due_at, paused_at=now)
        return True

    def _release(self, one: Row, due_at: datetime, *, last: bool) -> float:
        """Every file of this time that is at rest becomes a batch. For how many seconds it waits for the others: at most until
        the next time is due, which takes what is new; for a single file GRACE in any case, and until it is seen whether it is
        still written: who looks may have come only now."""
        root = (self._root / one["tenant"]).resolve()  # nobody's schedule reads another's files
        paths, watched = found_below(root, one["file"], due_at, one["timezone"])
        files = [Found(path, path.relative_to(root).as_posix(), now, watched) for path in paths if (now := seen(path))]
        with self._database.read() as connection:
            done = schedules.seen_to(connection, one, due_at)
            before = schedules.taken(connection, one, [each.mark for each in files]) if watched else set[str]()
            since = schedules.waits_since(connection, one, due_at)
        fresh = [each for each in files if each.name not in done and each.mark not in before]
        waiting = self._take(one, due_at, fresh)
        if waiting:
            unsure = any(rest.unsure for rest in waiting.values())
            if last or (not watched and (unsure or self._clock.now() - (since or self._clock.now()) < GRACE)):
                return min(TURN_S, max(LOOKS_APART_S, min(rest.again_s for rest in waiting.values())))
            if not watched:
                self._waits(one, due_at, {})
                self._fail(one, due_at, fresh[0], NEVER_AT_REST)
        elif watched and not done and not fresh:
            with self._database.write() as connection:
                schedules.unchanged(connection, one, due_at=due_at, at=self._clock.now(), note=NOTHING_NEW)
        elif not done and not fresh:
            wanted = f"{one['tenant']}/{filled(one['file'], due_at, one['timezone'])}"
            self._note(one, due_at, state="failed", note=NO_FILE.format(wanted))
        return 0.0

    def _take(self, one: Row, due_at: datetime, fresh: list[Found]) -> dict[str, Rest]:
        """Make batches of the files that are at rest; those that are not, by name."""
        settling = self._settling_of(one)
        rests = settling.look((each.path, each.seen) for each in fresh)
        waiting = {each.name: rest for each in fresh if (rest := rests[each.path]).why_not and not rest.given_up}
        self._waits(one, due_at, waiting)
        for each in fresh:
            if each.name in waiting:
                continue
            if why := rests[each.path].why_not:
                self._fail(one, due_at, each, why)
                continue
            try:
                self._submit(one, due_at, each, settling)
            except Changed:
                waiting[each.name] = Rest(NOT_AT_REST.format(self._settle_s), self._settle_s)
                self._waits(one, due_at, waiting)
        return waiting

    def _settling_of(self, one: Row) -> Settling:
        longest = self._runtime.rules.max_line_bytes
        return self._settling.setdefault((one["tenant"], one["name"]), Settling(self._clock, self._settle_s, longest))

    def _submit(self, one: Row, due_at: datetime, file: Found, settling: Settling) -> None:
        """Raises Changed, and keeps nothing then."""
        if self._stopping():
            raise Interrupted
        now = self._clock.now()
        who = Caller(f"schedule:{one['name']}", one["tenant"], frozenset({"submit"}), now, action="file.create")
        try:
            with file.path.open("rb") as stream:
                file_id = keep(self._runtime, who, file.path.name, blocks_of(stream.read))
                if not settling.still(stream, file.seen):
                    self._discard(file_id, who)
                    raise Changed
            batch = self._batch_of(one, due_at, file_id, file.name, who)
        except BatchschedError as problem:
            if problem.http_status >= 500:
                raise  # it passes
            if settling.changed(file.path, file.seen):
                raise Changed from None  # what is wrong with it may be that it was half written
            self._fail(one, due_at, file, problem.message)
        except OSError as problem:  # whose own text names the server's folders
            self._fail(one, due_at, file, f"The file cannot be read: {problem.strerror or type(problem).__name__}.")
        else:
            self._note(one, due_at, state="submitted", file=file.name, mark=file.mark, batch_id=batch["id"])

    def _batch_of(self, one: Row, due_at: datetime, file_id: str, name: str, who: Caller) -> Mapping[str, Any]:
        """The batch of a file that was just kept; one that is no batch's input is not kept on."""
        body = body_of(one["endpoint"], one["options"], file_id, {"schedule": one["name"], "due_at": iso(due_at)})
        key = hashlib.sha256(f"{one['name']}\0{iso(one['created_at'])}\0{iso(due_at)}\0{name}".encode()).hexdigest()
        creating = msgspec.structs.replace(who, action="batch.create")
        try:
            batch = accept(self._runtime, parse_new_batch(body, who.at), creating, f"schedule {key}", "schedule release -")
        except DatabaseUnavailable:  # nobody knows whether it was made
            raise
        except BaseException:
            self._discard(file_id, who)
            raise
        if batch["input_file_id"] != file_id:  # it was made before, and nobody could note it
            self._discard(file_id, who)
        return batch

    def _discard(self, file_id: str, who: Caller) -> None:
        with self._database.write() as connection:
            kept.remove(connection, file_id, self._clock.now())
            msgspec.structs.replace(who, action="file.delete").did(connection, file_id)
        self._runtime.store.remove(file_id)

    def _waits(self, one: Row, due_at: datetime, waiting: Mapping[str, Rest]) -> None:
        files = {name: rest.why_not or "" for name, rest in waiting.items()}
        with self._database.write() as connection:
            schedules.waits(connection, one, due_at=due_at, at=self._clock.now(), files=files)

    def _fail(self, one: Row, due_at: datetime, file: Found, why: str) -> None:
        """A file of which nothing can become. In a folder it is met each time: what is said again takes the place of the last."""
        what = {"file": file.name, "mark": file.mark, "note": why}
        with self._database.write() as connection:
            if file.watched:
                schedules.failed_again(connection, one, **what)
            schedules.released(connection, one, due_at=due_at, at=self._clock.now(), state="failed", **what)

    def _note(self, one: Row, due_at: datetime, **what: Any) -> None:
        with self._database.write() as connection:
            schedules.released(connection, one, due_at=due_at, at=self._clock.now(), **what)


def over_with_key(connection: Connection, one: Row, now: datetime) -> str | None:
    """That the key is over which lets a schedule recur, in a sentence; None: it holds, or none was asked for."""
    key = keys.find(connection, one["made_by"]) if one["made_by"] else None
    if key is None or not keys.over(key, now):
        return None
    how = "was revoked" if key["revoked_at"] else "expired"
    return f"Stopped: the API key {key['id']}, by which it recurs, {how}. `schedule resume` with another key takes it over."


def due_since(one: Row, now: datetime) -> list[datetime]:
    """The times at which it was due since it was last looked at, in order."""
    since = max(one["looked_at"], now - FARTHEST_BACK)
    return [at for at in starts(Window(one["cron"], "1s", one["timezone"]), since, now) if at > since]


def by_rule(rule: str, due: list[datetime], now: datetime) -> tuple[list[datetime], list[datetime]]:
    """Of the times that are due, those that are seen to and those that are left out, by the rule for missed ones."""
    late = [at for at in due if at < now - GRACE]
    in_time = due[len(late) :]
    most = {"skip": 0, "once": 0 if in_time else 1, "all": MOST_MISSED}[rule]  # one that is in time makes up for them as well
    left = max(0, len(late) - most)
    return [*late[left:], *in_time], late[:left]


def body_of(endpoint: str, options: dict[str, Any], file_id: str, metadata: dict[str, str]) -> dict[str, Any]:
    """What a client would send to create the batch."""
    return {
        "input_file_id": file_id,
        "endpoint": endpoint,
        "completion_window": options["deadline"],
        "metadata": metadata,
        "batchsched": options,
    }
