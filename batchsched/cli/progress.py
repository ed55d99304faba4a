"""Progress on stderr: one live line on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING

from batchsched.cli.common import grams, say, waiting
from batchsched.cli.manners import quiet
from batchsched.client.stalls import Stalls
from batchsched.units import format_duration

if TYPE_CHECKING:
    from batchsched.client import Batch, Client, Risk

PLAIN_EVERY_S = 10.0


class ProgressLine:
    """Shows a batch each time it is called. Use as a context manager.

    Elsewhere than on a terminal a line is printed when the batch's status or what it waits for changes, and otherwise at most
    every `every_s` seconds, and only when something moved.
    """

    def __init__(self, every_s: float = PLAIN_EVERY_S) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)
        self._status = self._console.status("starting") if self._console.is_terminal and not quiet() else None
        self._every_s = every_s
        self._printed_at = float("-inf")
        self._phase: object = None
        self._text = ""
        self._risk: Risk | None = None
        self._stalls = Stalls(lambda text: say(f"STALLED: {text}"))

    def __call__(self, batch: Batch) -> None:
        """Show where the batch stands now."""
        risk = batch.batchsched.risk
        if risk != self._risk and (risk or not batch.done):
            say(f"AT RISK: {risk.reason}" if risk else "The deadline is no longer at risk.")
        self._risk = risk
        self._stalls(batch)
        self._show(describe(batch), (batch.status, batch.progress.state, batch.progress.waiting_for))

    def note(self, text: str) -> None:
        """Show a word of our own, such as what is being started."""
        self._show(text, text)

    def _show(self, text: str, phase: object) -> None:
        if self._status:
            from rich.markup import escape

            self._status.update(escape(text))
            return
        due = time.monotonic() - self._printed_at >= self._every_s
        if text != self._text and (due or phase != self._phase):
            say(text)
            self._printed_at, self._phase, self._text = time.monotonic(), phase, text

    def __enter__(self) -> ProgressLine:
        if self._status:
            self._status.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        if self._status:
            self._status.stop()


def describe(batch: Batch) -> str:
    """A batch's progress in one line: done, speed, what it waits for, grams so far."""
    progress, carbon = batch.progress, batch.carbon
    total = progress.requests_total or batch.request_counts.total
    parts = [f"{batch.status}: {progress.requests_done} of {total} requests" if total else batch.status]
    if progress.state == "running" and progress.tokens_per_s:
        parts.append(f"{progress.tokens_per_s:,.0f} tokens/s")
    if progress.running_on and not batch.done:
        parts.append(f"on {', '.join(progress.running_on)}")
    if text := waiting(batch):
        parts.append(f"waiting for {text}")
    elif batch.deadline_at and not batch.done:
        from datetime import UTC, datetime

        left_s = (batch.deadline_at - datetime.now(UTC)).total_seconds()
        parts.append(f"{format_duration(left_s)} to the deadline" if left_s > 0 else "past its deadline")
    if carbon and carbon.grams is not None:
        known = not (carbon.unknown_energy_j or carbon.unmeasured_s)
        parts.append(f"{'' if known else 'at least '}{grams(carbon.grams)} CO2e")
    return ", ".join(parts)


def watch(client: Client, batch_id: str, poll_s: float = 2.0) -> Batch:
    """Wait until the batch is done, showing how it goes."""
    with ProgressLine() as line:
        return client.batches.wait(batch_id, on_progress=line, poll_s=poll_s)
