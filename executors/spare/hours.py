"""What a server had for offline work, from one heartbeat to the next."""

from __future__ import annotations

from batchsched.executors.spare.governor import Budget, Traits
from batchsched.executors.spare.window import Window
from batchsched.wire import SpareSeen

_USED = 0.8


class Hours:
    """Adds up tokens and seconds of windows until they are taken."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._seconds = self._tokens = 0.0

    def saw(self, window: Window, budget: Budget, traits: Traits, step_s: float, done_tokens: float) -> None:
        """One more window. `step_s`: of the server with the budget used up; `done_tokens`: offline ones that came back in it, of
        all workers. Where the budget was used these are what the server had; else what it would have been."""
        self._seconds += window.seconds
        if window.ours >= _USED * budget.in_flight or step_s <= 0:
            self._tokens += done_tokens
            return
        per_request = traits.prompt_tokens + traits.output_tokens
        could = budget.in_flight * per_request / (max(1.0, traits.output_tokens) * step_s) * window.seconds
        self._tokens += max(done_tokens, could)

    def take(self) -> SpareSeen | None:
        """Since the last time; None where nothing was seen."""
        if self._seconds <= 0:
            return None
        seen = SpareSeen(self._server, self._seconds, self._tokens / self._seconds)
        self._seconds = self._tokens = 0.0
        return seen
