"""Whether drafts pay, by what the engine was seen to do with them and without: tokens a sequence a second, step by step.

It begins without drafts, to learn what a plain step takes, then tries them, and keeps them where they win. While they are on it
looks back at plain steps now and then; while they are off it tries them again after a while, a longer one each time.
"""

from __future__ import annotations

from typing import Literal

State = Literal["plain", "trying", "on", "checking", "off"]
LONGEST_WAIT_S = 2.0
"""For one answer of the service."""
_FIRST_WAIT_S = 0.25
_PLAIN_STEPS, _TRIED_STEPS, _SETTLING_STEPS, _STEPS_BETWEEN = 16, 32, 4, 1024
_MOST_MISSED = 8
"""Answers in a row that came too late or not at all: then it is not worth another wait."""
_WIN = 1.02
"""How much faster drafts must be than none."""
_FIRST_OFF_S, _LONGEST_OFF_S = 5.0, 600.0
_IDLE_S = 5.0
"""A gap between steps above this is an engine that had nothing to do."""


class Window:
    """Some steps: their tokens, and their seconds times sequences."""

    def __init__(self) -> None:
        self.steps = self.tokens = 0
        self.seconds = self.sequence_seconds = 0.0

    def add(self, seconds: float, sequences: int, tokens: int) -> None:
        """One step more."""
        self.steps += 1
        self.tokens += tokens
        self.seconds += seconds
        self.sequence_seconds += seconds * sequences

    @property
    def rate(self) -> float:
        """Tokens a sequence a second; 0 where nothing was seen."""
        return self.tokens / self.sequence_seconds if self.sequence_seconds > 0 else 0.0

    @property
    def step_s(self) -> float | None:
        """Seconds of a step on average."""
        return self.seconds / self.steps if self.steps else None


class Governor:
    """Says at each step whether to draft. `always`: measure, but never switch off (for experiments)."""

    def __init__(self, tokens: int, always: bool = False) -> None:
        self.state: State = "trying" if always else "plain"
        self.off_s = 0.0
        self.plain_rate = self.drafted_rate = 0.0
        self.plain_step_s: float | None = None
        self._tokens, self._always = tokens, always
        self._window = Window()
        self._since: float | None = None
        self._pause_s = _FIRST_OFF_S
        self._settled = self._missed = 0

    @property
    def drafting(self) -> bool:
        """Are drafts wanted now?"""
        return self._always or self.state in {"trying", "on"}

    @property
    def wait_s(self) -> float:
        """How long an answer may take: beyond all steps that it could save it cannot pay."""
        if self._always:
            return LONGEST_WAIT_S
        if self.plain_step_s is None:
            return _FIRST_WAIT_S
        return min(LONGEST_WAIT_S, max(0.001, self._tokens * self.plain_step_s))

    def step(self, now: float, seconds: float, sequences: int, tokens: int) -> None:
        """A step ended: it took `seconds`, the wait for its drafts included, and gave `tokens` to so many sequences.

        It counts towards what was wanted when it began; steps after an idle time are left out.
        """
        if self.state == "off":
            self._rest(now, min(seconds, _IDLE_S))
        if seconds > _IDLE_S or not sequences:
            return
        if self.state == "trying" and self._settled < _SETTLING_STEPS:
            self._settled += 1  # the first steps with drafts find the service's caches cold
            return
        self._window.add(seconds, sequences, tokens)
        self._judge(now)

    def answered(self, now: float, in_time: bool) -> None:
        """The service was asked."""
        self._missed = 0 if in_time else self._missed + 1
        if self._missed >= _MOST_MISSED and not self._always:
            self.drafted_rate = 0.0
            self._become("off", now)

    def _judge(self, now: float) -> None:
        window = self._window
        if self.state in {"plain", "checking"} and window.steps >= _PLAIN_STEPS:
            self.plain_rate, self.plain_step_s = window.rate, window.step_s
            if self.state == "plain":
                self._become("trying", now)
            else:
                self._decide(now)
        elif self.state == "trying" and window.steps >= _TRIED_STEPS:
            self.drafted_rate = window.rate
            self._decide(now)
        elif self.state == "on" and window.steps >= _STEPS_BETWEEN:
            self.drafted_rate = window.rate
            self._become("on" if self._always else "checking", now)
        elif self.state == "off" and window.steps >= _PLAIN_STEPS:
            self.plain_rate, self.plain_step_s = window.rate, window.step_s
            self._window = Window()

    def _decide(self, now: float) -> None:
        if self._always or self.drafted_rate > _WIN * self.plain_rate:
            self._pause_s = _FIRST_OFF_S
            self._become("on", now)
        else:
            self._become("off", now)

    def _rest(self, now: float, seconds: float) -> None:
        self.off_s += seconds
        if self._since is not None and now - self._since >= self._pause_s:
            self._pause_s = min(_LONGEST_OFF_S, 2 * self._pause_s)
            # What a plain step takes was watched all the while; without a single one there is nothing to compare with.
            self._become("trying" if self.plain_rate else "plain", now)

    def _become(self, state: State, now: float) -> None:
        self.state, self._since, self._window = state, now, Window()
        self._settled = self._missed = 0
