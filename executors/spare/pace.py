"""Which offline request may go to the server now: one more decoder if the budget has room, and its prompt when it does no harm.

A prompt is read in one or a few long steps in which nobody else gets a token. Short ones pass; after each the next waits until
the server has had time for others too. One that would make a step longer than the slack goes alone, so rarely that the harm
stays within its share of the time; with nobody online it just goes.
"""

from __future__ import annotations

import math

from batchsched.executors.spare.governor import Budget


class Pace:
    """Keeps the pace of prompts. Times are seconds of one monotonic clock."""

    def __init__(self) -> None:
        self._next_at_s = -math.inf
        self._harmed_until_s = -math.inf

    def waits_s(self, budget: Budget, in_flight: int, prompt_tokens: float, now_s: float) -> float:
        """0: it may go now. Above: in how many seconds to ask again. Infinite: when the budget or what is in flight changes."""
        if in_flight >= budget.in_flight:
            return math.inf
        if budget.open:
            return 0.0
        reads_s = prompt_tokens * budget.prompt_token_s
        free_at_s = self._next_at_s if reads_s <= budget.slack_s else max(self._next_at_s, self._harmed_until_s)
        return max(0.0, free_at_s - now_s)

    def went(self, budget: Budget, prompt_tokens: float, now_s: float) -> None:
        """It was sent."""
        if budget.open:
            return
        reads_s = prompt_tokens * budget.prompt_token_s
        self._next_at_s = max(self._next_at_s, now_s) + reads_s / budget.reading_share
        if reads_s > budget.slack_s:
            self._harmed_until_s = now_s + reads_s / max(budget.harm_share, 1e-6)
