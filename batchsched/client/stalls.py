"""Batches that wait for what nobody has planned: said while somebody waits for them, for nothing else would be seen to happen."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchsched.client.results import Batch

AFTER_S = 20.0
"""Of waiting: workers that are just starting are no trouble."""


class Stalls:
    """Looks at a batch each time it is called, and says once what it is stalled by, and what to do."""

    def __init__(self, say: Callable[[str], object], after_s: float = AFTER_S, now: Callable[[], float] = time.monotonic) -> None:
        self._say, self._after_s, self._now = say, after_s, now
        self._since: float | None = None
        self._said = ""

    def __call__(self, batch: Batch) -> None:
        """Another look."""
        if batch.done or not batch.progress.stalled:
            if self._said and not batch.done:
                self._say(f"{batch.id} is no longer stalled.")
            self._since, self._said = None, ""
            return
        self._since = self._now() if self._since is None else self._since
        if self._now() - self._since >= self._after_s and (text := stalled(batch)) != self._said:
            self._say(text)
            self._said = text


def stalled(batch: Batch) -> str:
    """What it waits for and what to do, in sentences."""
    what = (batch.progress.waiting_for or "help").rstrip(".")
    return (
        f"{batch.id} is stalled: it waits for {what}. It goes on by itself once that is there."
        " `batchsched pool list` shows pools, their models and workers."
    )
