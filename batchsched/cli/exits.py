"""What a command's exit code says, for scripts."""

from __future__ import annotations

from typing import Protocol

OK = 0
FAILURE = 1
USAGE = 2
NOT_FOUND = 3
UNAUTHORIZED = 4
FAILED_LINES = 5
NOT_FINISHED = 6
WINDOW_CLOSED = 7
TRY_AGAIN = 75
INTERRUPTED = 130

MEANING = {
    OK: "done",
    FAILURE: "something failed",
    USAGE: "wrong usage, configuration or input file",
    NOT_FOUND: "there is no such object",
    UNAUTHORIZED: "the API key is missing or wrong",
    FAILED_LINES: "the batch is complete; some lines failed",
    NOT_FINISHED: "the batch expired or was cancelled; what was done is kept",
    WINDOW_CLOSED: "the window closed before all was done; the same command goes on in the next",
    TRY_AGAIN: "the server cannot be reached, a quota is used up, or the folder is in use; try again",
    INTERRUPTED: "stopped by Ctrl-C",
}
NEXT = {
    USAGE: "`batchsched COMMAND --help` says what a command takes, `batchsched config show --origin` what is set and by whom.",
    NOT_FOUND: "`batchsched list` shows the batches; `window list`, `schedule list`, `pool list` and `key list` the rest.",
    UNAUTHORIZED: "Give a key that may: --api-key, the environment variable BATCHSCHED_SERVER_API_KEY, or server.api_key.",
    TRY_AGAIN: "Try again in a while; `batchsched doctor` looks whether something is wrong.",
}
"""What to do, where the error itself does not say it."""


class _Counts(Protocol):
    @property
    def failed(self) -> int: ...


class Ended(Protocol):
    """The part of a batch that its exit code hangs on."""

    @property
    def status(self) -> str: ...

    @property
    def request_counts(self) -> _Counts: ...


def for_batch(batch: Ended) -> int:
    """The exit code of a command that saw a batch to its end."""
    if batch.status == "completed":
        return FAILED_LINES if batch.request_counts.failed else OK
    return NOT_FINISHED if batch.status in {"expired", "cancelled"} else FAILURE
