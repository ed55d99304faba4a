"""What `batchsched run` remembers in its output folder, so that the same command continues, and two cannot collide."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

import msgspec

from batchsched.client import Batch
from batchsched.client.calls import OnDeadline
from batchsched.errors import DataFolderInUse, InputChanged, InvalidConfiguration
from batchsched.units import parse_deadline


class Run(msgspec.Struct):
    """`run.json`. `deadline_at` is fixed at the first start; `result` is the batch as it ended, once it has; `round`: retries."""

    run_id: str
    file: str
    size: int
    sha256: str
    model: str
    endpoint: str
    requests: int
    deadline: str
    deadline_at: datetime
    started_at: datetime
    versions: dict[str, str]
    on_deadline: OnDeadline = "expire"
    batch_id: str | None = None
    result: Batch | None = None
    round: int = 0

    def take_up(self, deadline: str, now: datetime) -> None:
        """Begin a retry, by a deadline of its own."""
        self.result, self.round = None, self.round + 1
        self.deadline, self.deadline_at = deadline, parse_deadline(deadline, now)


def retriable(batch: Batch) -> bool:
    """Has it ended with something left to do?"""
    return batch.status in {"completed", "expired", "cancelled"} and batch.request_counts.failed > 0


class Folder:
    """A run's output folder: results for people at the top, everything else below `.state`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = root / ".state"
        self.run_file = root / "run.json"
        self.input = root / "input.jsonl"
        self.output = root / "output.jsonl"
        self.errors = root / "errors.jsonl"
        self.report = root / "report.json"
        self.plot = root / "report.svg"

    @contextmanager
    def held(self) -> Generator[None]:
        """Hold the folder for this process; the lock goes with it, however it ends. Raises DataFolderInUse."""
        self.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.state / "lock"
        lock = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            if not _locked(lock, path):
                raise DataFolderInUse(
                    f"Another `batchsched run` is at work in {self.root}.", hint="Wait for it, or give another --out."
                )
            try:
                yield
            finally:
                self._leave_nothing()
        finally:
            os.close(lock)

    def _leave_nothing(self) -> None:
        """A run that never began leaves no folder behind."""
        if not self.run_file.exists():
            with suppress(OSError):
                (self.state / "lock").unlink()
                self.state.rmdir()
                self.root.rmdir()

    def load(self) -> Run | None:
        """The run that was begun here, if one was."""
        try:
            return msgspec.json.decode(self.run_file.read_bytes(), type=Run)
        except FileNotFoundError:
            return None
        except msgspec.MsgspecError as problem:
            raise InvalidConfiguration(
                f"{self.run_file} cannot be read: {problem}.", hint=f"Give another --out, or remove {self.root}."
            ) from None

    def keep(self, file: Path) -> Path:
        """A copy of an input that nobody else keeps, such as standard input's."""
        shutil.copyfile(file, self.input)
        return self.input

    def complete(self, run: Run) -> bool:
        """Has the run ended, and is all that it wrote still here?"""
        if run.result is None:
            return False
        written = [self.report, self.plot]
        written += [self.output] if run.result.output_file_id else []
        written += [self.errors] if run.result.error_file_id else []
        return all(path.is_file() for path in written)

    def save(self, run: Run) -> None:
        """Replace `run.json` as a whole, on the disk before this returns."""
        write_durably(self.run_file, msgspec.json.format(msgspec.json.encode(run)) + b"\n")


def _locked(lock: int, path: Path) -> bool:
    """Take the lock, and see that it is still the file of that name: whoever held it may have removed it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return path.stat().st_ino == os.fstat(lock).st_ino
    except (BlockingIOError, FileNotFoundError):
        return False


def refuse_change(
    run: Run, fingerprint: tuple[int, str], model: str, endpoint: str | None, on_deadline: OnDeadline | None, root: Path
) -> None:
    """A run goes on with what it began with. Raises InputChanged, saying what differs."""
    if (run.size, run.sha256) != fingerprint:
        what = f"{run.file} has changed since this run began"
    elif run.model != model:
        what = f"this run began with the model '{run.model}', not '{model}'"
    elif endpoint not in {None, run.endpoint}:
        what = f"this run began with the endpoint {run.endpoint}, not {endpoint}"
    elif on_deadline not in {None, run.on_deadline}:
        what = f"this run began with --on-deadline {run.on_deadline}, not {on_deadline}"
    else:
        return
    raise InputChanged(
        f"{what[0].upper()}{what[1:]} (its state is in {root}).",
        hint=f"Give another --out to start afresh, or remove {root} if its results are not needed.",
    )


def write_durably(path: Path, content: bytes) -> None:
    """Write a file so that after a crash it holds the old content or the new, never half."""
    part = path.with_name(path.name + ".part")
    with part.open("wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
