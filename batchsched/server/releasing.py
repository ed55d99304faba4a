"""What a recurring job does when it is due: its files become batches, and what came of it is noted.

A crash between two steps repeats the second: a file's batch has an idempotency key of the schedule, the time and the file, so the
same time never makes two.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

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
from batchsched.server.inputs import blocks_of, filled, found_below, mark_of
from batchsched.server.options import parse_new_batch
from batchsched.server.runtime import Runtime
from batchsched.units import iso
from batchsched.windows import starts

GRACE = timedelta(minutes=5)
"""One that is so late was missed."""
FARTHEST_BACK = timedelta(days=366)
MOST_MISSED = 100
"""Of more that were missed, the newest."""
NO_FILE = "There is no file {} below the server's folder of inputs."
NOTHING_NEW = "There is no new file."


class Interrupted(Exception):
    """The server stops; the rest of the files come when it is there again."""


class Releases:
    """What comes of schedules. `root`: the folder of inputs; `stopping`: is the server about to end?"""

    def __init__(self, runtime: Runtime, root: Path, stopping: Callable[[], bool]) -> None:
        self._runtime, self._root, self._stopping = runtime, root, stopping
        self._database, self._clock = runtime.database, runtime.clock

    def see_to(self, one: Row) -> bool:
        """Do all that is due of a schedule; False where one of its times waits until the batch of an earlier one is done."""
        now = self._clock.now()
        if not (due := due_since(one, now)):
            return True
        if self._stopped(one, due[-1], now):
            return True
        missed, left_out = by_rule(one["missed"], due, now)
        if left_out:
            said = f"Missed times that were left out: {len(left_out)}."
            with self._database.write() as connection:
                schedules.released(connection, one, due_at=left_out[0], at=now, state="skipped", note=said)
                schedules.change(connection, one["tenant"], one["name"], looked_at=left_out[-1])
        for at in missed:
            with self._database.read() as connection:
                busy = None if one["overlap"] else schedules.at_work(connection, one, at)
            if busy and one["missed"] == "all":
                return False  # its turn comes
            if busy:
                self._note(one, at, state="skipped", note=f"Batch {busy} of an earlier time is not done.")
            else:
                self._release(one, at)
            with self._database.write() as connection:
                schedules.change(connection, one["tenant"], one["name"], looked_at=at)
        return True

    def _stopped(self, one: Row, due_at: datetime, now: datetime) -> bool:
        """Is the key over that lets it recur? Then it is paused, until somebody with a key that holds resumes it."""
        with self._database.read() as connection:
            if over_with_key(connection, one, now) is None:
                return False
        with self._database.write() as connection:
            one = schedules.get(connection, one["tenant"], one["name"], lock=True)
            if (over := over_with_key(connection, one, now)) is None:
                return False  # somebody else took it over just now
            schedules.released(connection, one, due_at=due_at, at=now, state="failed", note=over)
            schedules.change(connection, one["tenant"], one["name"], looked_at=due_at, paused_at=now)
        return True

    def _release(self, one: Row, due_at: datetime) -> None:
        """Every file of this time becomes a batch."""
        root = (self._root / one["tenant"]).resolve()  # nobody's schedule reads another's files
        files, watched = found_below(root, one["file"], due_at, one["timezone"])
        names = {path: path.relative_to(root).as_posix() for path in files}
        marks = {path: f"{names[path]} {mark_of(path)}" for path in files}
        with self._database.read() as connection:
            done = schedules.seen_to(connection, one, due_at)
            before = schedules.taken(connection, one, list(marks.values())) if watched else set[str]()
        fresh = [path for path in files if names[path] not in done and marks[path] not in before]
        if done or fresh:
            for path in fresh:
                self._submit(one, due_at, path, names[path], marks[path])
        elif watched:
            with self._database.write() as connection:
                schedules.unchanged(connection, one, due_at=due_at, at=self._clock.now(), note=NOTHING_NEW)
        else:
            wanted = f"{one['tenant']}/{filled(one['file'], due_at, one['timezone'])}"
            self._note(one, due_at, state="failed", note=NO_FILE.format(wanted))

    def _submit(self, one: Row, due_at: datetime, path: Path, name: str, mark: str) -> None:
        if self._stopping():
            raise Interrupted
        now = self._clock.now()
        who = Caller(f"schedule:{one['name']}", one["tenant"], frozenset({"submit"}), now, action="file.create")
        try:
            with path.open("rb") as stream:
                file_id = keep(self._runtime, who, path.name, blocks_of(stream.read))
            batch = self._batch_of(one, due_at, file_id, name, who)
        except BatchschedError as problem:
            if problem.http_status >= 500:
                raise  # it passes
            self._note(one, due_at, state="failed", file=name, mark=mark, note=problem.message)
        except OSError as problem:  # whose own text names the server's folders
            said = f"The file cannot be read: {problem.strerror or type(problem).__name__}."
            self._note(one, due_at, state="failed", file=name, mark=mark, note=said)
        else:
            self._note(one, due_at, state="submitted", file=name, mark=mark, batch_id=batch["id"])

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
