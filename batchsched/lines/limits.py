"""How much a request lets its engine write: which field says so at which endpoint, and how many answers it asks for.

One place for the checks of a file, for what may be in flight, and for telling answers that were cut. As OpenAI and vLLM read it:
each endpoint has fields of its own and passes over those of the others.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from batchsched.lines import CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES

COMPLETION_TOKENS = 16
"""What OpenAI's completions endpoint, and vLLM's, take where a request sets no limit."""
MOST = 2**53
"""Larger limits mean as much as this one does, and every database holds it."""


class Limited(Protocol):
    """The fields of a body that bound each answer, of whatever type they came; UNSET or None where they did not."""

    @property
    def max_tokens(self) -> Any: ...

    @property
    def max_completion_tokens(self) -> Any: ...

    @property
    def max_output_tokens(self) -> Any: ...


class Several(Protocol):
    """The fields of a body that ask for several answers."""

    @property
    def n(self) -> Any: ...

    @property
    def best_of(self) -> Any: ...


def limit_of(body: Limited, endpoint: str) -> tuple[str, int | None]:
    """The name of the field that limits an answer, and the limit in tokens; None where there is none."""
    if endpoint == EMBEDDINGS:
        return "max_tokens", 0
    if endpoint == RESPONSES:
        return "max_output_tokens", count(body.max_output_tokens)
    if endpoint == CHAT and body.max_completion_tokens is not None:
        return "max_completion_tokens", count(body.max_completion_tokens)
    if body.max_tokens is msgspec.UNSET:
        return "max_tokens", COMPLETION_TOKENS if endpoint == COMPLETIONS else None
    return "max_tokens", count(body.max_tokens)


def answers_of(body: Several, endpoint: str, prompts: int = 1) -> int:
    """How many answers a request asks for: `n`, times the prompts of a completions request that has several."""
    if endpoint == CHAT:
        return count(body.n) or 1
    if endpoint != COMPLETIONS:
        return 1
    return prompts * max(count(body.n) or 1, count(body.best_of) or 1)


def count(value: Any) -> int | None:
    """A number of tokens or answers; None where it is none."""
    return min(value, MOST) if type(value) is int and value >= 0 else None
