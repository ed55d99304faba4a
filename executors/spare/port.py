"""What a driver asks before it sends a request to an engine that others use too, and what it tells afterwards."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Protocol


class Answer(Enum):
    """May a request go now?"""

    GO = "now"
    LATER = "nothing may go now"
    PASS_BY = "this one has to wait; a shorter one may go"  # noqa: S105 - no password


class Gate(Protocol):
    """Between one driver and its engine. All of it is called from the event loop and never waits."""

    priority: int
    """That requests go with, where the engine takes one: behind all online ones."""

    def bind(self, on_room: Callable[[], None], push_out: Callable[[int], None]) -> None:
        """`on_room` is called when it is worth asking again; `push_out(n)` is to break off the n requests that were sent last."""
        ...

    def asks(self, prompt_tokens: float, answers: int = 1) -> Answer:
        """May a request go now? `prompt_tokens`: of all its prompts together. One for several answers is as many requests to the
        engine, and so is one with several prompts."""
        ...

    def enters(self, prompt_tokens: float, answers: int = 1, prompts: int = 1) -> int:
        """It goes: its ticket. `answers`: to all its prompts together."""
        ...

    def leaves(self, ticket: int, read: int = 0, written: int = 0) -> None:
        """It came back with so many tokens, or is gone without an answer (0)."""
        ...

    def lost_tokens(self, ticket: int) -> int:
        """About how many tokens the engine has computed for a request, its prompt included."""
        ...

    def idle(self, nothing_to_send: bool) -> None:
        """Has the driver something to send, if it may?"""
        ...
