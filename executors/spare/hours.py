"""What a server had for offline work, from one heartbeat to the next."""

from __future__ import annotations

from batchsched.executors.spare.governor import Governor, Traits
from batchsched.executors.spare.window import Window
from batchsched.wire import SpareSeen


class Hours:
    """The mean over windows, until it is taken."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._seconds = self._tokens = 0.0

    def saw(self, seconds: float, tokens_per_s: float | None) -> None:
        """One more window, in which the server had so much; None where nobody can tell."""
        if tokens_per_s is not None:
            self._seconds += seconds
            self._tokens += max(0.0, tokens_per_s) * seconds

    def take(self) -> SpareSeen | None:
        """Since the last time; None where nothing was seen."""
        if self._seconds <= 0:
            return None
        seen = SpareSeen(self._server, self._seconds, self._tokens / self._seconds)
        self._seconds = self._tokens = 0.0
        return seen

    def give_back(self, seen: SpareSeen | None) -> None:
        """What was taken was not told."""
        if seen is not None:
            self.saw(seen.seconds, seen.tokens_per_s)


def could(governor: Governor, window: Window, traits: Traits) -> float | None:
    """Offline tokens a second, prompts included, that the server would have done in the window, had there been enough to send: by
    what it was seen to take for a step, and by the pace of prompts. None as long as it was never seen at work."""
    model, budget = governor.model, governor.budget
    if not model.known:
        return None
    written = max(1.0, traits.output_tokens)
    reads = traits.prompt_tokens / written
    step_s = model.seconds(window.online + governor.fits, governor.online_prompt + governor.fits * reads)
    requests_per_s = governor.fits / written / max(step_s, 1e-6)
    reading_s = traits.prompt_tokens * budget.prompt_token_s
    if not budget.open and reading_s > 0:
        requests_per_s = min(requests_per_s, budget.reading_share / reading_s)
    return requests_per_s * (traits.prompt_tokens + traits.output_tokens)
