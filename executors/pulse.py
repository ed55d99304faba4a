"""Does an engine that says it is well still do anything? Some hang with their door open: /health answers, and nothing else."""

from __future__ import annotations

STALL_S = 300.0
"""Longer than the longest prompt takes to be read: a prompt is counted only once it was."""


class Pulse:
    """Beats with each answer, and with each token that the engine counts for whomever."""

    def __init__(self) -> None:
        self._tokens: float | None = None
        self._since: float | None = None
        self._answered = False

    def felt(self) -> None:
        """An answer came."""
        self._since, self._answered = None, True

    def quiet(self) -> bool:
        """Has no answer come since this was asked last? While some do, nobody need look at what the engine counts."""
        answered, self._answered = self._answered, False
        return not answered

    def rest(self) -> None:
        """It has nothing to do."""
        self._since = None

    def stopped(self, tokens: float | None, now: float) -> bool:
        """Has nothing come for so long, at `now` (monotonic seconds)? `tokens`: what it has counted; None where it does not say:
        of such an engine only the limits of its requests can tell."""
        if tokens is None or tokens != self._tokens or self._since is None:
            self._tokens, self._since = tokens, now
            return False
        return now - self._since >= STALL_S
