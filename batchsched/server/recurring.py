"""Jobs that recur: when one is due, its files become batches. A thread of the leader's; the table says what was seen to.

A crash between two steps repeats the second: a file's batch has an idempotency key of the schedule, the time and the file, so the
same time never makes two.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from batchsched.errors import BatchschedError, DatabaseUnavailable, InvalidValue
from batchsched.fleet import Window
from batchsched.queue import files as kept
from batchsched.queue import schedules
from batchsched.queue.rows import Row
from batchsched.queue.tenancy import ANY
from batchsched.server.auth import Caller
from batchsched.server.batches import accept
from batchsched.server.files import keep
from batchsched.server.options import parse_new_batch
from batchsched.server.runtime import Runtime
from batchsched.units import iso
from batchsched.windows import starts

log = logging.getLogger(__name__)
ROUND_S = 1.0
REST_S = 60.0
"""A schedule of which something failed is left alone for so long: trying again may mean to read long files again."""
GRACE = timedelta(minutes=5)
"""One that is so late was missed."""
FARTHEST_BACK = timedelta(days=366)
MOST_MISSED = 100
"""Of more that were missed, the newest."""
BLOCK_BYTES = 1 << 18
WILD = frozenset("*?[")
NO_FILE = "There is no file {} below the server's folder of inputs."


class Recurring:
    """Looks once a second which schedules are due."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._database, self._clock = runtime.database, runtime.clock
        folder = runtime.settings.server.inputs_dir
        self._root = Path(folder).resolve() if folder else None
        self._rests_until_s: dict[tuple[str, str], float] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="recurring", daemon=True)

    def start(self) -> None:
        """Begin, where there is a folder of inputs."""
        if self._root:
            self._thread.start()

    def stop(self) -> None:
        """End after what is in hand."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=30)

    def _run(self) -> None:
        while not self._stopping.wait(ROUND_S):
            if self._runtime.leadership.leading():
                self.round()

    def round(self) -> None:
        """Do all that is due now, once."""
        try:
            with self._database.read() as connection:
                found = [one for one in schedules.every(connection, ANY) if one["paused_at"] is None]
        except BatchschedError as problem:
            log.error("Schedules cannot be read: %s", problem.message)
            return
        for one in found:
            key, now_s = (one["tenant"], one["name"]), self._clock.monotonic()
            if now_s < self._rests_until_s.get(key, now_s):
                continue
            try:
                self._see_to(one)
            except Exception as problem:
                self._rests_until_s[key] = now_s + REST_S
                if isinstance(problem, BatchschedError):
                    log.error("Schedule %s: %s It is tried again.", one["name"], problem.message)
                else:
                    log.exception("Schedule %s failed; it is tried again.", one["name"])

    def _see_to(self, one: Row) -> None:
        now = self._clock.now()
        if not (due := due_since(one, now)):
            return
        missed, left_out = by_rule(one["missed"], due, now)
        if left_out:
            with self._database.write() as connection:
                schedules.released(
                    connection,
                    one,
                    due_at=left_out[0],
                    at=now,
                    state="skipped",
                    note=f"Missed times that were left out: {len(left_out)}.",
                )
                schedules.change(connection, one["tenant"], one["name"], looked_at=left_out[-1])
        for at in missed:
            with self._database.read() as connection:
                busy = None if one["overlap"] else schedules.at_work(connection, one, at)
            if busy and one["missed"] == "all":
                return  # its turn comes
            if busy:
                self._note(one, at, state="skipped", note=f"Batch {busy} of an earlier time is not done.")
            else:
                self._release(one, at)
            with self._database.write() as connection:
                schedules.change(connection, one["tenant"], one["name"], looked_at=at)

    def _release(self, one: Row, due_at: datetime) -> None:
        """Every file of this time becomes a batch."""
        assert self._root is not None
        root = (self._root / one["tenant"]).resolve()  # nobody's schedule reads another's files
        files, watched = found_below(root, one["file"], due_at, one["timezone"])
        names = {path: path.relative_to(root).as_posix() for path in files}
        marks = {path: f"{names[path]} {mark_of(path)}" for path in files}
        with self._database.read() as connection:
            done = schedules.seen_to(connection, one, due_at)
            before = schedules.taken(connection, one, list(marks.values())) if watched else set[str]()
        fresh = [path for path in files if names[path] not in done and marks[path] not in before]
        if not files or (watched and not fresh and not done):
            kind = "skipped" if watched else "failed"
            wanted = f"{one['tenant']}/{filled(one['file'], due_at, one['timezone'])}"
            said = "There is no new file." if watched else NO_FILE.format(wanted)
            if not done:
                self._note(one, due_at, state=kind, note=said)
            return
        for path in fresh:
            self._submit(one, due_at, path, names[path], marks[path])

    def _submit(self, one: Row, due_at: datetime, path: Path, name: str, mark: str) -> None:
        now = self._clock.now()
        who = Caller(f"schedule:{one['name']}", one["tenant"], frozenset({"submit"}), now, action="file.create")
        try:
            with path.open("rb") as stream:
                file_id = keep(self._runtime, who, path.name, blocks_of(stream.read))
            batch = self._batch_of(one, due_at, file_id, name, who)
        except (BatchschedError, OSError) as problem:
            if isinstance(problem, BatchschedError) and problem.http_status >= 500:
                raise  # it passes
            said = problem.message if isinstance(problem, BatchschedError) else str(problem)
            self._note(one, due_at, state="failed", file=name, mark=mark, note=said)
            return
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


def filled(pattern: str, due_at: datetime, timezone: str) -> str:
    """A file's name with the day and the time of its schedule's clock in it."""
    local = due_at.astimezone(ZoneInfo(timezone))
    return pattern.replace("{date}", f"{local:%Y-%m-%d}").replace("{time}", f"{local:%H%M}")


def check_pattern(pattern: str) -> None:
    """Raises InvalidValue for one that leaves the folder, or holds what is not filled in."""
    path, rest = PurePosixPath(pattern), filled(pattern, datetime(2024, 1, 1, tzinfo=UTC), "UTC")
    if not pattern.strip() or path.is_absolute() or ".." in path.parts or "\0" in pattern or "\\" in pattern:
        raise InvalidValue("A file is named by its path below the server's folder of inputs, without '..'.", param="file")
    if any("**" in part and part != "**" for part in path.parts):
        raise InvalidValue("'**' stands for folders, by itself between two slashes, such as a/**/*.jsonl.", param="file")
    if "{" in rest or "}" in rest:
        raise InvalidValue("Only {date} and {time} are filled in.", param="file")


def found_below(root: Path, pattern: str, due_at: datetime, timezone: str) -> tuple[list[Path], bool]:
    """The files that are meant, in order, and whether only those of them that are new: of a folder, or by wildcards. A link that
    leads out of the folder is not followed."""
    name = filled(pattern, due_at, timezone)
    watched = bool(WILD & set(name)) or (root / name).is_dir()
    found = root.glob(name) if WILD & set(name) else (root / name).glob("*.jsonl") if watched else [root / name]
    inside = [path for path in found if path.is_file() and path.resolve().is_relative_to(root)]
    return sorted(inside), watched


def mark_of(path: Path) -> str:
    """How a file is now."""
    seen = path.stat()
    return f"{seen.st_size} {seen.st_mtime_ns}"


def blocks_of(read: Callable[[int], bytes]) -> Iterator[bytes]:
    """A file in blocks."""
    while block := read(BLOCK_BYTES):
        yield block
